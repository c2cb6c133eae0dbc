"""Fixed-point quadratic interpolator with coefficients from a read-only memory.

``offset + c0 + x*(c1 + x*c2)`` by Horner's rule, one multiplication per stage. Every shift truncates towards
minus infinity (no rounding adders: `tables` adds half a unit of the final result to c0). With c1 and c2
positive, the value can then only grow inside a segment, which is how exp2 is monotone by construction.
"""

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..spec import function_tables as tables
from . import latency


class QuadraticInterpolator(wiring.Component):
    """Evaluates one segment of a coefficient table.

    Parameters
    ----------
    segments : sequence of `tables.Segment`
        The table; its length is a power of two.
    x_bits : int
        Width of the position inside a segment, which stands for x = position / 2**x_bits.
    offset_bits : int
        Signed width of `offset`; `value` is one bit wider, or as wide as c0 requires.

    Members
    -------
    address : In(log2(len(segments)))
    x : In(x_bits)
    offset : In(signed(offset_bits))
        Added to the interpolated value, in units of 2**-27.
    value : Out(signed)
        In units of 2**-27.

    LATENCY 4: memory | slope | product | sum. One value per cycle.
    """

    LATENCY = latency.INTERPOLATE

    address: Signal
    x: Signal
    offset: Signal
    value: Signal

    def __init__(self, *, segments: tuple[tables.Segment, ...], x_bits: int, offset_bits: int) -> None:
        if len(segments) < 2 or len(segments) & (len(segments) - 1):
            raise ValueError(f"segments must be a power of two of them, not {len(segments)}")
        self.segments = segments
        self.x_bits = x_bits
        self.value_bits = max(offset_bits, tables.C0_BITS) + 1
        super().__init__({
            "address": In(ceil_log2(len(segments))), "x": In(x_bits), "offset": In(signed(offset_bits)),
            "value": Out(signed(self.value_bits))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        word_bits = tables.C0_BITS + tables.C1_BITS + tables.C2_BITS
        m.submodules.rom = rom = Memory(
            shape=word_bits, depth=len(self.segments), init=[segment.packed() for segment in self.segments])
        read = rom.read_port()
        c0 = read.data[:tables.C0_BITS].as_signed()
        c1 = read.data[tables.C0_BITS:-tables.C2_BITS].as_signed()
        c2 = read.data[-tables.C2_BITS:].as_signed()
        x_1, x_2 = (Signal(self.x_bits, name=f"x_{stage}", reset_less=True) for stage in (1, 2))
        offset = Signal.like(self.offset, reset_less=True)
        base_2, base_3 = (
            Signal(signed(self.value_bits), name=f"base_{stage}", reset_less=True) for stage in (2, 3))
        slope = Signal(signed(tables.C1_BITS + 1), reset_less=True)
        rise = Signal(signed(tables.C1_BITS + 1), reset_less=True)
        value = Signal(signed(self.value_bits), reset_less=True)
        m.d.comb += [read.addr.eq(self.address), self.value.eq(value)]
        m.d.sync += [
            x_1.eq(self.x),
            offset.eq(self.offset),
            # slope
            slope.eq(c1 + ((c2 * x_1) >> self.x_bits)),
            base_2.eq(c0 + offset),
            x_2.eq(x_1),
            # product
            rise.eq((slope * x_2) >> self.x_bits),
            base_3.eq(base_2),
            # sum
            value.eq(base_3 + rise),
        ]
        return m
