"""The GEMMs of an attention layer: their sizes and formats on a tile, which its layout in DRAM follows."""

from ...rtl.spec.config import TileConfig
from ..formats import LayerFormat, value_weights
from ..gemm import GemmProblem
from ..layers import Workload
from ..operands import WIDEST_BUS, padded_k
from .heads import mixed_head, rotated_head


def projection_problems(workload: Workload, config: TileConfig, formats: LayerFormat) -> dict[str, GemmProblem]:
    """The GEMMs of the q, k, v and output projections. The headroom of the output's block scales is made for heads as
    far apart as on any tile."""
    layer, rows, x, weights = workload.attention, workload.rows, formats.activations, formats.weights
    wv, width, cols = value_weights(formats), rotated_head(layer, config), layer.hidden
    hidden = padded_k(layer.hidden, config, x, weights, wv)
    mixed = padded_k(layer.heads * mixed_head(layer.head_dim, config.bus_bytes, formats), config, x, weights)
    return {
        "q": GemmProblem(name="q", m=rows, n=layer.heads * width, k=hidden, layer_k=layer.hidden, a=x, b=weights),
        "k": GemmProblem(name="k", m=rows, n=layer.kv_heads * width, k=hidden, layer_k=layer.hidden, a=x, b=weights),
        "v": GemmProblem(name="v", m=layer.kv_width, n=rows, k=hidden, layer_k=layer.hidden, a=wv, b=x),
        "out": GemmProblem(name="out", m=rows, n=cols, k=mixed, a=x, b=weights,
                           layer_k=layer.heads * mixed_head(layer.head_dim, WIDEST_BUS, formats))}
