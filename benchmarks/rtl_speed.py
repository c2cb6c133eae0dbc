"""How fast tiles simulate at the RTL level under Verilator: seconds to build, cycles per second.

    python benchmarks/rtl_speed.py [--tiles nano,edge,...] [--against CHECKOUT] [--write]

Each tile is built cold, in a cache of its own, and runs one attention layer on synthetic data whose results, times and
events must equal the other levels'. Seconds are processor time of all processes. ``--against`` also builds and runs
each tile with another checkout of this project, whose Python is this one, in turns, so that the ratio means something
on a shared machine. ``--write`` makes benchmarks/rtl_speed.md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tilescore.compiler.compile import compile_layer
from tilescore.compiler.layers import AttentionLayer, Workload
from tilescore.rtl.spec.config import TileConfig, load_tile
from tilescore.rtl.spec.ledger import COUNTER_NAMES
from tilescore.sim.hardware import verilator_run
from tilescore.sim.hardware.run import DramModel, interpret
from tilescore.sim.hardware.toolchain import cache_dir
from tilescore.sim.program import Program
from tilescore.sim.reference.run import run_reference
from tilescore.sim.result import check_events, check_results, check_status, check_times
from tilescore.sim.timing import time_program

RUNS = 3
"""Of each model; the fastest counts."""

@dataclass(frozen=True)
class Case:
    """A tile and the layer that it runs."""

    tile: str
    layer: AttentionLayer
    tokens: int

    @property
    def name(self) -> str:
        layer = self.layer
        return f"attention, hidden {layer.hidden}, {layer.heads} heads of {layer.head_dim}, {self.tokens} tokens"


CASES = (
    Case("nano", AttentionLayer(hidden=128, heads=2, kv_heads=1, head_dim=64), 64),
    Case("edge", AttentionLayer(hidden=512, heads=4, kv_heads=1, head_dim=128), 64),
    Case("wide", AttentionLayer(hidden=512, heads=4, kv_heads=1, head_dim=128), 64),
)


def tile_of(name: str) -> TileConfig:
    """A preset, or ``wide``: `server` with 2,048 multiply-accumulates, 8 x 32 x 8."""
    if name != "wide":
        return load_tile(name)
    changes = {"name": "wide", "rows": 8, "cols": 32, "a_buffer_bytes": 458752}
    return TileConfig.from_dict(load_tile("server").to_dict() | changes, source="benchmarks/rtl_speed.py")


def program_of(case: Case) -> Program:
    return compile_layer(Workload(layer=case.layer, tokens=case.tokens), tile_of(case.tile)).program


def build(case: Case, *, dot_at_once: bool) -> tuple[Path, float]:
    """The executable, made now in a fresh cache, and the seconds of processor time."""
    with tempfile.TemporaryDirectory() as folder:
        before = os.environ.get("TILESCORE_CACHE")
        os.environ["TILESCORE_CACHE"] = folder
        start = _seconds()
        try:
            binary = verilator_run.build_model(tile_of(case.tile), dot_at_once=dot_at_once)
        finally:
            os.environ.pop("TILESCORE_CACHE")
            if before is not None:
                os.environ["TILESCORE_CACHE"] = before
        seconds = _seconds() - start
        kept = cache_dir("rtl-speed") / f"{case.tile}{'-at-once' if dot_at_once else ''}"
        shutil.copy(binary, kept)
    return kept, seconds


def _seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + usage.ru_utime + usage.ru_stime


def arguments(program: Program, folder: Path) -> list[str]:
    """Of the driver (`sim/hardware/driver/main.cpp`), with the initial DRAM in ``folder``."""
    program.initial_dram().tofile(folder / "initial.bin")
    config = program.config
    values = {"dram": folder / "initial.bin", "out": folder, "program_addr": program.program_addr,
              "latency": config.dram_latency, "bus_bytes": config.bus_bytes, "max_cycles": 1 << 40,
              "counters": len(COUNTER_NAMES), "seed": 0, "stall": 0}
    return [f"{key}={value}" for key, value in values.items()]


def run_seconds(binary: Path, words: list[str]) -> float:
    start = _seconds()
    subprocess.run([str(binary), *words], check=True)
    return _seconds() - start


def check(program: Program, binary: Path) -> int:
    """Cycles of a run whose results, times, events and status equal the other levels'."""
    with tempfile.TemporaryDirectory() as folder:
        raw = verilator_run._execute(binary, program, 1 << 40, DramModel(), Path(folder))
    found, timing, state = interpret(program, raw), time_program(program), run_reference(program)
    check_results(program, state.dram, found.dram)
    check_status(state.status, found.status)
    check_times(program, timing, found)
    check_events(timing, found)
    return found.cycles


