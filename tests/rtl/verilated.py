"""A component as a program that streams a file of inputs through its Verilog, a record per clock cycle.

For components whose ports have at most 64 bits. The program is kept in the user's cache, under a hash of all that it
is made from; a million cycles of a processing element take a second or two.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from amaranth.back import verilog
from amaranth.hdl import Elaboratable, Shape
from numpy.typing import NDArray

from tilescore.sim.hardware.toolchain import cache_dir, require_verilator, verilator_env
from tilescore.sim.hardware.verilator_build import plain_install, work_parent


def port_bits(shape: Any) -> int:
    return Shape.cast(shape).width


def record(ports: Mapping[str, Any]) -> np.dtype:
    """The packed record of a file: each port in 1, 2, 4 or 8 bytes, which are Verilator's own types."""
    sizes = {name: 1 << (port_bits(shape) - 1 >> 3).bit_length() for name, shape in ports.items()}
    return np.dtype([(name, f"<u{size}") for name, size in sizes.items()])


def _harness(name: str, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> str:
    """A C++ program: for each record of the first file, one clock cycle and one record in the second file."""

    def struct(title: str, ports: Mapping[str, Any]) -> str:
        kinds = record(ports)
        fields = " ".join(f"uint{8 * kinds[port].itemsize}_t {port};" for port in ports)
        return f"struct __attribute__((packed)) {title} {{ {fields} }};"

    drive = " ".join(f"top.{port} = in.{port};" for port in inputs)
    sample = " ".join(f"out.{port} = top.{port};" for port in outputs)
    return f"""#include <cstdio>
#include "V{name}.h"
{struct("In", inputs)}
{struct("Out", outputs)}
int main(int argc, char** argv) {{
    if (argc != 3) return 2;
    FILE* source = fopen(argv[1], "rb");
    FILE* sink = fopen(argv[2], "wb");
    if (!source || !sink) return 3;
    VerilatedContext context;
    V{name} top{{&context}};
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


@dataclass(frozen=True)
class StreamProgram:
    """A built component. inputs, outputs: shape of each port."""

    path: Path
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]

    def run(self, folder: Path, latency: int, operands: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.uint64]]:
        """Outputs ``latency`` cycles after each set of operands (ports not given are 0), as unsigned numbers."""
        count = len(next(iter(operands.values())))
        results = self.stream(folder, latency, operands)
        return {name: after(results, name, latency, count) for name in self.outputs}

    def stream(self, folder: Path, extra: int, operands: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """What the outputs show after each cycle, as records: a cycle per set of operands and ``extra`` more."""
        count = len(next(iter(operands.values())))
        data = np.zeros(count + extra, record(self.inputs))
        for name, values in operands.items():
            mask = np.uint64((1 << port_bits(self.inputs[name])) - 1)
            data[name][:count] = np.asarray(values).astype(np.uint64) & mask
        source, sink = folder / "operands.bin", folder / "results.bin"
        data.tofile(source)
        subprocess.run([str(self.path), str(source), str(sink)], check=True)
        results = np.fromfile(sink, record(self.outputs))
        assert len(results) == len(data)
        return results


def after(results: NDArray[Any], name: str, latency: int, count: int) -> NDArray[np.uint64]:
    """Output ``name`` for the first ``count`` operands of a stream.

    Record i is sampled after the edge that ends cycle i, so it shows what belongs to cycle i + 1 - latency.
    """
    return results[name][latency - 1:latency - 1 + count].astype(np.uint64)


def build(component: Elaboratable, name: str, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> StreamProgram:
    """``component`` as a program, from the cache or built now. Raises ToolError if a tool is missing."""
    install = require_verilator()
    text = verilog.convert(component, name=name, emit_src=False, strip_internal_attrs=True)
    harness = _harness(name, inputs, outputs)
    key = hashlib.sha256("\0".join([text, harness, install.version, install.source]).encode()).hexdigest()
    folder = cache_dir("stream_bench")
    program = folder / f"{name}-{key[:16]}"
    if not program.is_file():
        with tempfile.TemporaryDirectory(dir=work_parent(folder)) as scratch:
            install = plain_install(install, Path(scratch))
            (Path(scratch) / f"{name}.v").write_text(text)
            (Path(scratch) / "harness.cpp").write_text(harness)
            command = [str(install.binary), "--cc", "--exe", "--build", "-O3", "-Wno-fatal", "-CFLAGS", "-O2",
                       "--top-module", name, f"{name}.v", "harness.cpp", "-o", "bench"]
            done = subprocess.run(command, cwd=scratch, env=verilator_env(install), capture_output=True, text=True,
                                  check=False)
            if done.returncode:
                raise RuntimeError(f"Verilator failed with status {done.returncode}:\n{done.stdout}\n{done.stderr}")
            built = folder / f"{program.name}-{os.getpid()}"
            shutil.copy2(Path(scratch) / "obj_dir" / "bench", built)
            os.replace(built, program)
    return StreamProgram(program, inputs, outputs)
