"""Heads: which a layer may have on a tile, whatever the schedule, and how many elements each is stored with."""

from ...rtl.config import TileConfig
from ...rtl.errors import CompileError, DoesNotFit
from ..formats import LayerFormat
from ..layers import AttentionLayer
from ..placement import align


def check_heads(layer: AttentionLayer, config: TileConfig) -> None:
    """Raise `CompileError` naming the layer, the size and what is allowed."""
    where, head_dim, cols, lanes = f"attention layer of {layer.model}", layer.head_dim, config.cols, config.lanes
    if layer.qk_norm == "full":
        raise CompileError(f"{where}: QK-norm over the whole projection is not built yet; allowed: none, head")
    if head_dim % lanes:
        raise CompileError(f"{where}: head_dim = {head_dim} must be a multiple of lanes = {lanes}")
    if head_dim > cols and ((head_dim // 2) % cols or (head_dim // 2) % lanes):
        raise CompileError(f"{where}: head_dim = {head_dim}: half a head must be a multiple of cols = {cols} and "
                           f"lanes = {lanes}")
    if head_dim <= cols and (cols % head_dim or head_dim & (head_dim - 1)):
        raise CompileError(f"{where}: head_dim = {head_dim}: a head that is not wider than the array must be a power "
                           f"of two that divides cols = {cols}")
    if layer.qk_norm == "head" and head_dim < cols:
        raise CompileError(f"{where}: QK-norm needs head_dim of at least cols = {cols}, got {head_dim}")
    if layer.qk_norm == "head" and head_dim // cols > config.stat_bank_rows:
        raise DoesNotFit(f"{where}: QK-norm of head_dim = {head_dim} needs {head_dim // cols} words of weights in a "
                         f"statistics bank, tile {config.name} has stat_bank_rows = {config.stat_bank_rows}")


def blocked_head(head_dim: int, formats: LayerFormat) -> int:
    """``head_dim`` in whole blocks of the activations and weights: no block holds values of two heads."""
    return align(head_dim, max(formats.activations.block, formats.weights.block, 1))


def mixed_head(head_dim: int, bus_bytes: int, formats: LayerFormat) -> int:
    """Elements from one head to the next in a row of ``mixed``, the core's output.

    Heads are stored one by one: codes and block scales of each are whole bus beats, or a power of two of them fills
    one. Codes of one scale per tensor start on beats.
    """
    x, bus = formats.activations, bus_bytes
    pitch = blocked_head(head_dim, formats)
    if not x.scaled:
        return align(pitch, bus)
    while any(size % bus and bus % size for size in (x.bytes_of(pitch), x.scale_bytes_of(pitch))):
        pitch += max(x.block, formats.weights.block)
    return pitch
