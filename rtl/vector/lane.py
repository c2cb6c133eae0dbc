"""The arithmetic of one column: multiply, combine, function, multiply, quantize.

A rigid pipeline of identical cells without control of their own. Control signals and operands come from the
unit in the cycle in which they are used; `timing` names those cycles. The combine step is one adder for all
cases: with no operand z and for a maximum it adds -0, which leaves every value as it is, so that no result
has to wait in a delay line.
"""

from amaranth.hdl import Cat, Const, EnableInserter, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..arith.block_scale import anchor_word
from ..arith.fixed import FIXED_BITS, Fp32ToFixed
from ..arith.fp32_add import Fp32Add
from ..arith.fp32_max import Fp32Max
from ..arith.fp32_mul import Fp32Mul
from ..arith.functions import SpecialFunction
from ..arith.pack import delay
from ..arith.quantize import QuantizeFp8
from ..arith.unpacked import UnpackFp32
from ..spec.formats import E4M3, E5M2, FP32_NAN, FormatSpec
from ..spec.function_codes import Function
from ..spec.isa import SPEC_BY_NAME, Combine, Func, Quant
from ..spec.tensor_formats import QUANT_FORMATS
from . import timing

TWINS = {
    **{Func[twin.name]: twin for twin in Function},
    Func.SILU: Function.SIGMOID,
    Func.ANCHOR: Function.NONE,
}
"""What `SpecialFunction` computes for each function of the instruction.

SILU multiplies by u afterwards; for ANCHOR u itself is replaced by its anchor.
"""

_MINUS_ZERO = 0x80000000
_FUNC_BITS = {field.name: field.bits for field in SPEC_BY_NAME["VECTOR"].fields}


