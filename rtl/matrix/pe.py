"""Processing element: dot product -> group term -> accumulator -> shadow register.

Results leave through the shadow registers of a column, which form a chain downwards, while the accumulators
already work on the next result tile. A tile's values are captured row after row, one cycle apart, because
operands reach lower rows later; the chain starts to shift when the bottom row has captured. With tiles as
short as ``rows`` cycles row 0 captures its next value in the very cycle in which the chain starts. A captured
value is therefore *held* until the next start. A second shadow register per PE was rejected: 68 registers to
save one.
"""

from itertools import pairwise
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Shape, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..arith.dot import DotProduct
from ..arith.dot_at_once import DotAtOnce
from ..arith.lane_format import lane_format
from ..arith.round_fp32 import AccumulatorFlags
from ..lib.cells import CellLibrary
from ..spec.array_formats import TermShape, built_pairs
from ..spec.config import TileConfig
from .block_term import BlockTerm
from .scale_edge import scale_operand_layout
from .timing import block_term

PE_KEY = "tilescore_pe"
"""Name of the PE's module in the Verilog."""


def tags_layout(config: TileConfig) -> data.StructLayout:
    """What travels with an A group. Not valid: ignore the group. first: the accumulator starts from zero with this
    block, last: capture the result. With block scales, also whether the step is its block's first and last.
    """
    fields = {"valid": 1, "first": 1, "last": 1}
    return data.StructLayout(fields | ({"block_first": 1, "block_last": 1} if config.scales else {}))


def b_operand_shape(config: TileConfig) -> Shape | data.ArrayLayout:
    """A B group as it travels through the array."""
    return lane_format(config, "b").operand_shape(config.lanes)


def a_operand_layout(config: TileConfig) -> data.StructLayout:
    """An A group as it travels through the array, and its tags."""
    return data.StructLayout({
        "data": lane_format(config, "a").operand_shape(config.lanes), "tags": tags_layout(config)})


def partial_layout(config: TileConfig) -> data.StructLayout:
    """An exact accumulator: value in units that its instruction decides, modulo 2**acc_bits, and its sticky flags."""
    return data.StructLayout({"value": signed(config.acc_bits), "flags": AccumulatorFlags})


def scale_ports(config: TileConfig, side: str) -> dict:
    """Ports of a PE for the scales of side "a" or "b": none in a tile without block scales."""
    if not config.scales:
        return {}
    layout = scale_operand_layout(config, side)
    return {f"{side}_scale_in": In(layout), f"{side}_scale_out": Out(layout)}


