"""All arithmetic units in one module, as a program that streams a file of operands through the Verilog.

One Verilator build of 10 s serves every unit. A million operand sets take about a second.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from amaranth.hdl import Module, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from tilescore.rtl.arith import latency
from tilescore.rtl.arith.dot import DotProduct
from tilescore.rtl.arith.fixed import FixedToFp32, Fp32ToFixed
from tilescore.rtl.arith.fp32_add import Fp32Add
from tilescore.rtl.arith.fp32_max import Fp32Max
from tilescore.rtl.arith.fp32_mul import Fp32Mul
from tilescore.rtl.arith.functions import Function, SpecialFunction
from tilescore.rtl.arith.pack import delay
from tilescore.rtl.arith.quantize import QuantizeE4M3
from tilescore.rtl.arith.round_fp32 import AccumulatorFlags, RoundToFp32
from tilescore.rtl.arith.unpacked import Unpacked, UnpackFp32
from tilescore.tests.rtl import verilated
from tilescore.tests.rtl.arith.streams import MultiplyFp32
from tilescore.tests.rtl.verilated import StreamProgram, after

INPUTS = {
    "a": 32,
    "b": 32,
    "func": Function,
    "wide": signed(64),
    "lsb": signed(10),
    "flags": AccumulatorFlags,
    "lanes_a": 64,
    "lanes_b": 64,
}
"""Shape of each operand; ``a`` also feeds the units of one FP32 operand, ``wide`` the fixed-point one."""

LATENCY = {
    "product": MultiplyFp32.LATENCY,
    "total": Fp32Add.LATENCY,
    "maximum": Fp32Max.LATENCY,
    "code": QuantizeE4M3.LATENCY,
    "fixed": Fp32ToFixed.LATENCY,
    "not_finite": Fp32ToFixed.LATENCY,
    "from_fixed": FixedToFp32.LATENCY,
    "rounded": RoundToFp32.LATENCY,
    "dot": latency.dot_product(8),
    "dot_nan": latency.dot_product(8),
    "special": SpecialFunction.LATENCY,
    "scaled": SpecialFunction.LATENCY + Fp32Mul.LATENCY,
}
"""Latency of each result. ``special`` is `func` of ``a``, unpacked; ``scaled`` is that times ``b``."""

OUTPUTS = dict.fromkeys(LATENCY, 32) | {
    "code": 8,
    "fixed": signed(48),
    "not_finite": 1,
    "dot": signed(40),
    "dot_nan": 1,
    "special": Unpacked,
}


class ArithBench(wiring.Component):
    """Every unit once, each on its own operands."""

    def __init__(self) -> None:
        super().__init__(
            {name: In(shape) for name, shape in INPUTS.items()}
            | {name: Out(shape) for name, shape in OUTPUTS.items()}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.multiply = multiply = MultiplyFp32()
        m.submodules.add = add = Fp32Add()
        m.submodules.maximum = maximum = Fp32Max()
        for unit, result in ((multiply, self.product), (add, self.total), (maximum, self.maximum)):
            m.d.comb += [unit.a.eq(self.a), unit.b.eq(self.b), result.eq(unit.result)]
        m.submodules.quantize = quantize = QuantizeE4M3()
        m.submodules.to_fixed = to_fixed = Fp32ToFixed()
        m.submodules.from_fixed = from_fixed = FixedToFp32()
        m.submodules.round = rounder = RoundToFp32(width=64)
        m.submodules.dot = dot = DotProduct(lanes=8)
        m.submodules.special = special = SpecialFunction()
        m.submodules.unpack = unpack = UnpackFp32()
        m.submodules.scale = scale = Fp32Mul()
        m.d.comb += [
            quantize.value.eq(self.a),
            self.code.eq(quantize.code),
            to_fixed.value.eq(self.a),
            self.fixed.eq(to_fixed.fixed),
            self.not_finite.eq(to_fixed.nan),
            from_fixed.fixed.eq(self.wide),
            from_fixed.nan.eq(self.flags.nan),
            self.from_fixed.eq(from_fixed.result),
            rounder.value.eq(self.wide),
            rounder.lsb.eq(self.lsb),
            rounder.flags.eq(self.flags),
            self.rounded.eq(rounder.result),
            dot.a.eq(self.lanes_a),
            dot.b.eq(self.lanes_b),
            self.dot.eq(dot.sum),
            self.dot_nan.eq(dot.nan),
            special.u.eq(self.a),
            special.func.eq(self.func),
            self.special.eq(special.result),
            unpack.value.eq(delay(m, self.b, SpecialFunction.LATENCY - UnpackFp32.LATENCY, name="factor")),
            scale.a.eq(special.result),
            scale.b.eq(unpack.unpacked),
            self.scaled.eq(scale.result),
        ]
        return m


def build() -> StreamProgram:
    """The bench as a program, from the cache or built now. Raises ToolError if a tool is missing."""
    return verilated.build(ArithBench(), "arith_bench", INPUTS, OUTPUTS)


def run(program: StreamProgram, folder: Path, **operands: NDArray[Any]) -> dict[str, NDArray[np.uint64]]:
    """Results for the i-th operand of every array given (others are 0), as unsigned numbers."""
    count = len(next(iter(operands.values())))
    results = program.stream(folder, max(LATENCY.values()), operands)
    return {name: after(results, name, latency, count) for name, latency in LATENCY.items()}
