"""From the sums of a block's steps to the term that the accumulator adds.

Steps are summed exactly; the sum of a block times its scales is one term. Scales are a significand and an exponent
(`scale_edge`), so the term is a product and a shift. A shift down rounds to nearest even, once for each term; the
rounding's increment is not added here but is the accumulator's carry. A significand of one, of blocks without scales or
with powers of two, skips the multiplier, which therefore is only as wide as the sums of the element pairs that come
with other scales.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..arith.round_fp32 import AccumulatorFlags
from ..spec.array_formats import FP32_SIGNIFICAND, TermShape, built_pairs
from ..spec.config import TileConfig
from ..spec.formats import step_bits
from .scale_edge import scale_operand_layout
from .timing import block_term

STEP_FLAGS = data.StructLayout({"nan": 1, "pinf": 1, "ninf": 1})
"""Specials among a step's products."""


class BlockTerm(wiring.Component):
    """Members
    -------
    valid, first : In(1)
        A step's sum is at ``sum``; it is the first of a block.
    enable : In(1 + LATENCY)
        Bit 0: in the next cycle the sum of a block's last step is at ``sum``; bit i: it was there i - 1 cycles before.
    sum : In(signed), flags : In(STEP_FLAGS)
        Of `DotProduct`.
    a_scale, b_scale : In(scale_operand_layout)
        Scales of the block whose last step's sum is at ``sum``; with FP32 scales one cycle earlier.
    value : Out(signed(acc_bits)), carry : Out(1), term_flags : Out(AccumulatorFlags)
        The term of the block whose last step was at ``sum`` `timing.block_term` cycles before, less ``carry``.
    """

    valid: Signal
    first: Signal
    enable: Signal
    sum: Signal
    flags: data.View
    a_scale: data.View
    b_scale: data.View
    value: Signal
    carry: Signal
    term_flags: data.View

    def __init__(self, config: TileConfig) -> None:
        self.config = config
        self.shape = TermShape(config)
        super().__init__({
            "valid": In(1), "first": In(1), "enable": In(1 + self.LATENCY),
            "sum": In(signed(step_bits(config.lanes, built_pairs(config)))), "flags": In(STEP_FLAGS),
            "a_scale": In(scale_operand_layout(config, "a")), "b_scale": In(scale_operand_layout(config, "b")),
            "value": Out(signed(config.acc_bits)), "carry": Out(1), "term_flags": Out(AccumulatorFlags)})

    @property
    def LATENCY(self) -> int:
        return block_term(self.config)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        shape = self.shape
        group = Signal(signed(shape.block_bits), reset_less=True)
        flags = Signal(STEP_FLAGS, reset_less=True)
        # Stage 1: the sum of the block's steps; beside it, from scales that arrive with the last step, their product.
        with m.If(self.valid):
            if shape.adds_steps:
                m.d.sync += [
                    group.eq(Mux(self.first, 0, group) + self.sum),
                    flags.eq(Mux(self.first, 0, flags.as_value()) | self.flags.as_value())]
            else:
                m.d.sync += [group.eq(self.sum), flags.eq(self.flags)]
        factor, exponent, nan = self._scale(m)
        specials: Value = Cat(flags.nan | nan, flags.pinf, flags.ninf)
        # Stage 2, only where scales have significands: the sum times the product of the scales. Last stage: the shift.
        product: Value = group
        if factor is not None:
            product, exponent, nan, specials = self._multiply(m, group, factor, exponent, nan, specials)
        self._shift(m, product, exponent, nan, specials)
        return m

    def _exponents(self) -> tuple[int, int]:
        """Smallest and largest sum of two exponents."""
        a, b = (self.shape.exponent_range(side) for side in "ab")
        return a[0] + b[0], a[1] + b[1]

    def _scale(self, m: Module) -> tuple[Value | None, Value, Value]:
        """Product of the significands (None if there are none), sum of the exponents, NaN; with the block's sum."""
        a, b, shape = self.a_scale, self.b_scale, self.shape
        low, high = self._exponents()
        exponent = Signal(range(low, high + 2), reset_less=True)
        nan = Signal(name="scale_nan", reset_less=True)
        if not shape.fp32:
            factor = None
            if shape.factor_bits:
                factor = Signal(shape.factor_bits, reset_less=True)
            with m.If(self.enable[1]):
                m.d.sync += [exponent.eq(a.exponent + b.exponent), nan.eq(a.nan | b.nan)]
                if factor is not None:
                    m.d.sync += factor.eq(a.significand * b.significand)
            return factor, exponent, nan
        # Two stages: the product, then its rounding to 24 bits. These scales come one cycle earlier for it.
        product = Signal(2 * FP32_SIGNIFICAND, name="scales", reset_less=True)
        raw_exponent = Signal.like(exponent, name="raw_exponent", reset_less=True)
        raw_nan = Signal(reset_less=True)
        rounded = Signal(FP32_SIGNIFICAND + 1)
        factor = Signal(FP32_SIGNIFICAND, reset_less=True)
        low_bits = FP32_SIGNIFICAND - 1
        top = product[-1]
        kept = Mux(top, product[low_bits + 1:], product[low_bits:])
        guard = Mux(top, product[low_bits], product[low_bits - 1])
        sticky = product[:low_bits - 1].any() | (top & product[low_bits - 1])
        with m.If(self.enable[0]):
            m.d.sync += [
                product.eq(a.significand * b.significand), raw_exponent.eq(a.exponent + b.exponent),
                raw_nan.eq(a.nan | b.nan)]
        with m.If(self.enable[1]):
            m.d.sync += [
                nan.eq(raw_nan), factor.eq(Mux(rounded[-1], rounded[1:], rounded)),
                exponent.eq(raw_exponent + top + rounded[-1])]
        m.d.comb += rounded.eq(kept[:FP32_SIGNIFICAND] + (guard & (sticky | kept[0])))
        return factor, exponent, nan

    def _multiply(self, m: Module, group: Signal, factor: Value, exponent: Value, nan: Value,
                  specials: Value) -> tuple[Value, Value, Value, Value]:
        shape = self.shape
        product = Signal(signed(shape.product_bits), reset_less=True)
        narrow = group[:shape.multiplied_bits].as_signed()
        multiplied = narrow * factor
        if shape.multiplied_bits < shape.block_bits:
            multiplied = Mux(factor == shape.factor_one, group << shape.factor_one.bit_length() - 1, multiplied)
        later = [Signal(value.shape(), name=name, reset_less=True) for value, name in (
            (exponent, "product_exponent"), (nan, "product_nan"), (specials, "product_specials"))]
        with m.If(self.enable[2]):
            m.d.sync += [product.eq(multiplied), later[0].eq(exponent), later[1].eq(nan), later[2].eq(specials)]
        return product, later[0], later[1], later[2]

    def _shift(self, m: Module, product: Value, exponent: Value, nan: Value, specials: Value) -> None:
        """Onto the accumulator's grid."""
        shape, bits = self.shape, self.config.acc_bits
        value = Signal(signed(bits), name="term", reset_less=True)
        carry = Signal(name="term_carry", reset_less=True)
        flags = Signal(AccumulatorFlags, name="flags_of_term", reset_less=True)
        taken = [flags.eq(specials)]
        if shape.rounds:
            shifted, guard, sticky = self._shift_down(m, product, exponent)
            taken += [
                value.eq(shifted), carry.eq(guard & (sticky | shifted[0])),
                flags.inexact.eq((guard | sticky) & ~nan)]
        else:
            taken.append(value.eq(product << exponent.as_unsigned()[:shape.most_shift.bit_length()]))
        with m.If(self.enable[-1]):
            m.d.sync += taken
        m.d.comb += [self.value.eq(value), self.carry.eq(carry), self.term_flags.eq(flags)]

    def _shift_down(self, m: Module, product: Value, exponent: Value) -> tuple[Value, Value, Value]:
        """The product at its highest place, shifted down to where it belongs; guard bit and the OR of those below it.

        A shift by more than the width leaves sign, guard and sticky bits as the longest shift does.
        """
        # A product with a 24-bit factor has 23 bits below the point.
        most, point = self.shape.most_shift, FP32_SIGNIFICAND - 1 if self.shape.fp32 else 0
        width = len(product) + most + 1
        levels = width.bit_length()
        down = Signal(range(most + point - self._exponents()[0] + 1))
        m.d.comb += down.eq(most + point - exponent)
        amount = Signal(levels)
        m.d.comb += amount.eq(Mux(down[levels:].any(), -1, down))
        current: Value = Cat(Const(0, 1 + most), product).as_signed()
        sticky: Value = Const(0, 1)
        for level in reversed(range(levels)):
            size = 1 << level
            bit = amount[level]
            lost = current[:size].any()
            next_value = Signal(signed(width), name=f"shifted_{level}")
            next_sticky = Signal(name=f"sticky_{level}")
            m.d.comb += [
                next_value.eq(Mux(bit, current >> size, current)), next_sticky.eq(sticky | (bit & lost))]
            current, sticky = next_value, next_sticky
        return current[1:], current[0], sticky
