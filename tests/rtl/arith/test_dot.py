# amaranth: UnusedElaboratable=no
"""Decoder and exact dot product against ml_dtypes, all 65,536 pairs of codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from tilescore.rtl.arith import latency as latencies
from tilescore.rtl.arith.decode import DecodedElement
from tilescore.rtl.arith.dot import E4M3_ONLY, DotProduct
from tilescore.rtl.arith.dot_at_once import DotAtOnce
from tilescore.rtl.arith.lane_format import LaneFormat
from tilescore.rtl.spec.element_values import decode_float
from tilescore.rtl.spec.formats import E4M3, PAIRS, step_bits
from tilescore.rtl.spec.isa import Pair
from tilescore.sim.hardware.toolchain import missing_for_verilator
from tilescore.tests.rtl.arith.streams import run_pipeline
from tilescore.tests.rtl.verilated import build


def oracle_values(codes: NDArray[np.uint8]) -> NDArray[np.float64]:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="the outside oracle of E4M3")
    return codes.view(ml_dtypes.float8_e4m3fn).astype(np.float64)


def oracle_products(
    a: NDArray[np.uint8], b: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Products in units of 2**-18 with 0 for NaN, and the NaN mask."""
    products = oracle_values(a) * oracle_values(b) * 2.0**18
    nan = np.isnan(products)
    return np.where(nan, 0, products).astype(np.int64), nan


def pack_lanes(codes: NDArray[np.uint8]) -> list[int]:
    """(N, L) codes to N operand words, lane 0 in the low byte."""
    return [int.from_bytes(row.tobytes(), "little") for row in codes]


def to_signed(words: list[int], bits: int) -> NDArray[np.int64]:
    return np.array([word - (word >> (bits - 1) << bits) for word in words], np.int64)


@pytest.mark.parametrize("lanes", [0, -1])
def test_a_dot_product_has_a_lane(lanes: int) -> None:
    with pytest.raises(ValueError, match="lanes must be at least 1"):
        DotProduct(lanes=lanes)


@pytest.mark.parametrize("lanes", [2.0, "8", True])
def test_lanes_are_an_integer(lanes: object) -> None:
    with pytest.raises(TypeError, match="lanes must be an integer"):
        DotProduct(lanes=lanes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lanes", "bits", "latency"), [(1, 37, 2), (2, 38, 3), (3, 39, 4), (8, 40, 5), (16, 41, 6)]
)
def test_width_and_latency_follow_from_the_lanes(lanes: int, bits: int, latency: int) -> None:
    dot = DotProduct(lanes=lanes)
    assert len(dot.sum) == step_bits(lanes, E4M3_ONLY) == bits
    assert dot.LATENCY == latencies.dot_product(lanes) == latency


def test_all_codes_decode_to_the_oracle_value() -> None:
    codes = np.arange(256, dtype=np.uint8)
    fields = {
        name: np.array(column)
        for name, column in run_pipeline(
            DecodeE4M3(), {"code": codes}, ["sign", "significand", "shift", "nan"], 1
        ).items()
    }
    value = oracle_values(codes)
    assert (fields["nan"] == np.isnan(value)).all()
    decoded = np.where(fields["sign"], -1.0, 1.0) * np.ldexp(
        fields["significand"].astype(float), fields["shift"] - 9
    )
    finite = ~np.isnan(value)
    assert (decoded[finite] == value[finite]).all()
    assert (np.signbit(decoded) == np.signbit(value))[finite].all()


