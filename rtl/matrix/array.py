"""The systolic array: ``rows`` x ``cols`` processing elements and the drain chains of the columns."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..lib.cells import place
from ..spec.config import TileConfig
from .pe import PE_KEY, ProcessingElement, a_operand_layout, b_operand_shape, partial_layout
from .scale_edge import scale_operand_layout


class SystolicArray(wiring.Component):
    """C[r, c] = sum over the groups of ``a[r]`` times those of ``b[c]``.

    ``a[r]`` must be r cycles behind ``a[0]`` and ``b[c]`` c cycles behind ``b[0]``: then row r's group meets
    column c's group of the same k step in PE (r, c).

    Members
    -------
    a : In(a_operand_layout), one per row; b : In(b_operand_shape), one per column
    a_scale, b_scale : In(scale_operand_layout), likewise
        Only in tiles with block scales; with the skew of a and b.
    start, shift : In(cols)
        Drain control of each column, see `ProcessingElement`.
    drain : Out(partial_layout), one per column
        Shadow register of the bottom row. Shifting makes row ``rows - 1 - i`` appear i cycles after the
        first.
    """

    a: list
    b: list
    start: Signal
    shift: Signal
    drain: list
    a_scale: list
    b_scale: list

    def __init__(self, config: TileConfig) -> None:
        self.config = config
        super().__init__({
            "a": In(a_operand_layout(config)).array(config.rows),
            "b": In(b_operand_shape(config)).array(config.cols),
            "start": In(config.cols), "shift": In(config.cols),
            "drain": Out(partial_layout(config)).array(config.cols),
            **({"a_scale": In(scale_operand_layout(config, "a")).array(config.rows),
                "b_scale": In(scale_operand_layout(config, "b")).array(config.cols)} if config.scales else {}),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        above: list = [None] * self.config.cols
        for r in range(self.config.rows):
            left = None
            for c in range(self.config.cols):
                pe = place(m, f"pe_{r}_{c}", lambda: ProcessingElement(self.config), PE_KEY, platform)
                m.d.comb += [
                    pe.a_in.eq(self.a[r] if left is None else left.a_out),
                    pe.b_in.eq(self.b[c] if above[c] is None else above[c].b_out),
                    pe.start.eq(self.start[c]),
                    pe.shift.eq(self.shift[c]),
                ]
                if self.config.scales:
                    m.d.comb += [
                        pe.a_scale_in.eq(self.a_scale[r] if left is None else left.a_scale_out),
                        pe.b_scale_in.eq(self.b_scale[c] if above[c] is None else above[c].b_scale_out),
                    ]
                if above[c] is not None:
                    m.d.comb += pe.drain_in.eq(above[c].drain_out)
                left = above[c] = pe
        for c, pe in enumerate(above):
            m.d.comb += self.drain[c].eq(pe.drain_out)
        return m
