"""The rules for what a VECTOR may quantize: formats that the tile builds, whole blocks, one z per row."""

from ...rtl.spec.config import TileConfig
from ...rtl.spec.errors import ProgramError
from ...rtl.spec.isa import Combine, Dest, Func, Instruction, Quant, Reduce, Source
from ...rtl.spec.tensor_formats import QUANT_FORMATS, built_quantizers


def check_codes(i: Instruction, config: TileConfig) -> None:
    """Raises `ProgramError` naming the field, its value and what is allowed."""
    quant, built = Quant(i.quant), built_quantizers(config)
    fmt = QUANT_FORMATS[quant]
    _need(quant in built, f"quant: tile {config.name} does not build {quant.name}; it has "
                          f"{', '.join(kind.name for kind in built)}")
    anchored = [kind.name for kind in built if QUANT_FORMATS[kind].anchored]
    _need(i.func != Func.ANCHOR or fmt.anchored,
          f"quant: func ANCHOR needs a format with anchors, got {quant.name}; tile {config.name} has "
          f"{', '.join(anchored) or 'none'}")
    if i.dest != Dest.A or not fmt.block:
        return
    elements = i.tiles * config.cols
    _need(elements % fmt.block == 0,
          f"tiles: rows of {elements} elements are not whole blocks of {fmt.block}, as quant {quant.name} needs")
    _need(i.combine == Combine.NONE,
          f"combine must be NONE with quant {quant.name}, which uses operand z, got {Combine(i.combine).name}")
    _need(i.z_kind in (Source.IMM, Source.ROW),
          f"z_kind must be IMM or ROW with quant {quant.name}, got {Source(i.z_kind).name}")
    _need(i.reduce == Reduce.NONE,
          f"reduce must be NONE with quant {quant.name}, whose codes have no value without their scale, got "
          f"{Reduce(i.reduce).name}")


def code_groups(i: Instruction, config: TileConfig) -> int:
    """Groups of A that one row of a VECTOR's codes fills."""
    return -(-QUANT_FORMATS[Quant(i.quant)].bytes_of(i.tiles * config.cols) // config.lanes)


def _need(ok: object, message: str) -> None:
    if not ok:
        raise ProgramError(message)
