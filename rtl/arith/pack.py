"""Shared pieces of the arithmetic pipelines: leading-zero count, final rounding to FP32, delay line."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, ValueCastable
from amaranth.utils import ceil_log2

from ..spec.formats import FP32_INF, FP32_NAN


def count_leading_zeros(m: Module, value: Value, *, name: str = "lzc") -> Value:
    """Number of zero bits above the highest set bit of `value`, 0 to width - 1; unspecified if no bit is set.

    A balanced tree of intermediate signals in `m`: an expression that is used twice would be emitted twice
    per level.
    """
    padding = 2 ** ceil_log2(len(value)) - len(value)
    bits = Cat(Const(0, padding), value) if padding else value
    some: list[Value] = [bits[i] for i in range(len(bits))]
    counts: list[Value] = [Const(0, 0)] * len(some)
    for level in range(ceil_log2(len(some))):
        any_next, count_next = [], []
        for pair in range(len(some) // 2):
            high, low = 2 * pair + 1, 2 * pair
            some_signal = Signal(name=f"{name}_some_{level}_{pair}")
            count_signal = Signal(level + 1, name=f"{name}_count_{level}_{pair}")
            m.d.comb += [
                some_signal.eq(some[high] | some[low]),
                count_signal.eq(
                    Mux(some[high], Cat(counts[high], Const(0, 1)), Cat(counts[low], Const(1, 1)))),
            ]
            any_next.append(some_signal)
            count_next.append(count_signal)
        some, counts = any_next, count_next
    return counts[0]


def round_magnitude(m: Module, exponent: Value, significand: Value, guard: Value, sticky: Value) -> Value:
    """31-bit FP32 magnitude from unrounded parts; nearest even, overflow to infinity.

    `exponent` (unsigned) is 0 for a subnormal result and otherwise the exponent field minus 1: the leading
    bit of the 24-bit `significand` adds that 1, and a carry out of the rounding does the same. `guard` is the
    first bit below the significand, `sticky` the OR of all bits below that.
    """
    packed = Signal(23 + len(exponent) + 1, name="packed")
    magnitude = Signal(31, name="rounded")
    increment = guard & (sticky | significand[0])
    m.d.comb += [
        packed.eq(Cat(Const(0, 23), exponent) + significand + increment),
        magnitude.eq(Mux(packed[23:] >= 255, FP32_INF, packed)),
    ]
    return magnitude


def select_special(magnitude: Value, sign: Value, *, nan: Value, infinite: Value) -> Value:
    """FP32 word: `magnitude` with `sign`, or infinity with `sign`, or the canonical NaN."""
    word = Mux(infinite, Cat(Const(FP32_INF, 31), sign), Cat(magnitude, sign))
    return Mux(nan, Const(FP32_NAN, 32), word)


def delay(m: Module, value: ValueCastable | Value, cycles: int, *, name: str) -> Value:
    """`value`, `cycles` clock cycles later."""
    current = Value.cast(value)
    for stage in range(1, cycles + 1):
        register = Signal(current.shape(), name=f"{name}_{stage}", reset_less=True)
        m.d.sync += register.eq(current)
        current = register
    return current
