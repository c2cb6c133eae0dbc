"""Which preset tiles cannot run a layer of attention with the default `Numerics`, and why: for `tilescore models`."""

from ..rtl.config import PRESETS, load_tile
from ..rtl.errors import CompileError
from .auto import attention_schedule
from .layers import AttentionLayer, Workload
from .numerics import DEFAULT


def attention_exceptions(layer: AttentionLayer) -> dict[str, str]:
    """{preset: reason}, empty when all presets run the layer, and so give the same bits.

    Asked of `auto` for a prefill of two softmax blocks: with more keys or fewer rows nothing needs more room.
    """
    found, workload = {}, Workload(layer=layer, tokens=2 * DEFAULT.softmax_block)
    for name in PRESETS:
        try:
            attention_schedule(workload, load_tile(name))
        except CompileError as error:
            found[name] = str(error)
    return found
