"""The `rtl` level under Verilator: the generated Verilog of a tile, compiled once and run as a process per program.

`verilator_build.py` compiles it and keeps the executable.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...rtl.spec.config import TileConfig
from ...rtl.spec.errors import SimulationError
from ...rtl.spec.ledger import COUNTER_NAMES
from ..program import Program
from .processes import run_quietly
from .run import DramModel, RawRun, RtlRun, interpret
from .verilated import simulation_verilog
from .verilator_build import Model, build_executable

_PORTS = (
    "clk", "rst", "start", "program_addr", "busy", "done", "conflict", "illegal",
    "status_inexact", "status_overflow", "status_nan", "status_inf",
    "trace_dispatch", "trace_issue", "trace_rd", "trace_wr", "counter_select", "counter_value",
    "rd_req_valid", "rd_req_addr", "rd_req_ready", "rd_rsp_valid", "rd_rsp_data",
    "wr_req_valid", "wr_req_addr", "wr_req_data", "wr_req_strb", "wr_req_ready", "wr_rsp_valid")


def _verilog(config: TileConfig) -> str:
    from ...rtl.export import verilog  # needs Amaranth's Yosys, which a cached model does not

    return simulation_verilog(verilog.tile_netlist(config), verilog.TOP)


def _verilog_at_once(config: TileConfig) -> str:
    from ...rtl.export import verilog

    return simulation_verilog(verilog.tile_netlist(config, dot_at_once=True), verilog.TOP)


MODEL = Model(kind="verilator", verilog=_verilog, top="tile", prefix="TILE", ports=_PORTS,
              driver=Path(__file__).with_name("driver") / "main.cpp")

AT_ONCE = replace(MODEL, kind="verilator-at-once", verilog=_verilog_at_once)
"""With `arith.dot_at_once` in the processing elements: faster, for long runs that are not about those."""


def run_verilator(program: Program, max_cycles: int, dram: DramModel | None = None, *,
                  dot_at_once: bool = False) -> RtlRun:
    """Run ``program`` on the compiled Verilog of its tile (built on first use). dot_at_once: on `AT_ONCE`.

    Raises `ToolError` when Verilator or a C++ compiler is missing or the build fails, and `SimulationError`
    as `run.interpret` does.
    """
    model = build_model(program.config, dot_at_once=dot_at_once)
    with tempfile.TemporaryDirectory(prefix="tilescore-") as folder:
        raw = _execute(model, program, max_cycles, dram or DramModel(), Path(folder))
    return interpret(program, raw)


def _execute(model: Path, program: Program, max_cycles: int, dram: DramModel, folder: Path) -> RawRun:
    program.initial_dram().tofile(folder / "initial.bin")
    values = {"dram": folder / "initial.bin", "out": folder, "program_addr": program.program_addr,
              "latency": program.config.dram_latency, "bus_bytes": program.config.bus_bytes,
              "max_cycles": max_cycles, "counters": len(COUNTER_NAMES), "seed": dram.seed,
              "stall": dram.stall_per_mille}
    done = run_quietly([str(model), *(f"{key}={value}" for key, value in values.items())])
    if done.returncode:
        raise SimulationError(f"rtl: the compiled tile {model} ended with status {done.returncode}: "
                              f"{done.stderr.strip()[-400:]}")
    status: dict[str, str] = {}
    counters = []
    for line in (folder / "status.txt").read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == "counter":
            counters.append(int(value))
        else:
            status[key] = value
    trace = np.fromfile(folder / "trace.bin", "<i8").reshape(-1, 2)
    return RawRun(finished=status["done"] == "1", cycles=int(status["cycles"]), trace=trace,
                  counters=counters, conflict=status["conflict"] == "1", illegal=status["illegal"] == "1",
                  error=status.get("error", ""), status=int(status["status"]),
                  dram=np.fromfile(folder / "dram.bin", np.uint8))


def build_model(config: TileConfig, *, dot_at_once: bool = False) -> Path:
    """The executable for ``config``, from the cache or built now (half a minute for nano, one or two for edge)."""
    return build_executable(AT_ONCE if dot_at_once else MODEL, config)
