"""All arithmetic units in one module, as a program that streams a file of operands through the Verilog.

One Verilator build of 10 s serves every unit; the program is kept in the user's cache, under a hash of all
that it is made from. A million operand sets take about a second.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from amaranth.back import verilog
from amaranth.hdl import Module, Shape, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

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
from tilescore.sim.toolchain import cache_dir, require_verilator, verilator_env
from tilescore.tests.rtl.arith.streams import MultiplyFp32

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
    "dot": DotProduct.latency(8),
    "dot_nan": DotProduct.latency(8),
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


def port_bits(shape: Any) -> int:
    """Width of a port of INPUTS or OUTPUTS."""
    return Shape.cast(shape).width


def record(ports: Mapping[str, Any]) -> np.dtype:
    """The packed record of a file: each port in 1, 2, 4 or 8 bytes, which are Verilator's own types."""
    sizes = {name: 1 << (port_bits(shape) - 1 >> 3).bit_length() for name, shape in ports.items()}
    return np.dtype([(name, f"<u{size}") for name, size in sizes.items()])


def harness() -> str:
    """A C++ program: for each record of the first file, one clock cycle and one record in the second file."""

    def struct(name: str, ports: Mapping[str, Any]) -> str:
        kinds = record(ports)
        fields = " ".join(f"uint{8 * kinds[port].itemsize}_t {port};" for port in ports)
        return f"struct __attribute__((packed)) {name} {{ {fields} }};"

    drive = " ".join(f"top.{name} = in.{name};" for name in INPUTS)
    sample = " ".join(f"out.{name} = top.{name};" for name in OUTPUTS)
    return f"""#include <cstdio>
#include "Varith_bench.h"
{struct("In", INPUTS)}
{struct("Out", OUTPUTS)}
int main(int argc, char** argv) {{
    if (argc != 3) return 2;
    FILE* source = fopen(argv[1], "rb");
    FILE* sink = fopen(argv[2], "wb");
    if (!source || !sink) return 3;
    VerilatedContext context;
    Varith_bench top{{&context}};
    In in; Out out;
    top.rst = 0;
    while (fread(&in, sizeof in, 1, source) == 1) {{
        {drive}
        top.clk = 0; top.eval();
        top.clk = 1; top.eval();
        {sample}
        if (fwrite(&out, sizeof out, 1, sink) != 1) return 4;
    }}
    return fclose(sink) == 0 ? 0 : 5;
}}
"""


def build() -> Path:
    """The bench as a program, from the cache or built now. Raises ToolError if a tool is missing."""
    install = require_verilator()
    text = verilog.convert(ArithBench(), name="arith_bench", emit_src=False, strip_internal_attrs=True)
    key = hashlib.sha256("\0".join([text, harness(), install.version, install.source]).encode()).hexdigest()
    folder = cache_dir("arith_bench")
    program = folder / key[:16]
    if program.is_file():
        return program
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        (Path(scratch) / "arith_bench.v").write_text(text)
        (Path(scratch) / "harness.cpp").write_text(harness())
        command = [str(install.binary), "--cc", "--exe", "--build", "-O3", "-Wno-fatal", "-CFLAGS", "-O2",
                   "--top-module", "arith_bench", "arith_bench.v", "harness.cpp", "-o", "bench"]  # fmt: skip
        done = subprocess.run(
            command, cwd=scratch, env=verilator_env(install), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(
                f"Verilator failed with status {done.returncode}:\n{done.stdout}\n{done.stderr}"
            )
        built = Path(scratch) / "built"
        shutil.copy2(Path(scratch) / "obj_dir" / "bench", built)
        os.replace(built, program)
    return program


def run(program: Path, folder: Path, **operands: NDArray[Any]) -> dict[str, NDArray[np.uint64]]:
    """Results for the i-th operand of every array given (others are 0), as unsigned numbers."""
    count = len(next(iter(operands.values())))
    data = np.zeros(count + max(LATENCY.values()), record(INPUTS))
    for name, values in operands.items():
        mask = np.uint64((1 << port_bits(INPUTS[name])) - 1)
        data[name][:count] = np.asarray(values).astype(np.int64).view(np.uint64) & mask
    source, sink = folder / "operands.bin", folder / "results.bin"
    data.tofile(source)
    subprocess.run([str(program), str(source), str(sink)], check=True)
    results = np.fromfile(sink, record(OUTPUTS))
    assert len(results) == len(data)
    # Record i is sampled after the edge that ends cycle i, so it shows the operands of cycle i + 1 - latency.
    return {
        name: results[name][latency - 1 : latency - 1 + count].astype(np.uint64)
        for name, latency in LATENCY.items()
    }
