"""Maximum, largest magnitude and sum over the lanes and column tiles of a row.

Both are trees with a register per level, then one register that accumulates over the tiles of the row. The
maximum works on integer keys in the order of FP32 values: written values contain no other NaN than
0x7FC00000, whose key is above that of +inf, so that plain integer comparison lets a NaN win. The sum is in
fixed point, where the order does not matter; sums in FP32 would need as many adders of four times the depth
and could not accumulate in one cycle.
"""

from collections.abc import Callable, Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..arith.fixed import FIXED_BITS, FixedToFp32, Fp32ToFixed
from ..arith.pack import delay
from . import timing


def order_key(word: Value) -> Value:
    """32-bit unsigned key in the order of FP32 values: -0 below +0, 0x7FC00000 above +inf."""
    return Mux(word[31], ~word, Cat(word[:31], Const(1, 1)))


def word_of_key(key: Value) -> Value:
    """Inverse of `order_key`."""
    return Mux(key[31], Cat(key[:31], Const(0, 1)), ~key)


class RowReduction(wiring.Component):
    """Reduces one row of ``cols`` written values per cycle; LATENCY `timing.reduce_latency(cols)`.

    Members
    -------
    written : In(ArrayLayout(32, cols))
        FP32 words without other NaNs than 0x7FC00000.
    fixed : In(ArrayLayout(signed(48), cols)), special : In(cols)
        The same values from `Fp32ToFixed`, `Fp32ToFixed.LATENCY` cycles later.
    first, sum, magnitude : In(1)
        With ``written``: first tile of a row; the sum is wanted, not the maximum; the maximum is that of magnitudes.
    result : Out(32)
        Maximum or sum from the first tile up to the tile that entered LATENCY cycles ago.
    """

    written: data.View
    fixed: data.View
    special: Signal
    first: Signal
    sum: Signal
    magnitude: Signal
    result: Signal

    def __init__(self, cols: int) -> None:
        if cols < 2 or cols & (cols - 1):
            raise ValueError(f"cols must be a power of two from 2 up, not {cols}")
        self.cols = cols
        super().__init__(
            {
                "written": In(data.ArrayLayout(32, cols)),
                "fixed": In(data.ArrayLayout(signed(FIXED_BITS), cols)),
                "special": In(cols),
                "first": In(1),
                "sum": In(1),
                "magnitude": In(1),
                "result": Out(32),
            }
        )

    @property
    def LATENCY(self) -> int:
        return timing.reduce_latency(self.cols)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        levels = ceil_log2(self.cols)
        first_of_maximum = delay(m, self.first, levels, name="first_of_maximum")
        first_of_sum = delay(m, first_of_maximum, Fp32ToFixed.LATENCY, name="first_of_sum")

        words = [Cat(word[:31], word[31] & ~self.magnitude) for word in (self.written[c] for c in range(self.cols))]
        largest = self._tree(m, "largest", [order_key(word) for word in words], _larger)
        maximum = Signal(32, reset_less=True)
        m.d.sync += maximum.eq(Mux(first_of_maximum | (largest > maximum), largest, maximum))

        partial = self._tree(m, "partial", [self.fixed[c] for c in range(self.cols)], _sum)
        partial_special = delay(m, self.special.any(), levels, name="special")
        total = Signal(FIXED_BITS, reset_less=True)
        total_special = Signal(reset_less=True)
        m.d.sync += [
            total.eq(Mux(first_of_sum, 0, total) + partial),
            total_special.eq((~first_of_sum & total_special) | partial_special),
        ]
        m.submodules.round = rounder = FixedToFp32()
        m.d.comb += [rounder.fixed.eq(total), rounder.nan.eq(total_special)]

        wait = Fp32ToFixed.LATENCY + FixedToFp32.LATENCY
        maximum_late = delay(m, word_of_key(maximum), wait, name="maximum")
        use_sum = delay(m, self.sum, self.LATENCY, name="use_sum")
        m.d.comb += self.result.eq(Mux(use_sum, rounder.result, maximum_late))
        return m

    @staticmethod
    def _tree(
        m: Module, name: str, values: Sequence[Value], combine: Callable[[Value, Value], Value]
    ) -> Value:
        """Combine neighbours with a register per level."""
        level = 0
        while len(values) > 1:
            registers = [
                Signal(len(values[0]), name=f"{name}_{level}_{i}", reset_less=True)
                for i in range(len(values) // 2)
            ]
            for i, register in enumerate(registers):
                m.d.sync += register.eq(combine(values[2 * i], values[2 * i + 1]))
            values, level = registers, level + 1
        return values[0]


def _larger(a: Value, b: Value) -> Value:
    return Mux(a > b, a, b)


def _sum(a: Value, b: Value) -> Value:
    return a + b
