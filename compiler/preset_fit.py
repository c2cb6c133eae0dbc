"""Which preset tiles cannot run a layer with the default `Numerics`, and why: for `tilescore models`."""

import numpy as np

from ..rtl.spec.config import PRESETS, TileConfig, load_tile
from ..rtl.spec.errors import CompileError
from .feed_forward import MoELayer
from .layers import DecoderLayer, Layer, Workload
from .lowering.plan import choose_schedule
from .numerics import DEFAULT
from .routing import Routing
from .routing_loads import balanced


def preset_exceptions(layer: Layer) -> dict[str, str]:
    """{preset: reason}, empty when all presets run the layer, and so give the same bits.

    Asked of `auto` for a prefill of two softmax blocks: with more keys or fewer rows nothing needs more room.
    """
    found, workload = {}, Workload(layer=layer, tokens=2 * DEFAULT.softmax_block)
    for name in PRESETS:
        try:
            _find_schedule(workload, load_tile(name))
        except CompileError as error:
            found[name] = str(error)
    return found


def _find_schedule(workload: Workload, config: TileConfig) -> None:
    routing = None
    layer = workload.layer
    moe = layer.feed_forward if isinstance(layer, DecoderLayer) else layer
    if isinstance(moe, MoELayer):
        chosen = balanced(tokens=workload.rows, experts=moe.experts, top_k=moe.top_k, seed=0)
        routing = Routing(experts=moe.experts, chosen=chosen, weights=np.ones(chosen.shape, np.float32))
    choose_schedule(workload, config, routing=routing)
