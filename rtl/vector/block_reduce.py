"""Maximum or sum over blocks of a row, whether a block is a part of a row of lanes or spans several column tiles.

Lanes are combined by a tree, tiles by a chain: a stage combines what it has with what it had 2**n cycles before. So the
first tile of a block of 2**n tiles meets the last one, and the latency is the same for every size of block. Blocks of
an instruction that are larger than a segment, or smaller than the largest, skip stages by a multiplexer.
"""

from collections.abc import Sequence

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .block_latency import reduce_latency
from .delay_line import delay_line


def segment_lanes(cols: int, sizes: Sequence[int]) -> int:
    """Lanes that always belong to one block, if blocks have one of these sizes."""
    return min(cols, *sizes)


class BlockReduction(wiring.Component):
    """One row of ``cols`` values per cycle; the results of the block that each belongs to `reduce_latency` later.

    Parameters: ``cols``, ``sizes`` of blocks in elements (powers of two, ascending), ``total``: sum, not maximum.

    Members
    -------
    values : In(ArrayLayout(31, cols))
    size : In
        Index in ``sizes``, the same for all tiles of a block.
    first : In(1)
        With the first tile of a block (always, if blocks are not larger than a tile). Tiles of a block come in
        consecutive cycles.
    results : Out(ArrayLayout(31, segments))
        Of the block that each segment of `segment_lanes` lanes belongs to.
    """

    values: data.View
    size: Signal
    first: Signal
    results: data.View

    def __init__(self, cols: int, sizes: Sequence[int], *, total: bool = False) -> None:
        if list(sizes) != sorted(set(sizes)) or any(size & (size - 1) for size in sizes) or not sizes:
            raise ValueError(f"sizes must be ascending powers of two, not {list(sizes)}")
        self.cols, self.sizes, self.total = cols, tuple(sizes), total
        self.segments = cols // segment_lanes(cols, sizes)
        super().__init__({
            "values": In(data.ArrayLayout(31, cols)),
            "size": In(range(max(2, len(sizes)))),
            "first": In(1),
            "results": Out(data.ArrayLayout(31, self.segments)),
        })

    @property
    def LATENCY(self) -> int:
        return reduce_latency(self.cols, self.sizes)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        values: list[Value] = [self.values[c] for c in range(self.cols)]
        tags: Value = Cat(self.first, self.size)
        span = 1
        while span < self.cols:  # lanes
            values, tags = self._lanes(m, values, tags, span)
            span *= 2
        packed: Value = Cat(values)
        while span < max(self.sizes):  # tiles
            packed, tags = self._tiles(m, packed, tags, span)
            span *= 2
        held = Signal(len(packed), name="held", reset_less=True)
        with m.If(tags[0]):
            m.d.sync += held.eq(packed)
        m.d.comb += self.results.eq(held)
        return m

    def _combined(self, a: Value, b: Value) -> Value:
        return (a + b)[:31] if self.total else Mux(a > b, a, b)

    def _applies(self, tags: Value, span: int) -> Value:
        """Whether blocks are larger than ``span``."""
        larger = [index for index, size in enumerate(self.sizes) if size > span]
        return Cat(tags[1:] == index for index in larger).any()

    def _lanes(self, m: Module, values: list[Value], tags: Value, span: int) -> tuple[list[Value], Value]:
        """Combine neighbours: into half as many values inside a segment, else each with its partner."""
        always = span < segment_lanes(self.cols, self.sizes)
        applies = self._applies(tags, span)
        distance = 1 if always else span // segment_lanes(self.cols, self.sizes)
        later = []
        for i in range(0, len(values), 2) if always else range(len(values)):
            register = Signal(31, name=f"lanes_{2 * span}_{i}", reset_less=True)
            both = self._combined(values[i], values[i ^ distance])
            m.d.sync += register.eq(both if always else Mux(applies, both, values[i]))
            later.append(register)
        tags_later = Signal(len(tags), name=f"tags_{2 * span}", reset_less=True)
        m.d.sync += tags_later.eq(tags)
        return later, tags_later

    def _tiles(self, m: Module, packed: Value, tags: Value, span: int) -> tuple[Value, Value]:
        """Combine each tile with the one ``span // cols`` tiles later."""
        tiles = span // self.cols
        past = delay_line(m, Cat(tags, packed), tiles, name=f"tiles_{tiles}")
        own_tags, own = past[:len(tags)], past[len(tags):]
        register = Signal(len(packed), name=f"tiles_{2 * tiles}", reset_less=True)
        tags_later = Signal(len(tags), name=f"tags_{2 * span}", reset_less=True)
        both = Cat(self._combined(own.word_select(i, 31), packed.word_select(i, 31)) for i in range(len(packed) // 31))
        m.d.sync += [register.eq(Mux(self._applies(own_tags, span), both, own)), tags_later.eq(own_tags)]
        return register, tags_later
