"""Drive a rigid pipeline with one operand set per cycle in Amaranth's simulator, and operands worth
driving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from amaranth.hdl import Cat, Elaboratable, Module, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator
from numpy.typing import NDArray

from tilescore.rtl.arith.fp32_mul import Fp32Mul
from tilescore.rtl.arith.unpacked import Unpacked, UnpackFp32


def run_pipeline(
    dut: Elaboratable, inputs: Mapping[str, Any], outputs: Sequence[str], latency: int
) -> dict[str, list[int]]:
    """Apply the i-th value of every input in cycle i; return the outputs ``latency`` cycles later, as
    unsigned.

    The stream has no gaps, so a latency that is stated wrongly shifts the results against the operands.
    """
    ports = [Value.cast(getattr(dut, name)) for name in inputs]
    count = len(next(iter(inputs.values())))
    words, offset = [0] * count, 0
    for port, values in zip(ports, inputs.values(), strict=True):
        assert len(values) == count
        mask = (1 << len(port)) - 1
        words = [word | (int(value) & mask) << offset for word, value in zip(words, values, strict=True)]
        offset += len(port)
    results = [Value.cast(getattr(dut, name)) for name in outputs]
    sampled: list[int] = []

    async def testbench(ctx: Any) -> None:
        for cycle in range(count + latency):
            if cycle < count:
                ctx.set(Cat(*ports), words[cycle])
            await ctx.tick()  # the edge that ends this cycle
            if cycle >= latency - 1 and len(sampled) < count:
                sampled.append(ctx.get(Cat(*results)))

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    columns, offset = {}, 0
    for name, port in zip(outputs, results, strict=True):
        columns[name] = [word >> offset & ((1 << len(port)) - 1) for word in sampled]
        offset += len(port)
    return columns


class MultiplyFp32(wiring.Component):
    """`UnpackFp32` for both operands, then `Fp32Mul`: an FP32 multiplier for tests."""

    LATENCY = UnpackFp32.LATENCY + Fp32Mul.LATENCY

    def __init__(self) -> None:
        super().__init__({"a": In(32), "b": In(32), "result": Out(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.unpack_a = unpack_a = UnpackFp32()
        m.submodules.unpack_b = unpack_b = UnpackFp32()
        m.submodules.multiply = multiply = Fp32Mul()
        m.d.comb += [
            unpack_a.value.eq(self.a),
            unpack_b.value.eq(self.b),
            multiply.a.eq(unpack_a.unpacked),
            multiply.b.eq(unpack_b.unpacked),
            self.result.eq(multiply.result),
        ]
        return m


def unpacked_to_float(words: Sequence[int] | NDArray[Any]) -> NDArray[np.float64]:
    """Exact values of `Unpacked` words; checks that finite non-zero significands are normalised."""
    values = []
    for word in words:
        fields = Unpacked.from_bits(int(word))
        sign = -1.0 if fields.sign else 1.0
        if fields.is_nan:
            values.append(np.nan)
        elif fields.is_inf or fields.is_zero:
            values.append(sign * (np.inf if fields.is_inf else 0.0))
        else:
            assert fields.significand >> 23 == 1, fields
            values.append(sign * np.ldexp(float(fields.significand), fields.exponent - 23))
    return np.array(values)


def float_key(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Bit patterns for comparison: signs of zeros count, all NaNs are one."""
    return np.where(np.isnan(values), 0x7FF8 << 48, np.ascontiguousarray(values).view(np.int64))


def hard_fp32(rng: np.random.Generator, count: int) -> NDArray[np.uint32]:
    """FP32 words of which many are special: infinities, NaNs, zeros, subnormals, and long runs of equal
    bits."""
    exponent = np.where(
        rng.random(count) < 0.35,
        rng.choice([0, 1, 2, 23, 24, 103, 104, 126, 127, 128, 150, 253, 254, 255], count),
        np.where(rng.random(count) < 0.6, rng.integers(0, 256, count), rng.integers(118, 138, count)),
    )
    mantissa = np.where(
        rng.random(count) < 0.25,
        rng.choice([0, 1, 2, 3, 0x3FFFFF, 0x400000, 0x400001, 0x7FFFFE, 0x7FFFFF], count),
        rng.integers(0, 1 << 23, count),
    )
    sign = rng.integers(0, 2, count)
    return (sign << 31 | exponent << 23 | mantissa).astype(np.uint32)


def hard_fp32_pairs(rng: np.random.Generator, count: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Two operands; in a third of the pairs the second almost cancels the first, in a third it is near in
    exponent."""
    a, b = hard_fp32(rng, count), hard_fp32(rng, count)
    kind = rng.integers(0, 3, count)
    cancel = (a ^ np.uint32(1 << 31)) + rng.integers(-3, 4, count).astype(np.uint32)
    exponent = np.clip((a >> 23 & 0xFF).astype(np.int64) + rng.integers(-28, 29, count), 0, 254)
    near = (b & np.uint32(0x807FFFFF)) | (exponent << 23).astype(np.uint32)
    return a, np.select([kind == 0, kind == 1], [cancel, near], b)


def quantizer_fp32(rng: np.random.Generator, count: int) -> NDArray[np.uint32]:
    """FP32 words around the range of E4M3, half of them at a tie between two codes or one unit beside it."""
    words = (hard_fp32(rng, count) & np.uint32(0x807FFFFF)) | (rng.integers(114, 140, count) << 23).astype(
        np.uint32
    )
    fraction_bits = np.clip(20 + np.maximum(121 - (words >> 23 & 0xFF).astype(np.int64), 0), 20, 23)
    tie = (
        (words >> fraction_bits.astype(np.uint32) << np.uint32(1) | np.uint32(1))
        << (fraction_bits - 1).astype(np.uint32)
    ) + rng.integers(-1, 2, count).astype(np.uint32)
    return np.where(rng.random(count) < 0.5, tie, words)


def all_bf16() -> NDArray[np.uint32]:
    """The FP32 words of all 65,536 bf16 values."""
    return np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)
