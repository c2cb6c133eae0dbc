"""Block scales at the edge of the array: from scale bytes to the operands that the processing elements multiply.

All kinds of scales become a significand and an exponent here, once for each row and column, and the headroom of the
instruction is added to the exponents of A. So an element needs no mode: it multiplies two significands, adds two
exponents, and shifts. A scale enters the array later than the data of its block's last step, by as many cycles as an
element needs for the sum of that step, instead of being delayed in every element.
"""

from amaranth.hdl import Cat, EnableInserter, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..arith.decode import DecodedElement
from ..arith.unpacked import UnpackFp32
from ..spec.array_formats import FP32_SIGNIFICAND, TermShape, built_scales
from ..spec.config import TileConfig
from ..spec.formats import E4M3, E8M0
from ..spec.isa import SPEC_BY_NAME, Scale
from .timing import SCALE_HELD, scale_read

HEADROOM_BITS = next(f.bits for f in SPEC_BY_NAME["MATMUL"].fields if f.name == "headroom")

_FP32_BYTES = 4
_FRACTION = FP32_SIGNIFICAND - 1


def scale_mode_layout(side: str) -> data.StructLayout:
    """What a k step says about scales. kind: `isa.Scale`; scaled: this side has some; first: first step of a block."""
    fields = {"kind": 2, "scaled": 1, "first": 1}
    return data.StructLayout(fields | ({"headroom": HEADROOM_BITS} if side == "a" else {}))


def scale_operand_layout(config: TileConfig, side: str) -> data.StructLayout:
    """A scale on its way through the array: significand * 2**exponent, with 24 bits * 2**(exponent - 23).

    nan: the scale is NaN or not legal; its significand is 0 where there is one.
    """
    shape = TermShape(config)
    low, high = shape.exponent_range(side)
    fields: dict = {"exponent": range(low, high + 1), "nan": 1}
    if shape.factor_bits:
        fields["significand"] = FP32_SIGNIFICAND if shape.fp32 else E4M3.significand_bits
    return data.StructLayout(fields)


class ScaleEdge(wiring.Component):
    """Parameters: ``config``, and ``side``, which is "a" or "b".

    An E4M3 scale counts without its sign. An FP32 scale counts without its sign; it must be below 2 (it is relative to
    its row's anchor), and one that is not is taken for NaN. Scales of an instruction without any, or of an operand
    without any, are 1.

    Members
    -------
    step : In(1)
        There was a step in the cycle before; scales move on with steps.
    take : In(1), byte : In(8), mode : In(scale_mode_layout)
        A group's scale byte as it leaves the memory, one cycle after the read. A block's scale is in its first group,
        an FP32 scale in its first four.
    scale : Out(scale_operand_layout)
        The scale of the block whose step was read `timing.scale_read` cycles before.
    """

    step: Signal
    take: Signal
    byte: Signal
    mode: data.View
    scale: data.View

    def __init__(self, config: TileConfig, *, side: str) -> None:
        self.config, self.side = config, side
        self.layout = scale_operand_layout(config, side)
        super().__init__({
            "step": In(1), "take": In(1), "byte": In(8), "mode": In(scale_mode_layout(side)),
            "scale": Out(self.layout)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fp32 = TermShape(self.config).fp32
        held = [Signal(8, name=f"byte_{i}", reset_less=True) for i in range(_FP32_BYTES if fp32 else 1)]
        mode = Signal(scale_mode_layout(self.side), reset_less=True)
        with m.If(self.take & self.mode.first):
            m.d.sync += [held[0].eq(self.byte), mode.eq(self.mode)]
        wait = scale_read(self.config) - SCALE_HELD - 1
        steps = [self.step]
        for stage in range(1, wait + 2):
            steps.append(Signal(name=f"step_{stage}"))
            m.d.sync += steps[-1].eq(steps[-2])
        chosen = Signal(self.layout, reset_less=True)
        with m.If(steps[1]):
            m.d.sync += [chosen[name].eq(value) for name, value in self._of_one_byte(held[0], mode).items()]
        if fp32:
            self._collect(m, held)
            chosen = self._of_four_bytes(m, held, mode, chosen, steps[1])
        for stage in range(wait):
            later = Signal(self.layout, name=f"scale_{stage + 1}", reset_less=True)
            with m.If(steps[2 + stage]):
                m.d.sync += later.eq(chosen)
            chosen = later
        m.d.comb += self.scale.eq(chosen)
        return m

    def _of_one_byte(self, byte: Value, mode: data.View) -> dict[str, Value | int]:
        """The scale, or 1 where there is none of one byte."""
        scales, shape = built_scales(self.config), TermShape(self.config)
        significand: Value | int = shape.factor_one
        exponent: Value | int = 0
        nan: Value | int = 0
        if Scale.E8M0 in scales:
            power = mode.scaled & (mode.kind == Scale.E8M0)
            exponent = Mux(power, -byte, exponent)
            nan = Mux(power, byte == E8M0.nan_codes[0], nan)
        if Scale.E4M3 in scales:
            decoded = DecodedElement(byte, E4M3)
            code = mode.scaled & (mode.kind == Scale.E4M3)
            up = FP32_SIGNIFICAND - E4M3.significand_bits if shape.fp32 else 0
            significand = Mux(code, Mux(decoded.nan, 0, decoded.significand) << up, significand)
            exponent = Mux(code, decoded.shift + (_FRACTION - up if shape.fp32 else 0), exponent)
            nan = Mux(code, decoded.nan, nan)
        fields: dict[str, Value | int] = {"exponent": exponent, "nan": nan}
        if self.side == "a":
            fields["exponent"] = exponent + mode.headroom
        if shape.factor_bits:
            fields["significand"] = significand
        return fields

    def _collect(self, m: Module, held: list[Signal]) -> None:
        """Take the bytes of the groups after a block's first."""
        count = Signal(range(_FP32_BYTES + 1))
        with m.If(self.take):
            with m.If(self.mode.first):
                m.d.sync += count.eq(1)
            with m.Elif(count != _FP32_BYTES):
                m.d.sync += count.eq(count + 1)
            for i in range(1, _FP32_BYTES):
                with m.If(~self.mode.first & (count == i)):
                    m.d.sync += held[i].eq(self.byte)

    def _of_four_bytes(self, m: Module, held: list[Signal], mode: data.View, other: data.View,
                       enable: Signal) -> data.View:
        """The FP32 scale where there is one, else ``other``."""
        unpack = UnpackFp32()
        m.submodules.unpack = EnableInserter(enable)(unpack)
        m.d.comb += unpack.value.eq(Cat(held))
        here = Signal()
        headroom = Signal(HEADROOM_BITS, reset_less=True)
        illegal = Signal()
        result = Signal(self.layout, name="result")
        fields = unpack.unpacked
        with m.If(enable):
            m.d.sync += here.eq(mode.scaled & (mode.kind == Scale.FP32))
            if self.side == "a":
                m.d.sync += headroom.eq(mode.headroom)
        m.d.comb += [
            illegal.eq(fields.is_nan | fields.is_inf | (~fields.is_zero & (fields.exponent > 0))),
            result.eq(other),
        ]
        with m.If(here):
            m.d.comb += [
                result.significand.eq(Mux(illegal, 0, fields.significand)),
                result.exponent.eq(Mux(illegal, 0, fields.exponent + headroom)), result.nan.eq(illegal)]
        return result