class VectorLane(wiring.Component):
    """One lane; one element per cycle. Times are lane cycles of `timing`, 0 for the data of x.

    Parameters: ``quantizers``, those of the tile (`tensor_formats.built_quantizers`).

    Members
    -------
    x, y, z, w : In(32)
        Words from the memories, one register (`OPERAND_LATENCY`) before their use.
    y_scalar, z_scalar, w_scalar : In(32)
        Words that replace them, in the cycle of use, when y_is_scalar, z_is_scalar, w_is_scalar is set:
        `LANE_Y_SELECT`, `LANE_Z_SELECT`, `LANE_W_SELECT`.
    combine : In(3)
        `isa.Combine`, in `LANE_Z_SELECT`.
    func : In(3), silu : In(1)
        `isa.Func` in `LANE_U`; whether it is SILU in `LANE_W_SELECT`.
    quant, scale_rule : In
        `isa.Quant` and `isa.ScaleRule` in `LANE_U`, for ANCHOR.
    quantized, e5m2 : In(1)
        In `LANE_CODE`: the written value is that of the code; the code is E5M2.
    active : In(1)
        Rows are in the pipe; otherwise every register keeps what it has. 1 if nothing drives it.
    out : Out(32)
        Result, in `LANE_OUT`.
    code : Out(8)
        Its E4M3 or E5M2 code, in `LANE_CODE`.
    written : Out(32)
        Written value, in `LANE_WRITTEN`.
    fixed : Out(48), special : Out(1)
        Written value on the grid of row sums, and whether it is infinite or NaN, in `LANE_FIXED`.
    """

    x: Signal
    y: Signal
    z: Signal
    w: Signal
    y_scalar: Signal
    z_scalar: Signal
    w_scalar: Signal
    y_is_scalar: Signal
    z_is_scalar: Signal
    w_is_scalar: Signal
    combine: Signal
    func: Signal
    silu: Signal
    quant: Signal
    scale_rule: Signal
    quantized: Signal
    e5m2: Signal
    active: Signal
    out: Signal
    code: Signal
    written: Signal
    fixed: Signal
    special: Signal

    def __init__(self, quantizers: tuple[Quant, ...] = (Quant.E4M3,)) -> None:
        self.quantizers = quantizers
        operands: dict[str, wiring.Member] = {"x": In(32)}
        for name in ("y", "z", "w"):
            operands |= {name: In(32), f"{name}_scalar": In(32), f"{name}_is_scalar": In(1)}
        super().__init__(
            {
                **operands,
                "combine": In(_FUNC_BITS["combine"]),
                "func": In(_FUNC_BITS["func"]),
                "silu": In(1),
                "quant": In(_FUNC_BITS["quant"]),
                "scale_rule": In(_FUNC_BITS["scale_rule"]),
                "quantized": In(1),
                "e5m2": In(1),
                "active": In(1, init=1),  # pyright: ignore[reportCallIssue]
                "out": Out(32),
                "code": Out(8),
                "written": Out(32),
                "fixed": Out(FIXED_BITS),
                "special": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        x = delay(m, self.x, timing.OPERAND_LATENCY, name="x_operand")
        y, z, w = (self._operand(m, name) for name in ("y", "z", "w"))

        t = self._multiply(m, "first", self._unpack(m, "x", x), self._unpack(m, "y", y))
        u = self._combine(m, t, z)

        m.submodules.function = function = SpecialFunction()
        m.d.comb += function.u.eq(self._anchored(m, u))
        with m.Switch(self.func):
            for func in TWINS:
                with m.Case(func):
                    m.d.comb += function.func.eq(TWINS[func])
        u_late = delay(m, u, timing.LANE_W_SELECT - timing.LANE_U, name="u")
        factor = self._unpack(m, "w", Mux(self.silu, u_late, w))
        out = self._multiply(m, "second", function.result, factor)
        m.d.comb += self.out.eq(out)
        self._write(m, out)
        return EnableInserter(self.active)(m)  # pyright: ignore[reportReturnType]

    def _operand(self, m: Module, name: str) -> Value:
        word = delay(m, getattr(self, name), timing.OPERAND_LATENCY, name=f"{name}_operand")
        return Mux(getattr(self, f"{name}_is_scalar"), getattr(self, f"{name}_scalar"), word)

    @staticmethod
    def _unpack(m: Module, name: str, word: Value) -> data.View:
        m.submodules[f"unpack_{name}"] = unpack = UnpackFp32()
        m.d.comb += unpack.value.eq(word)
        return unpack.unpacked

    @staticmethod
    def _multiply(m: Module, name: str, a: data.View, b: data.View) -> Value:
        m.submodules[f"multiply_{name}"] = multiply = Fp32Mul()
        m.d.comb += [multiply.a.eq(a), multiply.b.eq(b)]
        return multiply.result

    def _combine(self, m: Module, t: Value, z: Value) -> Value:
        m.submodules.maximum = maximum = Fp32Max()
        m.submodules.add = add = Fp32Add()
        a = Signal(32)
        b = Signal(32)
        m.d.comb += [maximum.a.eq(t), maximum.b.eq(z), a.eq(t), b.eq(z)]
        with m.Switch(self.combine):
            with m.Case(Combine.SUB):
                m.d.comb += b[31].eq(~z[31])
            with m.Case(Combine.RSUB):
                m.d.comb += a[31].eq(~t[31])
            with m.Case(Combine.NONE, Combine.MAX):
                m.d.comb += b.eq(_MINUS_ZERO)
        latency = Fp32Max.LATENCY
        use_maximum = delay(m, self.combine == Combine.MAX, latency, name="use_maximum")
        m.d.comb += [
            add.a.eq(Mux(use_maximum, maximum.result, delay(m, a, latency, name="t"))),
            add.b.eq(delay(m, b, latency, name="z_term")),
        ]
        return add.result

    def _anchored(self, m: Module, u: Value) -> Value:
        """u, or with ANCHOR the power of two that its row's scales are relative to."""
        built = tuple(quant for quant in self.quantizers if QUANT_FORMATS[quant].anchored)
        if not built:
            return u
        word = anchor_word(m, u, self.quant, self.scale_rule, built=built)
        return Mux(self.func == Func.ANCHOR, word, u)

    def _write(self, m: Module, out: Value) -> None:
        m.submodules.to_fixed = to_fixed = Fp32ToFixed()
        written = Signal(32, reset_less=True)
        out_late = delay(m, out, QuantizeFp8.LATENCY, name="out")
        code, value = self._code(m, out, E4M3)
        if Quant.E5M2 in self.quantizers:
            other, other_value = self._code(m, out, E5M2)
            code, value = Mux(self.e5m2, other, code), Mux(self.e5m2, other_value, value)
        m.d.comb += [
            self.code.eq(code),
            self.written.eq(written),
            to_fixed.value.eq(written),
            self.fixed.eq(to_fixed.fixed),
            self.special.eq(to_fixed.nan),
        ]
        m.d.sync += written.eq(Mux(self.quantized, value, out_late))

    @staticmethod
    def _code(m: Module, out: Value, spec: FormatSpec) -> tuple[Value, Value]:
        """Code of the result, and the code's value."""
        m.submodules[f"quantize_{spec.name}"] = quantize = QuantizeFp8(spec)
        m.d.comb += quantize.value.eq(out)
        return quantize.code, fp32_of_code(m, quantize.code, spec)


def fp32_of_code(m: Module, code: Value, spec: FormatSpec) -> Value:
    """FP32 word of a code of a format of 8 bits, combinational; the NaN is 0x7FC00000.

    An E5M2 infinity, which no cast makes, has no meaning.
    """
    word = Signal(32, name=f"decoded_{spec.name}")
    mantissa, bias = spec.mantissa_bits, 127 + spec.lsb_exponent
    fraction, exponent, sign = code[:mantissa], code[mantissa:7], code[7]
    with m.If(Cat(code == nan for nan in spec.nan_codes).any()):
        m.d.comb += word.eq(FP32_NAN)
    with m.Elif(exponent.any()):
        m.d.comb += word.eq(
            Cat(Const(0, 23 - mantissa), fraction, (exponent + (bias + mantissa - 1))[:8], sign)
        )
    with m.Else():
        m.d.comb += word[31].eq(sign)
        with m.Switch(fraction):
            for significand in range(1, 1 << mantissa):
                leading = significand.bit_length() - 1
                normalised = (significand << (23 - leading)) & 0x7FFFFF
                with m.Case(significand):
                    m.d.comb += word[:31].eq((bias + leading) << 23 | normalised)
    return word
