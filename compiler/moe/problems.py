"""The GEMMs of an MoE layer: their sizes and formats on a tile, which its layout in DRAM follows."""

from ...rtl.spec.config import TileConfig
from ...rtl.spec.tensor_formats import TENSOR_FORMATS, TensorFormat
from ..gemm import GemmProblem
from ..layers import Workload
from ..numerics import DEFAULT, Numerics
from ..operands import k_unit, padded_k
from ..tiles.buffers import align
from .logits import term_products


def padded_width(intermediate: int, config: TileConfig, numerics: Numerics = DEFAULT) -> int:
    """``intermediate`` in whole column tiles, bus beats and blocks."""
    formats = numerics.formats
    return align(intermediate, max(config.cols, k_unit(config, formats.activations, formats.weights)))


def product_tiles(config: TileConfig, activations: TensorFormat) -> int:
    """Column tiles of products between two places in buffer A where a VECTOR may start to write them.

    Such a place is a multiple of ``cols`` bytes (a row of codes), of a group of ``lanes`` bytes and of a block.
    """
    row_bytes = max(config.lanes, config.cols)
    return max(1, row_bytes * 8 // activations.bits // config.cols, activations.block // config.cols)


def router_problem(workload: Workload, config: TileConfig, numerics: Numerics) -> GemmProblem:
    """Logits of all experts, in whole column tiles."""
    moe, plain = workload.moe, TENSOR_FORMATS["e4m3"]
    k = padded_k(moe.hidden, config, plain)
    if numerics.router_terms == 1 and numerics.formats.activations == plain:
        k = padded_k(moe.hidden, config, plain, numerics.formats.weights)  # the experts' x
    return GemmProblem(name="router", m=workload.rows, n=align(moe.experts, config.cols), k=k, layer_k=moe.hidden,
                       a=plain, b=plain, products=tuple(term_products(numerics.router_terms)))


def expert_problems(workload: Workload, config: TileConfig, numerics: Numerics,
                    rows: int) -> tuple[GemmProblem, GemmProblem]:
    """Gate and up together, and down, for blocks of at most ``rows`` tokens."""
    moe, x, weights = workload.moe, numerics.formats.activations, numerics.formats.weights
    width = padded_width(moe.intermediate, config, numerics)
    return (GemmProblem(name="gate_up", m=rows, n=2 * width, k=padded_k(moe.hidden, config, x, weights),
                        layer_k=moe.hidden, a=x, b=weights),
            GemmProblem(name="down", m=rows, n=moe.hidden, k=width, layer_k=moe.intermediate, a=x, b=weights))


def operand_pitch(config: TileConfig, problem: GemmProblem) -> int:
    """Groups between panels of the A operand of a problem."""
    return align(problem.a.bytes_of(problem.k), config.a_word_bytes) // config.lanes
