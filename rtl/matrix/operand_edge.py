"""The edge of the array beside one operand slice: from a group out of the memory to the operand and its scale.

What all processing elements of a row or column need in the same form is made here, once: the codes of the element pair
that the instruction names become lanes (`arith.lane_format`), scale bytes become scales (`scale_edge`), and of a group
of B that lasts two steps each step gets its half.
"""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..arith.lane_format import lane_format
from ..spec.array_formats import built_pairs, is_expanded
from ..spec.config import TileConfig
from ..spec.formats import PAIRS
from ..spec.isa import Pair
from .pe import a_operand_layout, b_operand_shape, pass_tags, tags_layout
from .scale_edge import ScaleEdge, scale_mode_layout, scale_operand_layout
from .timing import operand_read


def a_step_layout(config: TileConfig) -> data.StructLayout:
    """A k step on its way down the A slices. ``rows``: how many slices, from this one on, take part in it.

    first: step of the result's first block, last: last step of the result. Only if there is a choice: ``pair``; only
    with block scales: ``mode``, and ``block_last`` in the last step of a block.
    """
    fields: dict = {"rows": range(config.rows + 1), "first": 1, "last": 1, "addr": config.a_addr_bits}
    if config.scales:
        fields["block_last"] = 1
    return data.StructLayout(fields | _mode_fields(config, "a"))


def b_step_layout(config: TileConfig) -> data.StructLayout:
    """A k step on its way along the B slices. Only with pairs whose B lasts two steps: ``half``, 1 in the second."""
    fields: dict = {"valid": 1, "addr": config.b_addr_bits}
    if has_halves(config):
        fields["half"] = 1
    return data.StructLayout(fields | _mode_fields(config, "b"))


def has_halves(config: TileConfig) -> bool:
    """Groups of B may last two steps."""
    return any(PAIRS[pair].b_steps == 2 for pair in built_pairs(config))


def _mode_fields(config: TileConfig, side: str) -> dict:
    fields: dict = {"pair": Pair.E5M2_E4M3.bit_length()} if len(built_pairs(config)) > 1 else {}
    return fields | ({"mode": scale_mode_layout(side)} if config.scales else {})


class OperandEdge(wiring.Component):
    """Parameters: ``config``, and ``side``, which is "a" or "b".

    Members
    -------
    step : In(a_step_layout or b_step_layout)
        The k step whose group is being read.
    group : In(8 * lanes), byte : In(8)
        The group and its scale byte as they leave the memory, one cycle later.
    operand : Out(a_operand_layout or b_operand_shape)
        `timing.operand_read` cycles after ``step``; its data stay until the next group.
    scale : Out(scale_operand_layout), only with block scales
        `timing.scale_read` cycles after ``step`` of a block's last step.
    """

    step: data.View
    group: Signal
    byte: Signal
    operand: Any
    scale: data.View

    def __init__(self, config: TileConfig, *, side: str) -> None:
        self.config = config
        self.is_a = side == "a"
        self.format = lane_format(config, side)
        self.step_layout = a_step_layout(config) if self.is_a else b_step_layout(config)
        super().__init__({
            "step": In(self.step_layout), "group": In(8 * config.lanes), "byte": In(8),
            "operand": Out(a_operand_layout(config) if self.is_a else b_operand_shape(config)),
            **({"scale": Out(scale_operand_layout(config, side))} if config.scales else {})})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        read = Signal(self.step_layout, reset_less=True)  # the step of the group that leaves the memory
        taken = Signal()
        present = [step_valid(self.step)]  # is there a step that many cycles before
        for stage in range(1, operand_read(config)):
            present.append(Signal(name=f"present_{stage}"))
            m.d.sync += present[-1].eq(present[-2])
        m.d.sync += taken.eq(self._reads(self.step))
        with m.If(present[0]):
            m.d.sync += read.eq(self.step)
        group = Signal(8 * config.lanes, reset_less=True)
        with m.If(taken):
            m.d.sync += group.eq(self.group)
        with m.If(present[1]):
            pair, half = self._selection(m, read)
        lanes: Value = Cat(
            self.format.expand(self._code(group, lane, pair, half), pair) for lane in range(config.lanes))
        if is_expanded(config):
            expanded = Signal(len(lanes), reset_less=True)
            with m.If(present[2]):
                m.d.sync += expanded.eq(lanes)
            lanes = expanded
        if self.is_a:
            m.d.comb += [Value.cast(self.operand.data).eq(lanes), self.operand.tags.eq(self._tags(m))]
        else:
            m.d.comb += Value.cast(self.operand).eq(lanes)
        if config.scales:
            m.submodules.scale_edge = scale_edge = ScaleEdge(config, side="a" if self.is_a else "b")
            m.d.comb += [
                scale_edge.step.eq(present[1]), scale_edge.take.eq(taken), scale_edge.byte.eq(self.byte),
                scale_edge.mode.eq(read.mode),
                self.scale.eq(scale_edge.scale)]
        return m

    def _reads(self, step: data.View) -> Value:
        return step_valid(step) if self.is_a else reads_group(self.config, step)

    def _selection(self, m: Module, read: data.View) -> tuple[Value, Value | None]:
        """Pair of the step whose group is in the register, and which half of it; None if there are no halves."""
        pairs = built_pairs(self.config)
        pair: Value = Const(pairs[0], 3)
        if len(pairs) > 1:
            pair = Signal.like(read.pair, name="pair", reset_less=True)
            m.d.sync += pair.eq(read.pair)
        if self.is_a or not has_halves(self.config):
            return pair, None
        half = Signal(reset_less=True)
        m.d.sync += half.eq(read.half)
        return pair, half

    def _code(self, group: Signal, lane: int, pair: Value, half: Value | None) -> Value:
        """What lane ``lane`` gets of the group: its byte, or one of the two codes in a byte of its half."""
        byte = group.word_select(lane, 8)
        if half is None:
            return byte
        lanes = self.config.lanes
        nibble = Mux(half, group.word_select(lanes + lane, 4), group.word_select(lane, 4))
        return Mux(pair == Pair.E4M3_E2M1, Cat(nibble, Const(0, 4)), byte)

    def _tags(self, m: Module) -> data.View:
        """The step's tags, as late as its data."""
        tags = Signal(tags_layout(self.config), name="tags_0")
        m.d.comb += [tags.valid.eq(self.step.rows != 0), tags.first.eq(self.step.first), tags.last.eq(self.step.last)]
        if self.config.scales:
            m.d.comb += [tags.block_first.eq(self.step.mode.first), tags.block_last.eq(self.step.block_last)]
        for stage in range(1, operand_read(self.config) + 1):
            later = Signal(tags_layout(self.config), name=f"tags_{stage}")
            pass_tags(m, tags, later)
            tags = later
        return tags


def step_valid(step: data.View) -> Value:
    """Is there a step? Of an A step: does the slice take part in one?"""
    return step.rows != 0 if "rows" in dict(step.shape()) else step.valid


def reads_group(config: TileConfig, step: data.View) -> Value:
    """Does a step of B read? The second step of a group does not: the group is still in its register."""
    return step.valid & ~step.half if has_halves(config) else step.valid