class ProcessingElement(wiring.Component):
    """One cell of the array. No handshake; one group per cycle.

    Members
    -------
    a_in, a_out : a_operand_layout
        Passed on to the right, registered. All but ``tags.valid`` stays as it is while nothing valid comes.
    b_in, b_out : b_operand_shape
        Passed on downwards, registered, with a valid A group: rows that a step leaves out are the last ones.
    a_scale_in, a_scale_out, b_scale_in, b_scale_out : scale_operand_layout
        Block scales, passed on likewise; see `BlockTerm` for when. Only in tiles with block scales.
    drain_in, drain_out : partial_layout
        The shadow register of the PE above, and this one's. A group tagged *last* at ``a_in`` in cycle t has
        its result at ``drain_out`` from t + `timing.pe_latency` on.
    start, shift : In(1)
        ``shift``: take over ``drain_in`` at the end of the cycle, unless a value captured since the last
        ``start`` is held. ``start`` marks the first cycle of a drain and ends the hold.
    """

    a_in: data.View
    a_out: data.View
    b_in: Any
    b_out: Any
    a_scale_in: data.View
    a_scale_out: data.View
    b_scale_in: data.View
    b_scale_out: data.View
    drain_in: data.View
    drain_out: data.View
    start: Signal
    shift: Signal

    def __init__(self, config: TileConfig) -> None:
        self.config = config
        self.a_layout = a_operand_layout(config)
        self.partial_layout = partial_layout(config)
        super().__init__({
            "a_in": In(self.a_layout), "a_out": Out(self.a_layout),
            "b_in": In(b_operand_shape(config)), "b_out": Out(b_operand_shape(config)),
            "drain_in": In(self.partial_layout), "drain_out": Out(self.partial_layout),
            "start": In(1), "shift": In(1), **scale_ports(config, "a"), **scale_ports(config, "b"),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        with m.If(self.a_in.tags.valid):
            m.d.sync += [self.a_out.data.eq(self.a_in.data), self.b_out.eq(self.b_in)]
        kind = DotAtOnce if isinstance(platform, CellLibrary) and platform.dot_at_once else DotProduct
        m.submodules.dot = dot = kind(
            lanes=config.lanes, pairs=built_pairs(config), multiplier=config.multiplier)
        m.d.comb += [dot.a.eq(self.a_in.data), dot.b.eq(self.b_in)]
        tags = [self.a_in.tags]
        for stage in range(dot.LATENCY + block_term(config)):
            tags.append(Signal(tags_layout(config), name=f"tags_{stage + 1}"))
        for later in (self.a_out.tags, tags[1]):
            pass_tags(m, tags[0], later)
        for before, later in pairwise(tags[1:]):
            pass_tags(m, before, later)
        m.d.comb += dot.enable.eq(Cat(stage.valid for stage in tags))

        term, carry, term_flags = self._term(m, dot, tags)
        now = tags[-1]
        add = now.valid & now.block_last if config.scales else now.valid
        value = Signal(signed(config.acc_bits), reset_less=True)
        flags = Signal(AccumulatorFlags, reset_less=True)
        with m.If(add):
            m.d.sync += [
                value.eq(_sum(Mux(now.first, 0, value), term, carry)),
                flags.eq(Mux(now.first, 0, flags.as_value()) | term_flags),
            ]
        self._shadow(m, now.valid & now.last, value, flags)
        return m

    def _term(self, m: Module, dot: DotProduct, tags: list) -> tuple[Value, Value | None, Value]:
        """What the accumulator adds, its carry if there is one, and flags. ``tags``: by stage."""
        if not self.config.scales:
            return dot.sum, None, Cat(dot.nan, dot.pinf, dot.ninf)
        m.submodules.block_term = group = BlockTerm(self.config)
        summed = tags[dot.LATENCY]
        ends = Cat(stage.valid & stage.block_last for stage in tags[dot.LATENCY - 1:])
        with m.If(ends[0 if TermShape(self.config).fp32 else 1]):
            m.d.sync += [self.a_scale_out.eq(self.a_scale_in), self.b_scale_out.eq(self.b_scale_in)]
        m.d.comb += [
            group.enable.eq(ends),
            group.valid.eq(summed.valid), group.first.eq(summed.block_first), group.sum.eq(dot.sum),
            group.flags.eq(Cat(dot.nan, dot.pinf, dot.ninf)),
            group.a_scale.eq(self.a_scale_in), group.b_scale.eq(self.b_scale_in),
        ]
        return group.value, group.carry, group.term_flags.as_value()

    def _shadow(self, m: Module, last: Signal, value: Signal, flags: data.View) -> None:
        """Capture takes the accumulator's register, not its adder, and so comes one cycle after the last
        term.
        """
        capture = Signal()
        held = Signal()
        shadow = Signal(self.partial_layout, reset_less=True)
        m.d.sync += capture.eq(last)
        with m.If(capture):
            m.d.sync += [shadow.value.eq(value), shadow.flags.eq(flags), held.eq(1)]
        with m.Else():
            with m.If(self.shift & (self.start | ~held)):
                m.d.sync += shadow.eq(self.drain_in)
            with m.If(self.start):
                m.d.sync += held.eq(0)
        m.d.comb += self.drain_out.eq(shadow)


def pass_tags(m: Module, tags: data.View, later: data.View) -> None:
    """``later`` follows one cycle behind; of a step that is not valid, only that it is not."""
    m.d.sync += later.valid.eq(tags.valid)
    with m.If(tags.valid):
        m.d.sync += [later[name].eq(tags[name]) for name, _ in tags.shape() if name != "valid"]


def _sum(a: Value, b: Value, carry: Value | None) -> Value:
    """a + b + carry with one adder: the carry enters below the lowest bit."""
    if carry is None:
        return a + b
    return (Cat(Const(1, 1), a).as_signed() + Cat(carry, b).as_signed())[1:]
