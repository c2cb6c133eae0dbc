"""The scale of a block: from its largest magnitude to the stored bytes and the number its elements are divided by.

Two paths side by side. Power-of-two scales (MX) are an exponent and a comparison. The division form (NVFP4, FP32
scales) divides twice, each rounded to FP32: by the largest element, 6 or 448, and by operand z, the tensor scale or the
row's anchor. Both take `scale_latency`, so that instructions of all formats may follow each other.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..arith.block_scale import FP32_MIN_NORMAL_WORD, scale_field
from ..arith.e4m3 import DecodedE4M3
from ..arith.fp32_div import Fp32Div, Fp32DivConstant
from ..arith.fp32_mul import Fp32Mul
from ..arith.pack import delay
from ..arith.quantize import QuantizeE4M3
from ..arith.quotient import Divisor
from ..arith.unpacked import Unpacked, UnpackFp32
from ..spec.formats import E4M3_NAN_CODE, FP32_INF, FP32_NAN
from ..spec.isa import SPEC_BY_NAME, Quant, Scale
from ..spec.tensor_formats import QUANT_FORMATS
from .block_latency import (
    DIVISION_LATENCY,
    FIRST_DIVISION,
    POWER_LATENCY,
    SECOND_DIVISION,
    scale_kinds,
    scale_latency,
)
from .delay_line import delay_line

_BITS = {field.name: field.bits for field in SPEC_BY_NAME["VECTOR"].fields}

_E8M0_NAN = 0xFF


class BlockScale(wiring.Component):
    """One block per cycle; LATENCY `scale_latency`. Parameters: ``quantizers``, the block quantizers that are built.

    Members
    -------
    amax : In(31), z : In(32)
        Largest magnitude as FP32 bits; operand z, whose sign does not matter. An amax that is infinite or NaN, or a z
        that is zero, infinite or NaN, makes the block NaN.
    quant, rule : In
        `isa.Quant` and `isa.ScaleRule`.
    divisor, divisor4 : Out(Divisor)
        D of `sim/numerics/quantizers.py`; divisor4 is that of the maximum 4 (`Quant.NVFP4_46`).
    scale, scale4 : Out(32)
        Bytes to store, the first one lowest.
    nan : Out(1)
        The block is NaN: its elements become zero.
    """

    amax: Signal
    z: Signal
    quant: Signal
    rule: Signal
    divisor: data.View
    divisor4: data.View
    scale: Signal
    scale4: Signal
    nan: Signal

    def __init__(self, quantizers: tuple[Quant, ...]) -> None:
        if not quantizers or not all(QUANT_FORMATS[quant].block for quant in quantizers):
            raise ValueError(f"quantizers must be some with block scales, not {quantizers}")
        self.quantizers = tuple(quantizers)
        super().__init__({
            "amax": In(31), "z": In(32), "quant": In(_BITS["quant"]), "rule": In(_BITS["scale_rule"]),
            "divisor": Out(Divisor), "divisor4": Out(Divisor), "scale": Out(32), "scale4": Out(32), "nan": Out(1),
        })

    @property
    def LATENCY(self) -> int:
        return scale_latency(self.quantizers)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        kinds = scale_kinds(self.quantizers)
        bad = Signal()
        m.d.comb += bad.eq((self.amax >= FP32_INF) | ~self.z[:31].any() | self.z[23:31].all())
        nan = delay_line(m, bad, self.LATENCY, name="nan_delay")
        m.d.comb += self.nan.eq(nan)
        if kinds == {Scale.E8M0}:
            divisor, scale = self._power_of_two(m)
            m.d.comb += [self.divisor.eq(divisor), self.scale.eq(Mux(nan, _E8M0_NAN, scale))]
            return m
        quant = delay_line(m, self.quant, self.LATENCY, name="quant_delay")
        self._division(m, nan, quant)
        if Scale.E8M0 in kinds:
            divisor, scale = self._power_of_two(m)
            late = delay_line(m, Cat(scale, divisor.exponent), DIVISION_LATENCY - POWER_LATENCY, name="power_delay")
            with m.If(_is(quant, self.quantizers, Scale.E8M0)):
                m.d.comb += [
                    self.divisor.exponent.eq(late[8:].as_signed()),
                    self.divisor.significand.eq(1 << 23),
                    self.scale.eq(Mux(nan, _E8M0_NAN, late[:8])),
                ]
        return m

    # Power of two ---------------------------------------------------------------------------------------

    def _power_of_two(self, m: Module) -> tuple[data.View, Value]:
        """Divisor and delta, `POWER_LATENCY` cycles later."""
        built = tuple(quant for quant in self.quantizers if QUANT_FORMATS[quant].scale == Scale.E8M0)
        # 1: exponent field of the scale by the rule; 2: at most the anchor's, and how far below it.
        field = Signal(signed(10), reset_less=True)
        anchor = Signal(8, reset_less=True)
        m.d.sync += [
            field.eq(scale_field(m, self.amax, self.quant, self.rule, built=built, name="scale")),
            anchor.eq(self.z[23:31]),
        ]
        divisor = Signal(Divisor, reset_less=True)
        delta = Signal(8, reset_less=True)
        limited = Signal(signed(10))
        m.d.comb += limited.eq(Mux(field < 0, 0, Mux(field > anchor, anchor, field)))
        m.d.sync += [
            divisor.exponent.eq(limited - 127), divisor.significand.eq(1 << 23), delta.eq(anchor - limited),
        ]
        return divisor, delta

    # Division -------------------------------------------------------------------------------------------

    def _division(self, m: Module, nan: Value, quant: Value) -> None:
        # unpack | amax / 6 or / 448 | unpack | divide by z | NVFP4: cast to E4M3, unpack, times z | unpack. What is not
        # divided waits in delay lines until its partner is ready.
        z = self._unpack(m, "z", self.z & 0x7FFFFFFF)
        amax = self._unpack(m, "amax", self.amax)
        early = delay(m, self.quant, UnpackFp32.LATENCY, name="quant_early")
        fp32 = Quant.BLOCK128 in self.quantizers
        nvfp4 = any(QUANT_FORMATS[quant].scale == Scale.E4M3 for quant in self.quantizers)
        m.submodules.divide_largest = divide = Fp32DivConstant((6,) * nvfp4 + (448,) * fp32)
        m.d.comb += [divide.a.eq(amax), divide.by_448.eq(early == Quant.BLOCK128)]
        quotient = Signal(32)
        m.d.comb += quotient.eq(divide.result)
        if fp32:
            quant_first = delay_line(m, self.quant, FIRST_DIVISION, name="quant_first_delay")
            with m.If((quant_first == Quant.BLOCK128) & ~divide.result[23:].any()):
                m.d.comb += quotient.eq(FP32_MIN_NORMAL_WORD)
        first, second = self._unpack(m, "first", quotient), Value.cast(delay_line(
            m, z.as_value(), FIRST_DIVISION, name="z_first_delay"))
        m.submodules.divide_z = divide_z = Fp32Div()
        m.d.comb += [divide_z.a.eq(first), divide_z.b.eq(data.View(Unpacked, second))]
        if nvfp4:
            wait = SECOND_DIVISION + QuantizeE4M3.LATENCY - FIRST_DIVISION
            z_late = data.View(Unpacked, delay_line(m, second, wait, name="z_delay"))
            divisor, code = self._e4m3(m, "6", divide_z.result, z_late)
            m.d.comb += [self.divisor.eq(divisor), self.scale.eq(Mux(nan, E4M3_NAN_CODE, code))]
            if Quant.NVFP4_46 in self.quantizers:
                self._four(m, amax, data.View(Unpacked, second), z_late, nan)
        if fp32:
            wait = DIVISION_LATENCY - SECOND_DIVISION
            stored = delay_line(m, divide_z.result, wait, name="stored_delay")
            unpacked = delay_line(m, first.as_value(), DIVISION_LATENCY - FIRST_DIVISION - UnpackFp32.LATENCY,
                                  name="divisor_delay")
            own = data.View(Unpacked, unpacked)
            with m.If(quant == Quant.BLOCK128):
                m.d.comb += [
                    self.divisor.exponent.eq(own.exponent), self.divisor.significand.eq(own.significand),
                    self.scale.eq(Mux(nan, FP32_NAN, stored)),
                ]

    def _four(self, m: Module, amax: data.View, z: data.View, z_late: data.View, nan: Value) -> None:
        """The scale for a maximum of 4: a quarter, rounded to FP32, instead of a sixth."""
        m.submodules.quarter = quarter = Fp32Mul()
        m.d.comb += [quarter.a.eq(amax), quarter.b.eq(_constant(1.0, -2))]
        word = delay_line(m, quarter.result, Fp32DivConstant.LATENCY - Fp32Mul.LATENCY, name="quarter_delay")
        m.submodules.divide_z4 = divide = Fp32Div()
        m.d.comb += [divide.a.eq(self._unpack(m, "first4", word)), divide.b.eq(z)]
        divisor, code = self._e4m3(m, "4", divide.result, z_late)
        m.d.comb += [self.divisor4.eq(divisor), self.scale4.eq(Mux(nan, E4M3_NAN_CODE, code))]

    def _e4m3(self, m: Module, name: str, quotient: Value, z: data.View) -> tuple[data.View, Value]:
        """Divisor and code of an E4M3 scale: at least 2**-9 and, as the cast saturates, at most 448."""
        m.submodules[f"quantize_{name}"] = quantize = QuantizeE4M3()
        m.submodules[f"multiply_{name}"] = multiply = Fp32Mul()
        code = Signal(8, name=f"code_{name}")
        product = Signal(32, name=f"product_{name}")
        scale = Signal(Unpacked, name=f"scale_{name}", reset_less=True)
        m.d.comb += [quantize.value.eq(quotient), code.eq(Mux(quantize.code[:7].any(), quantize.code, 1))]
        m.d.sync += scale.eq(_unpacked_code(m, code, name))
        m.d.comb += [
            multiply.a.eq(scale), multiply.b.eq(z),
            product.eq(Mux(multiply.result[:31].any(), multiply.result, 1)),  # 2**-149
        ]
        unpacked = self._unpack(m, f"divisor_{name}", product)
        divisor = Signal(Divisor, name=f"e4m3_divisor_{name}")
        m.d.comb += [divisor.exponent.eq(unpacked.exponent), divisor.significand.eq(unpacked.significand)]
        wait = DIVISION_LATENCY - SECOND_DIVISION - QuantizeE4M3.LATENCY
        return divisor, delay_line(m, code, wait, name=f"code_delay_{name}")

    @staticmethod
    def _unpack(m: Module, name: str, word: Value) -> data.View:
        m.submodules[f"unpack_{name}"] = unpack = UnpackFp32()
        m.d.comb += unpack.value.eq(word)
        return unpack.unpacked


def _is(quant: Value, quantizers: tuple[Quant, ...], scale: Scale) -> Value:
    return Cat(quant == kind for kind in quantizers if QUANT_FORMATS[kind].scale == scale).any()


def _constant(significand: float, exponent: int) -> Value:
    """``significand * 2**exponent`` as `Unpacked`, 1 <= significand < 2."""
    return Unpacked.const({"exponent": exponent, "significand": int(significand * (1 << 23))}).as_value()


def _unpacked_code(m: Module, code: Value, name: str) -> Value:
    """`Unpacked` of a positive, finite E4M3 code that is not zero; combinational."""
    decoded = DecodedE4M3(code)
    leading = Signal(2, name=f"leading_{name}")
    normalised = Signal(4, name=f"normalised_{name}")
    with m.Switch(decoded.significand):
        for significand in range(1, 16):
            position = significand.bit_length() - 1
            with m.Case(significand):
                m.d.comb += [leading.eq(position), normalised.eq(significand << (3 - position))]
    exponent = Signal(signed(12), name=f"exponent_{name}")
    m.d.comb += exponent.eq(decoded.shift + leading - 9)
    return Cat(Const(0, 1), exponent, Const(0, 20), normalised, Const(0, 3))
