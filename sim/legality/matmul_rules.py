"""The rules for what a MATMUL's operands may be: element pair, block scales, headroom, for one tile."""

from ...rtl.spec.config import TileConfig
from ...rtl.spec.errors import ProgramError
from ...rtl.spec.formats import BLOCK_ELEMENTS, PAIRS, SCALE_NAMES, SCALE_PAIRS, headroom
from ...rtl.spec.isa import Instruction, Pair, Scale


def check_elements(i: Instruction, config: TileConfig) -> None:
    """Raises `ProgramError` naming the field, its value and what is allowed."""
    pair, scale = Pair(i.pair), Scale(i.scale)
    spec = PAIRS[pair]
    _need(spec.build_name in config.formats,
          f"pair: tile {config.name} does not build {pair.name} (formats: {', '.join(config.formats)})")
    if scale == Scale.NONE:
        for field in ("a_scaled", "b_scaled", "block", "headroom"):
            _need(getattr(i, field) == 0, f"{field} must be 0 without block scales, got {getattr(i, field)}")
        return
    _need(SCALE_NAMES[scale] in config.scales,
          f"scale: tile {config.name} does not build {scale.name} (scales: {', '.join(config.scales) or 'none'})")
    partners = ", ".join(p.name for p in SCALE_PAIRS[scale])
    _need(pair in SCALE_PAIRS[scale], f"pair: {scale.name} scales go with {partners}, got {pair.name}")
    _need(i.a_scaled or i.b_scaled, f"a_scaled and b_scaled are both 0, but scale is {scale.name}")
    elements = spec.products_per_step(config.lanes) << i.block
    _need(elements in BLOCK_ELEMENTS[scale],
          f"block = {i.block} makes blocks of {elements} {spec.build_name} elements; those of {scale.name} scales have "
          f"{' or '.join(map(str, BLOCK_ELEMENTS[scale]))}")
    steps = 1 << i.block
    _need(i.k_steps % steps == 0, f"k_steps must be a multiple of the block's {steps} steps, got {i.k_steps}")
    blocks = i.k_steps // steps
    try:
        most = headroom(pair, scale, elements, blocks, config.acc_bits)
    except ValueError as error:
        raise ProgramError(f"k_steps: {error}") from None
    _need(i.headroom <= most,
          f"headroom must be at most {most} for {blocks} blocks in {config.acc_bits} bits, got {i.headroom}")


def b_groups(i: Instruction) -> int:
    """Groups of B that one column tile of a MATMUL reads."""
    return -(-i.k_steps // PAIRS[Pair(i.pair)].b_steps)


def _need(ok: object, message: str) -> None:
    if not ok:
        raise ProgramError(message)