class DecodeE4M3(wiring.Component):
    """The fields of `DecodedElement` of a code, a cycle later."""

    def __init__(self) -> None:
        super().__init__({"code": In(8), "sign": Out(1), "significand": Out(4), "shift": Out(4), "nan": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        decoded = DecodedElement(self.code, E4M3)
        for name in ("sign", "significand", "shift", "nan"):
            m.d.sync += getattr(self, name).eq(getattr(decoded, name))
        return m


def test_all_65536_pairs_in_every_eighth_lane_each() -> None:
    """Pair i goes through lane i mod 8, the other lanes hold zeros of either sign."""
    pairs = np.arange(1 << 16)
    lane = (pairs % 8 + pairs // 256) % 8
    a = np.where(np.arange(8) % 2, 0x80, 0).astype(np.uint8) * np.ones((len(pairs), 1), np.uint8)
    b = np.zeros((len(pairs), 8), np.uint8)
    a[pairs, lane], b[pairs, lane] = pairs >> 8, pairs & 0xFF
    dot = DotProduct(lanes=8)
    columns = run_pipeline(dot, {"a": pack_lanes(a), "b": pack_lanes(b)}, ["sum", "nan"], dot.LATENCY)
    product, nan = oracle_products((pairs >> 8).astype(np.uint8), (pairs & 0xFF).astype(np.uint8))
    assert (np.array(columns["nan"]) == nan).all()
    assert (to_signed(columns["sum"], 40) == product).all()


@pytest.mark.parametrize("lanes", [1, 2, 3, 8, 16])
def test_sums_of_random_lanes(lanes: int, rng: np.random.Generator) -> None:
    a, b = (rng.integers(0, 256, (400, lanes)).astype(np.uint8) for _ in range(2))
    a[:40], b[:40] = 0x7E, rng.choice([0x7E, 0xFE], (40, 1))  # the largest sums of either sign
    a[50, 0], b[51, -1] = 0x7F, 0xFF
    usual = slice(100, None)  # NaN codes are one in 128: rarer here
    a[usual] &= np.where(rng.random((300, lanes)) < 0.9, 0xF7, 0xFF).astype(np.uint8)
    dot = DotProduct(lanes=lanes)
    columns = run_pipeline(dot, {"a": pack_lanes(a), "b": pack_lanes(b)}, ["sum", "nan"], dot.LATENCY)
    products, nan = oracle_products(a, b)
    assert (np.array(columns["nan"]) == nan.any(axis=1)).all()
    assert (to_signed(columns["sum"], len(dot.sum)) == products.sum(axis=1)).all()
    assert nan.any()
    assert abs(products.sum(axis=1)).max() == lanes * 448 * 448 << 18


def test_pairs_share_a_tree_as_wide_as_the_widest() -> None:
    pairs = (Pair.E4M3, Pair.E2M1, Pair.E4M3_E2M1)
    assert step_bits(8, pairs) == 40
    assert step_bits(8, (Pair.E2M1,)) == 13  # 16 products of 9 bits
    assert step_bits(8, (Pair.E5M2,)) == 68
    assert DotProduct(lanes=8, pairs=pairs).LATENCY == DotProduct(lanes=8).LATENCY == 5


def test_a_single_format_travels_as_codes() -> None:
    assert len(DotProduct(lanes=8).a) == 64
    assert len(DotProduct(lanes=8, pairs=(Pair.E2M1,)).b) == 64
    assert len(DotProduct(lanes=8, pairs=(Pair.E4M3_E2M1,)).b) == 32
    assert LaneFormat("a", (Pair.E4M3,), "dsp").shape.size == 18 + 1 + 1  # magnitude, sign, NaN


class ExpandedDot(wiring.Component):
    """A dot product behind its edge: raw bytes in."""

    def __init__(self, dot: DotProduct) -> None:
        self.dot = dot
        super().__init__({"a": In(8 * dot.lanes), "b": In(8 * dot.lanes), "pair": In(3), "sum": Out(dot.sum.shape()),
                          "nan": Out(1), "pinf": Out(1), "ninf": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.dot = dot = self.dot
        for form, raw, operand in ((dot.a_format, self.a, dot.a), (dot.b_format, self.b, dot.b)):
            lanes = [form.expand(raw.word_select(i, 8), self.pair) for i in range(dot.lanes)]
            m.d.comb += Value.cast(operand).eq(Cat(lanes))
        m.d.comb += [getattr(self, name).eq(getattr(dot, name)) for name in ("sum", "nan", "pinf", "ninf")]
        return m


SETS = [
    ("fabric", tuple(Pair)), ("fabric", (Pair.E5M2,)), ("fabric", (Pair.E2M1, Pair.E4M3_E2M1)),
    ("dsp", (Pair.E4M3, Pair.E2M1)), ("dsp", (Pair.E2M1,))]


@pytest.mark.parametrize(("kind", "lanes"), [(DotProduct, 1), (DotProduct, 3), (DotProduct, 4), (DotAtOnce, 3)])
@pytest.mark.parametrize(("multiplier", "pairs"), SETS)
def test_sums_of_every_pair(kind: type[DotProduct], multiplier: str, pairs: tuple[Pair, ...], lanes: int,
                            rng: np.random.Generator) -> None:
    """The pair changes from cycle to cycle; B of E4M3 x E2M1 has one code per byte here."""
    count = 150
    a, b = (rng.integers(0, 256, (count, lanes)).astype(np.uint8) for _ in range(2))
    chosen = rng.choice(np.array(pairs), count)
    dot = ExpandedDot(kind(lanes=lanes, pairs=pairs, multiplier=multiplier))
    columns = run_pipeline(dot, {"a": pack_lanes(a), "b": pack_lanes(b), "pair": chosen},
                           ["sum", "nan", "pinf", "ninf"], dot.dot.LATENCY)
    bits = len(dot.sum)
    for i in range(count):
        spec = PAIRS[Pair(chosen[i])]
        codes = (a[i] & 15, a[i] >> 4), (b[i] & 15, b[i] >> 4)
        x, y = (np.concatenate(c) if chosen[i] == Pair.E2M1 else raw
                for c, raw in zip(codes, (a[i], b[i]), strict=True))
        with np.errstate(invalid="ignore"):
            products = decode_float(x, spec.a) * decode_float(y, spec.b)
        total = sum(int(p * 2.0**-spec.lsb_exponent) for p in products if np.isfinite(p))
        assert columns["sum"][i] - (columns["sum"][i] >> (bits - 1) << bits) == total
        flags = [np.isnan(products).any(), np.isposinf(products).any(), np.isneginf(products).any()]
        assert [columns[name][i] for name in ("nan", "pinf", "ninf")] == flags


class BothDots(wiring.Component):
    """`DotProduct` and `DotAtOnce` of one lane for each of `SETS` and of single formats, and where they differ."""

    def __init__(self) -> None:
        self.sets = [*SETS, ("fabric", E4M3_ONLY), ("fabric", (Pair.E2M1,)), ("fabric", (Pair.E4M3_E2M1,))]
        super().__init__({"a": In(8), "b": In(8), "pair": In(3), "enable": In(1), "differ": Out(len(self.sets))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for number, (multiplier, pairs) in enumerate(self.sets):
            results = []
            for kind in (DotProduct, DotAtOnce):
                dot = kind(lanes=1, pairs=pairs, multiplier=multiplier)
                m.submodules[f"{kind.__name__}_{number}"] = expanded = ExpandedDot(dot)
                m.d.comb += [expanded.a.eq(self.a), expanded.b.eq(self.b), expanded.pair.eq(self.pair),
                             dot.enable.eq(self.enable.replicate(dot.LATENCY))]
                results.append(Cat(expanded.sum, expanded.nan, expanded.pinf, expanded.ninf))
            known = Cat(self.pair == pair for pair in pairs).any()
            late = Signal(2, name=f"known_{number}")
            with m.If(self.enable):
                m.d.sync += late.eq(Cat(known, late))
            m.d.comb += self.differ[number].eq(late[1] & (results[0] != results[1]))
        return m


@pytest.mark.sampled
@pytest.mark.skipif(bool(missing_for_verilator()), reason="missing " + ", ".join(missing_for_verilator()))
def test_at_once_equals_the_pipeline_on_all_codes(tmp_path: Path) -> None:
    """Every pair of bytes under every element pair, and again with pauses, in which both keep what they have."""
    dots = BothDots()
    program = build(dots, "both_dots", {"a": 8, "b": 8, "pair": 3, "enable": 1}, {"differ": len(dots.sets)})
    codes = np.tile(np.arange(1 << 16), len(Pair))
    operands = {"a": codes & 255, "b": codes >> 8, "pair": np.repeat([int(pair) for pair in Pair], 1 << 16)}
    for enable in (np.ones(len(codes)), np.arange(len(codes)) % 3 != 0):
        assert not program.stream(tmp_path, 2, {**operands, "enable": enable})["differ"].any()
