"""An operand buffer: the chain of its slices and the ports that reach every slice."""

from typing import Any

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, Signature
from amaranth.utils import ceil_log2

from ..lib.cells import place
from ..lib.tree import tree_sum
from ..spec.config import TileConfig
from .operand_edge import a_step_layout, b_step_layout
from .operand_slice import A_SLICE_KEY, B_SLICE_KEY, OperandSlice, slice_ports
from .pe import a_operand_layout, b_operand_shape
from .scale_edge import scale_operand_layout


def operand_ports(config: TileConfig, buffer: str) -> dict:
    """Ports of the units other than the array.

    The members of `slice_ports`, and ``slice``, the number of the slice that is meant.
    """
    slice_bits = ceil_log2(config.rows if buffer == "a" else config.cols)
    return {name: In(Signature({**port.members, "slice": Out(slice_bits)}))
            for name, port in slice_ports(config, buffer).items()}


class OperandBuffer(wiring.Component):
    """Buffer A (one slice per array row) or B (one per column).

    Parameters: ``config``, and ``buffer``, which is "a" or "b". Addresses and timing are those of
    `OperandSlice`.

    Members
    -------
    step : In(a_step_layout or b_step_layout)
        A k step, as slice 0 sees it; slice i sees it i cycles later.
    operand : Out, one per slice; scale : Out, likewise, only with block scales
    load, vec, store
        See `operand_ports`; ``vec`` and ``store`` are A's.
    conflict : Out(1)
        Two reads or two writes of this cycle are in the same bank of the same slice.
    ev_group_reads : Out
        Groups that the array read in the cycle before.
    """

    step: data.View
    operand: list
    scale: list
    load: Any
    vec: Any
    store: Any
    conflict: Signal
    ev_group_reads: Signal

    def __init__(self, config: TileConfig, *, buffer: str) -> None:
        if buffer not in ("a", "b"):
            raise ValueError(f"buffer must be 'a' or 'b', not {buffer!r}")
        self.config = config
        self.buffer = buffer
        self.slices = config.rows if buffer == "a" else config.cols
        layout = a_step_layout(config) if buffer == "a" else b_step_layout(config)
        operand = a_operand_layout(config) if buffer == "a" else b_operand_shape(config)
        super().__init__({
            "step": In(layout), "operand": Out(operand).array(self.slices), **operand_ports(config, buffer),
            **({"scale": Out(scale_operand_layout(config, buffer)).array(self.slices)} if config.scales else {}),
            "conflict": Out(1), "ev_group_reads": Out(range(self.slices + 1)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        key = A_SLICE_KEY if self.buffer == "a" else B_SLICE_KEY
        slices = [place(m, f"slice{i}", lambda: OperandSlice(self.config, buffer=self.buffer), key, platform)
                  for i in range(self.slices)]
        step: Value | data.View = self.step
        for i, cell in enumerate(slices):
            m.d.comb += [
                cell.step_in.eq(step),
                self.operand[i].eq(cell.operand),
            ]
            if self.config.scales:
                m.d.comb += self.scale[i].eq(cell.scale)
            self._request(m, "load", cell, i)
            step = cell.step_out
        m.d.comb += self.conflict.eq(Cat(cell.conflict for cell in slices).any())
        m.d.sync += self.ev_group_reads.eq(tree_sum(cell.reading for cell in slices))
        if self.buffer == "a":
            self._vec_and_store(m, slices)
        return m

    def _vec_and_store(self, m: Module, slices: list) -> None:
        chosen = [Signal.like(self.store.slice, name=f"store_slice_{i}", reset_less=True) for i in (1, 2)]
        m.d.sync += [chosen[0].eq(self.store.slice), chosen[1].eq(chosen[0])]
        for i, cell in enumerate(slices):
            self._request(m, "vec", cell, i)
            self._request(m, "store", cell, i)
        with m.Switch(chosen[1]):
            for i, cell in enumerate(slices):
                with m.Case(i):
                    m.d.comb += [self.store.data.eq(cell.store.data), self.store.scales.eq(cell.store.scales)]

    def _request(self, m: Module, name: str, cell: OperandSlice, i: int) -> None:
        """Send what ``name`` asks for to slice ``i``, with its valid or en only if the slice is meant."""
        port, target = getattr(self, name), getattr(cell, name)
        for field, member in slice_ports(self.config, self.buffer)[name].members.items():
            if member.flow == Out:
                value = getattr(port, field)
                m.d.comb += getattr(target, field).eq(
                    value & (port.slice == i) if field in ("valid", "en") else value)
