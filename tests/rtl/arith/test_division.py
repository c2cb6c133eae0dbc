# amaranth: UnusedElaboratable=no
"""FP32 division against numpy, and element codes of quotients against a division and a cast in numpy."""

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from tilescore.rtl.arith.fp32_div import Fp32Div, Fp32DivConstant
from tilescore.rtl.arith.pack import delay
from tilescore.rtl.arith.quotient import QuotientQuantizer
from tilescore.rtl.arith.unpacked import UnpackFp32
from tilescore.rtl.spec.formats import E2M1, E4M3, ELEMENTS, FP32_NAN
from tilescore.sim.numerics.element_codes import cast, code_values
from tilescore.tests.rtl.arith.streams import hard_fp32, run_pipeline


class DivideFp32(wiring.Component):
    """`UnpackFp32` for both operands, then `Fp32Div`."""

    LATENCY = UnpackFp32.LATENCY + Fp32Div.LATENCY

    def __init__(self):
        super().__init__({"a": In(32), "b": In(32), "result": Out(32)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.divide = divide = Fp32Div()
        for name in ("a", "b"):
            m.submodules[f"unpack_{name}"] = unpack = UnpackFp32()
            m.d.comb += [unpack.value.eq(getattr(self, name)), getattr(divide, name).eq(unpack.unpacked)]
        m.d.comb += self.result.eq(divide.result)
        return m


class DivideByConstant(wiring.Component):
    """`UnpackFp32`, then `Fp32DivConstant`."""

    LATENCY = UnpackFp32.LATENCY + Fp32DivConstant.LATENCY

    def __init__(self, divisors=(6, 448)):
        self.divisors = divisors
        super().__init__({"a": In(32), "by_448": In(1), "result": Out(32)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.divide = divide = Fp32DivConstant(self.divisors)
        m.submodules.unpack = unpack = UnpackFp32()
        m.d.comb += [unpack.value.eq(self.a), divide.a.eq(unpack.unpacked), self.result.eq(divide.result),
                     divide.by_448.eq(delay(m, self.by_448, 1, name="by_448"))]
        return m


class QuantizeQuotient(wiring.Component):
    """`UnpackFp32` for both operands, then `QuotientQuantizer`."""

    LATENCY = UnpackFp32.LATENCY + QuotientQuantizer.LATENCY

    def __init__(self, elements=ELEMENTS):
        self.elements = elements
        super().__init__({"x": In(32), "divisor": In(32), "element": In(2), "zero": In(1), "code": Out(8)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.quotient = quotient = QuotientQuantizer(self.elements)
        m.submodules.unpack_x = x = UnpackFp32()
        m.submodules.unpack_d = d = UnpackFp32()
        m.d.comb += [
            x.value.eq(self.x), d.value.eq(self.divisor), quotient.x.eq(x.unpacked),
            quotient.divisor.exponent.eq(d.unpacked.exponent),
            quotient.divisor.significand.eq(d.unpacked.significand),
            quotient.element.eq(delay(m, self.element, 1, name="element")),
            quotient.zero.eq(delay(m, self.zero, 1, name="zero")),
            self.code.eq(quotient.code),
        ]
        return m


def divide_in_hardware(a, b):
    return np.array(run_pipeline(DivideFp32(), {"a": a, "b": b}, ["result"], DivideFp32.LATENCY)["result"], np.uint32)


def test_latencies_that_the_time_contract_is_built_on():
    assert (Fp32Div.LATENCY, Fp32DivConstant.LATENCY, QuotientQuantizer.LATENCY) == (15, 3, 6)


def test_elements_are_needed():
    with pytest.raises(ValueError, match="at least one element format"):
        QuotientQuantizer([])


def test_division_equals_numpy(rng):
    a, b = hard_fp32(rng, 6000), hard_fp32(rng, 6000)
    b[:2000] = (b[:2000] & np.uint32(0x807FFFFF)) | (rng.integers(118, 138, 2000) << 23).astype(np.uint32)
    a[4000:] = b[4000:] & np.uint32(0x7FFFFF) | a[4000:] & np.uint32(0xFF800000)  # quotients that are powers of two
    a[3000:4000] = (a[3000:4000] & np.uint32(0x807FFFFF)) | (rng.integers(0, 30, 1000) << 23).astype(np.uint32)
    b[3000:4000] = (b[3000:4000] & np.uint32(0x807FFFFF)) | (rng.integers(120, 140, 1000) << 23).astype(np.uint32)
    with np.errstate(all="ignore"):
        expected = a.view(np.float32) / b.view(np.float32)
    expected = np.where(np.isnan(expected), np.uint32(FP32_NAN), expected.view(np.uint32))
    got = divide_in_hardware(a, b)
    wrong = np.flatnonzero(got != expected)
    assert [(hex(a[i]), hex(b[i]), hex(got[i]), hex(expected[i])) for i in wrong[:5]] == []


@pytest.mark.parametrize(
    ("a", "b", "quotient"),
    [
        (0.0, -3.0, -0.0), (1.0, 0.0, np.inf), (-1.0, 0.0, -np.inf), (0.0, 0.0, np.nan), (np.inf, np.inf, np.nan),
        (np.inf, -2.0, -np.inf), (5.0, np.inf, 0.0), (np.nan, 1.0, np.nan), (1.0, np.nan, np.nan),
        (2.0**-149, 2.0, 0.0), (2.0**-149 * 3, 2.0, 2.0**-148), (2.0**-126, 2.0**23, 2.0**-149),
        (2.0**127, 2.0**-149, np.inf), (2.0**-149, 2.0**-149, 1.0), (1.0, 3.0, np.float32(1) / np.float32(3)),
    ],
)
def test_division_of_special_values(a, b, quotient):
    words = [np.array([value], np.float32).view(np.uint32) for value in (a, b)]
    got = divide_in_hardware(*words).view(np.float32)
    np.testing.assert_array_equal(got, np.float32(quotient))
    assert np.signbit(got[0]) == np.signbit(np.float32(quotient)) or np.isnan(quotient)


@pytest.mark.parametrize("divisors", [(6,), (448,), (6, 448)])
def test_division_by_a_constant_equals_numpy(divisors, rng):
    a = hard_fp32(rng, 4000)
    a[:1500] = a[:1500] & np.uint32(0x80FFFFFF) | rng.integers(0, 12, 1500).astype(np.uint32) << np.uint32(23)
    a[3000:] = (rng.integers(1, 1 << 20, 1000) * rng.choice(divisors, 1000)).astype(np.float32).view(np.uint32)
    by_448 = rng.integers(0, 2, a.size) if len(divisors) > 1 else np.full(a.size, divisors == (448,))
    dut = DivideByConstant(divisors)
    got = np.array(run_pipeline(dut, {"a": a, "by_448": by_448}, ["result"], dut.LATENCY)["result"], np.uint32)
    with np.errstate(all="ignore"):
        expected = a.view(np.float32) / np.where(by_448, np.float32(448), np.float32(6))
    expected = np.where(np.isnan(expected), np.uint32(FP32_NAN), expected.view(np.uint32))
    wrong = np.flatnonzero(got != expected)
    assert [(hex(a[i]), int(by_448[i]), hex(got[i]), hex(expected[i])) for i in wrong[:5]] == []


@pytest.mark.parametrize("divisors", [(), (6, 7)])
def test_constant_divisors_are_those_of_formats(divisors):
    with pytest.raises(ValueError, match="divisors must be some of 6, 448"):
        Fp32DivConstant(divisors)


def quotient_operands(rng, count):
    """(x, divisor) as float32: quotients of all sizes, at ties of the elements, and one FP32 step beside them."""
    divisor = hard_fp32(rng, count) & np.uint32(0x7FFFFFFF)
    divisor = np.where((divisor == 0) | (divisor >= 0x7F800000), np.uint32(1), divisor).view(np.float32)
    value = code_values("e4m3")[rng.integers(0, 0x7E, count)].astype(np.float64)
    value = np.where(rng.random(count) < 0.3, code_values("e5m2")[rng.integers(0, 0x7B, count)], value)
    step = np.maximum(2.0 ** (np.floor(np.log2(np.maximum(value, 2.0**-12))) - rng.integers(2, 5, count)), 2.0**-18)
    with np.errstate(all="ignore"):
        x = ((value + step * rng.choice([0, 0.5, 1, 1.5], count)) * divisor).astype(np.float32)
        near = np.nextafter(x, np.float32(np.inf) * rng.choice(np.array([-1, 1], np.float32), count))
        kind = rng.integers(0, 4, count)
        x = np.select([kind == 0, kind == 1], [x, near], (divisor * np.exp2(rng.uniform(-20, 20, count))))
        x = x.astype(np.float32)
    return np.where(np.isfinite(x), x, 0) * rng.choice(np.array([-1, 1], np.float32), count), divisor


@pytest.mark.always("e4m3")
@pytest.mark.parametrize("element", range(len(ELEMENTS)), ids=[spec.name for spec in ELEMENTS])
def test_codes_of_quotients_equal_a_division_and_a_cast(element, rng):
    x, divisor = quotient_operands(rng, 8000)
    zero = rng.integers(0, 16, x.size) == 0
    inputs = {"x": x.view(np.uint32), "divisor": divisor.view(np.uint32), "element": [element] * x.size, "zero": zero}
    got = np.array(run_pipeline(QuantizeQuotient(), inputs, ["code"], QuantizeQuotient.LATENCY)["code"], np.uint8)
    with np.errstate(all="ignore"):
        expected = np.where(zero, 0, cast(x / divisor, ELEMENTS[element].name))
    wrong = np.flatnonzero(got != expected)
    assert [(x[i].item().hex(), divisor[i].item().hex(), hex(got[i]), hex(expected[i])) for i in wrong[:5]] == []


def test_ties_that_only_the_rounding_to_fp32_makes():
    """x / D is a little beside a tie, by less than half a unit of FP32, so that the tie decides (to even)."""
    rng = np.random.default_rng(5)
    divisor = (rng.integers(1 << 23, 1 << 24, 400_000).astype(np.float64)).astype(np.float32)
    x = np.rint(divisor.astype(np.float64) * rng.choice([1.0625, 1.1875, 1.3125, 1.9375, 2.5, 0.75, 3.5], divisor.size))
    x = x.astype(np.float32)
    exact = x.astype(np.float64) / divisor.astype(np.float64)
    rounded = x / divisor
    special = (rounded * 16 == np.rint(rounded * 16)) & (rounded.astype(np.float64) != exact)
    x, divisor = x[special][:500], divisor[special][:500]
    assert len(x) > 100
    for element, spec in enumerate(ELEMENTS):
        inputs = {"x": x.view(np.uint32), "divisor": divisor.view(np.uint32), "element": [element] * len(x),
                  "zero": [0] * len(x)}
        got = run_pipeline(QuantizeQuotient(), inputs, ["code"], QuantizeQuotient.LATENCY)["code"]
        assert got == cast(x / divisor, spec.name).tolist()


def test_a_tile_builds_only_its_elements(rng):
    x, divisor = quotient_operands(rng, 300)
    inputs = {"x": x.view(np.uint32), "divisor": divisor.view(np.uint32), "element": [2] * x.size, "zero": [0] * x.size}
    dut = QuantizeQuotient([E2M1])
    with np.errstate(all="ignore"):
        assert run_pipeline(dut, inputs, ["code"], dut.LATENCY)["code"] == cast(x / divisor, "e2m1").tolist()
    assert ELEMENTS.index(E4M3) == 0
