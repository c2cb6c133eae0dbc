"""Special functions of an FP32 operand: exp2, reciprocal, sigmoid, reciprocal square root, or none.

exp2 and sigmoid share one path in base 2. With y = u (exp2) or u * log2(e) (sigmoid) in fixed point,

    log2 exp2(u)    = y
    log2 sigmoid(x) = min(y, 0) - log2(1 + 2**-|y|)

so that the sigmoid of a large negative number keeps its *relative* accuracy (1/(1 + 2**-y) computed as
written would need a division, and a table of the sigmoid itself loses it). The second form costs one more
table, which exp2 passes through an entry of zeros. The integer part of log2 is the exponent of the result and
the fraction goes through the exp2 table; a reciprocal enters that second interpolator directly. So does a
reciprocal square root, with two tables: for an operand m * 2**e, the lowest bit of e selects the one over
[1, 2) or the one over [2, 4), and the other bits are half the exponent. Subnormal operands are normalised
before, by the unpacker.

Results are `Unpacked`, with exponents far outside the FP32 range if need be: the multiplication that follows
rounds once, and silu(x) = sigmoid(x) * x is accurate even where the sigmoid itself is below the smallest FP32
number.

Rejected: sigmoid = 2**y * reciprocal(1 + 2**y), which needs a third multiplier and a normaliser in the
middle.

Accuracy, after the final rounding to FP32 (measured over all bf16 inputs, normal results, and asserted by the
tests): exp2, reciprocal, silu and rsqrt within a relative error of 2**-20. The unpacked rsqrt is within
1.25 * 2**-24 for every FP32 operand. exp2 and rsqrt are monotone, exp2 of an integer is exact, the reciprocal
of a power of two and rsqrt of a power of four are exact, sigmoid(0) = 1/2.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..spec import function_tables as tables
from ..spec.function_codes import Function
from . import latency
from .interpolate import QuadraticInterpolator
from .pack import delay
from .unpacked import Unpacked, UnpackFp32

_T_BITS = 10 + tables.Y_FRACTION_BITS
"""|y| for |u| below 512: 10 integer bits."""

_HUGE_FIELD = 127 + 9
"""From this exponent field on (|u| >= 512), exp2 is infinite or zero and sigmoid one or zero."""

_EXTRA_BITS = tables.FRACTION_BITS - tables.Y_FRACTION_BITS


class SpecialFunction(wiring.Component):
    """Function `func` of the FP32 word `u` (32), as `result` (Unpacked).

    ==============  ==========  ==========  ==========  ==========  ======
    function        -inf        -0          +0          +inf        NaN
    ==============  ==========  ==========  ==========  ==========  ======
    NONE            -inf        -0          +0          +inf        NaN
    EXP2            +0          1           1           +inf        NaN
    RECIPROCAL      -0          -inf        +inf        +0          NaN
    SIGMOID         +0          1/2         1/2         1           NaN
    RSQRT           NaN         -inf        +inf        +0          NaN
    ==============  ==========  ==========  ==========  ==========  ======

    NONE is exact. Finite |u| >= 512 gives what the infinity of its sign gives, for EXP2 and SIGMOID. RSQRT of
    every number below zero is NaN; its zeros are those of IEEE 754 rSqrt. LATENCY 11 for every function:
    unpack and multiply | fixed point | 4 of log2(1 + 2**-t) | 4 of exp2, reciprocal or rsqrt | pack.
    """

    LATENCY = latency.SPECIAL_FUNCTION

    u: Signal
    func: Value
    result: data.View

    def __init__(self) -> None:
        super().__init__({"u": In(32), "func": In(Function), "result": Out(Unpacked)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.unpack = unpack = UnpackFp32()
        m.d.comb += unpack.value.eq(self.u)
        func_1 = delay(m, self.func, 1, name="func_early")
        magnitude = self._fixed_magnitude(m)  # available after 2 cycles, like the next two
        func_2 = delay(m, func_1, 1, name="func")
        operand_2 = Signal(Unpacked, reset_less=True)
        huge_2 = delay(m, self.u[23:31] >= _HUGE_FIELD, 2, name="huge")
        m.d.sync += operand_2.eq(unpack.unpacked)

        m.submodules.softplus = softplus = QuadraticInterpolator(
            segments=tables.softplus_table(), x_bits=tables.SOFTPLUS_X_BITS,
            offset_bits=_T_BITS + 1 + _EXTRA_BITS)
        self._connect_softplus(m, softplus, magnitude, func_2, operand_2)

        latency = QuadraticInterpolator.LATENCY
        func_6 = delay(m, func_2, latency, name="func_main")
        operand = data.View(Unpacked, delay(m, operand_2, latency, name="operand"))
        huge = delay(m, huge_2, latency, name="huge_main")
        exponent = softplus.value >> _EXTRA_BITS
        m.submodules.main = main = QuadraticInterpolator(
            segments=tables.main_table(), x_bits=tables.MAIN_X_BITS, offset_bits=1)
        fraction_bits = tables.Y_FRACTION_BITS
        rsqrt = func_6 == Function.RSQRT.value
        direct = rsqrt | (func_6 == Function.RECIPROCAL.value)
        table = Cat(~rsqrt | operand.exponent[0], rsqrt)  # as ordered in `function_tables.main_table`
        m.d.comb += [
            main.address.eq(Mux(direct, Cat(operand.significand[16:23], table),
                                exponent[tables.MAIN_X_BITS:fraction_bits])),
            main.x.eq(Mux(direct, operand.significand[:16] << 1, exponent[:tables.MAIN_X_BITS])),
        ]
        prepared = Signal(Unpacked)
        self._prepare(m, prepared, func_6, operand, huge, exponent[fraction_bits:].as_signed())
        self._pack(m, delay(m, func_6, latency, name="func_pack"),
                   data.View(Unpacked, delay(m, prepared, latency, name="prepared")), main.value)
        return m

    def _fixed_magnitude(self, m: Module) -> Signal:
        """|y| in units of 2**-24, truncated, two cycles after the input; 512 for any |u| >= 512."""
        factor_bits = tables.LOG2E_FRACTION_BITS + 1
        one, log2e = Const(1 << tables.LOG2E_FRACTION_BITS, factor_bits), Const(tables.log2e(), factor_bits)
        product = Signal(24 + factor_bits, reset_less=True)
        field = Signal(8, reset_less=True)
        magnitude = Signal(_T_BITS, reset_less=True)
        factor = Mux(self.func == Function.SIGMOID, log2e, one)
        m.d.sync += [
            product.eq(Cat(self.u[:23], Const(1, 1)) * factor),
            field.eq(self.u[23:31]),
            # In a huge operand only the top bit is set: the sigmoid's correction is then exactly zero.
            magnitude.eq(Mux(field >= _HUGE_FIELD, 1 << (_T_BITS - 1),
                             product[23:] >> Mux(field < 135 - 63, 63, (135 - field)[:6]))),
        ]
        return magnitude

    @staticmethod
    def _connect_softplus(m: Module, softplus: QuadraticInterpolator, t: Signal, func: Value,
                          operand: data.View) -> None:
        """Select the segment of -log2(1 + 2**-t), and the part of log2 that is added to it."""
        negated = Signal(signed(_T_BITS + 1))
        sigmoid = func == Function.SIGMOID.value
        m.d.comb += negated.eq(-t)
        with m.If(~sigmoid | t[tables.Y_FRACTION_BITS + 5:].any()):
            m.d.comb += softplus.address.eq(tables.SOFTPLUS_ZERO_ENTRY)
        with m.Elif(t[28]):
            m.d.comb += [softplus.address.eq(Cat(t[23:28], Const(0b110, 3))), softplus.x.eq(t[3:23])]
        with m.Elif(t[27]):
            m.d.comb += [softplus.address.eq(Cat(t[21:27], Const(0b10, 2))), softplus.x.eq(t[1:21])]
        with m.Else():
            m.d.comb += [softplus.address.eq(t[20:27]), softplus.x.eq(t[:20])]
        with m.If(operand.sign):
            m.d.comb += softplus.offset.eq(negated << _EXTRA_BITS)
        with m.Elif(~sigmoid):
            m.d.comb += softplus.offset.eq(t << _EXTRA_BITS)

    @staticmethod
    def _prepare(m: Module, prepared: data.View, func: Value, operand: data.View, huge: Value,
                 exponent: Value) -> None:
        """Everything of the result except the interpolated significand."""
        m.d.comb += prepared.is_nan.eq(operand.is_nan)
        with m.Switch(func):
            with m.Case(Function.NONE.value):
                m.d.comb += prepared.eq(operand)
            with m.Case(Function.RECIPROCAL.value):
                m.d.comb += [
                    prepared.sign.eq(operand.sign),
                    prepared.exponent.eq(-1 - operand.exponent),
                    prepared.is_zero.eq(operand.is_inf),
                    prepared.is_inf.eq(operand.is_zero),
                ]
            with m.Case(Function.RSQRT.value):
                m.d.comb += [
                    prepared.sign.eq(operand.sign),
                    prepared.exponent.eq(-1 - (operand.exponent >> 1)),
                    prepared.is_zero.eq(operand.is_inf & ~operand.sign),
                    prepared.is_inf.eq(operand.is_zero),
                    prepared.is_nan.eq(operand.is_nan | (operand.sign & ~operand.is_zero)),
                ]
            with m.Default():
                m.d.comb += [
                    prepared.exponent.eq(exponent),
                    prepared.is_zero.eq(huge & operand.sign),
                    prepared.is_inf.eq(huge & ~operand.sign & (func == Function.EXP2.value)),
                ]

    def _pack(self, m: Module, func: Value, prepared: data.View, value: Value) -> None:
        """Insert the significand; a carry to 2.0 raises the exponent."""
        drop = tables.FRACTION_BITS - 23
        carry = value[tables.FRACTION_BITS + 1]
        result = Signal(Unpacked, reset_less=True)
        m.d.sync += result.eq(prepared)
        with m.If(func != Function.NONE.value):
            m.d.sync += [
                result.exponent.eq(prepared.exponent + carry),
                result.significand.eq(Mux(carry, 1 << 23, value[drop:drop + 24])),
            ]
        m.d.comb += self.result.eq(result)
