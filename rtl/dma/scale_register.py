"""The beat of scale bytes that a DMA unit holds, and its wiring to the groups of a data beat.

Byte i of a row's scale bytes belongs to the group that `scale_layout.scale_groups` says; a data beat has at most
`scale_walk.beat_groups` of them, which lie side by side from `ScaleWalk.position` on.
"""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..spec.config import TileConfig
from ..spec.scale_layout import SCALE_BLOCKS, ScaleBlock, built_layouts
from .scale_walk import beat_groups


class ScaleReader(wiring.Component):
    """Load side: a beat of scale bytes, dealt out to data beats.

    Members
    -------
    fill, beat : In
        Keep `beat` from the next cycle on.
    scale, position : In
        Layout, and byte of the first scale byte of a data beat. It need not be aligned: rows of few groups may be
        packed closer than a full data beat's scale bytes.
    groups : Out(8 * beat_groups)
        The data beat's scale bytes, that of group g in byte g. Combinational; other groups' bytes have no meaning.
    """

    fill: Signal
    beat: Signal
    scale: Signal
    position: Signal
    groups: Signal

    def __init__(self, config: TileConfig) -> None:
        self.config = config
        super().__init__({
            "fill": In(1), "beat": In(8 * config.bus_bytes), "scale": In(3),
            "position": In(ceil_log2(config.bus_bytes)), "groups": Out(8 * beat_groups(config))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        count = beat_groups(self.config)
        held = Signal.like(self.beat)
        taken = Signal(8 * count)
        with m.If(self.fill):
            m.d.sync += held.eq(self.beat)
        m.d.comb += taken.eq(held >> (self.position << 3))
        with m.Switch(self.scale):
            for code in built_layouts(self.config):
                with m.Case(code):
                    m.d.comb += self.groups.eq(
                        Cat(taken.word_select(_byte_of(SCALE_BLOCKS[code], g), 8) for g in range(count)))
        return m


class ScaleCollector(wiring.Component):
    """Store side: scale bytes of data beats, collected to a beat.

    Members
    -------
    take, scale, position, starts, groups : In
        Collect the scale bytes of the groups that `starts` marks; `position` as from `ScaleWalk`.
    clear : In(1)
        Forget all bytes at the end of this cycle.
    beat, valid : Out
        The bytes collected by earlier cycles, and which they are.
    """

    take: Signal
    scale: Signal
    position: Signal
    starts: Signal
    groups: Signal
    clear: Signal
    beat: Signal
    valid: Signal

    def __init__(self, config: TileConfig) -> None:
        self.config = config
        count = beat_groups(config)
        super().__init__({
            "take": In(1), "scale": In(3), "position": In(ceil_log2(config.bus_bytes)), "starts": In(count),
            "groups": In(8 * count), "clear": In(1), "beat": Out(8 * config.bus_bytes),
            "valid": Out(config.bus_bytes)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        with m.If(self.clear):
            m.d.sync += self.valid.eq(0)
        with m.If(self.take), m.Switch(self.scale):
            for code in built_layouts(self.config):
                with m.Case(code):
                    self._collect(m, SCALE_BLOCKS[code])
        return m

    def _collect(self, m: Module, block: ScaleBlock) -> None:
        """A beat's bytes are a power of two and lie at a multiple of their number."""
        count = len(self.starts)
        step = _byte_of(block, count - 1) + 1
        for byte in range(self.config.bus_bytes):
            group = next(g for g in range(count) if _byte_of(block, g) == byte % step)
            with m.If((self.position >> ceil_log2(step) == byte // step) & self.starts[group]):
                m.d.sync += [self.beat.word_select(byte, 8).eq(self.groups.word_select(group, 8)),
                             self.valid[byte].eq(1)]


def _byte_of(block: ScaleBlock, group: int) -> int:
    """Which of a data beat's scale bytes is that of ``group``, or of the block that ``group`` is in."""
    return group // block.groups * block.size + min(group % block.groups, block.size - 1)