def measure(case: Case, against: Path | None) -> list[dict]:
    """A row for each model of the tile."""
    program = program_of(case)
    timing = time_program(program)
    matmul = timing.ledger["matrix"]["compute"] / timing.cycles
    models = [(name, *build(case, dot_at_once=at_once)) for name, at_once in (("PE", False), ("dot at once", True))]
    if against:
        models.insert(0, (f"before ({against.name})", *build_other(case, against)))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        words = arguments(program, Path(folder))
        best = dict.fromkeys(range(len(models)), float("inf"))
        for _ in range(RUNS):
            for number, (_, binary, _) in enumerate(models):
                best[number] = min(best[number], run_seconds(binary, words))
        for number, (name, binary, seconds) in enumerate(models):
            cycles = check(program, binary)
            rows.append({"tile": case.tile, "program": case.name, "matmul": matmul, "model": name, "cycles": cycles,
                         "build": seconds, "rate": cycles / best[number]})
    return rows


def build_other(case: Case, checkout: Path) -> tuple[Path, float]:
    """As `build`, by another checkout's own code, whose modules may lie elsewhere."""
    code = ("import sys, json\n"
            "try:\n    from tilescore.sim.hardware.verilator_run import build_model\n"
            "    from tilescore.rtl.spec.config import TileConfig\n"
            "except ImportError:\n    from tilescore.sim.rtl_verilator import build_model\n"
            "    from tilescore.rtl.config import TileConfig\n"
            "print(build_model(TileConfig.from_dict(json.loads(sys.argv[1]), source='rtl_speed')))")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tilescore").symlink_to(checkout.resolve(), target_is_directory=True)
        start = _seconds()
        done = subprocess.run(
            [sys.executable, "-c", code, json.dumps(tile_of(case.tile).to_dict())], check=True,
            capture_output=True, text=True, cwd=folder,
            env=os.environ | {"TILESCORE_CACHE": folder, "PYTHONPATH": folder})
        seconds = _seconds() - start
        kept = cache_dir("rtl-speed") / f"{case.tile}-before"
        shutil.copy(done.stdout.strip().splitlines()[-1], kept)
    return kept, seconds


def page(rows: list[dict]) -> str:
    lines = ["# RTL simulation speed", "",
             "Made by `python benchmarks/rtl_speed.py --write`. Verilator, one thread; the fastest of "
             f"{RUNS} runs in turns. Seconds are processor time; the machine is shared, so compare rows of one tile. "
             "*PE*: the tile as it is. *dot at once*: with `rtl/arith/dot_at_once.py` in its processing elements. "
             "Results, cycles, events and status of every row equal those of the reference and the timing model.", "",
             "| tile | program | MATMUL | model | cycles | build, s | cycles/s | of the first row |",
             "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        first = next(other for other in rows if other["tile"] == row["tile"])
        lines.append(f"| {row['tile']} | {row['program']} | {row['matmul']:.0%} | {row['model']} | {row['cycles']:,} | "
                     f"{row['build']:.0f} | {row['rate']:,.0f} | {row['rate'] / first['rate']:.2f} |")
    return "\n".join([*lines, ""])


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tiles", default=",".join(case.tile for case in CASES))
    options.add_argument("--against", type=Path)
    options.add_argument("--write", action="store_true")
    given = options.parse_args()
    rows = []
    for case in CASES:
        if case.tile in given.tiles.split(","):
            rows += measure(case, given.against)
            print(page(rows), file=sys.stderr)
    print(page(rows), end="")
    if given.write:
        Path(__file__).with_suffix(".md").write_text(page(rows), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
