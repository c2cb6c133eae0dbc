"""How fast tiles simulate at the RTL level under Verilator: seconds to build, cycles per second.

    python benchmarks/rtl_speed.py [--tiles nano,edge,...] [--against CHECKOUT] [--write]

Each tile is built cold, in a cache of its own, and runs one attention layer on synthetic data whose results, times and
events must equal the other levels'. Seconds are processor time of all processes. ``--against`` also builds each tile
with another checkout of this project, whose Python is this one, and runs the same layer as that one compiles it, in
turns, so that the ratio means something on a shared machine. ``--write`` makes benchmarks/rtl_speed.md.
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
    return _words(folder, program.program_addr, program.config, len(COUNTER_NAMES))


def _words(folder: Path, program_addr: int, config: TileConfig, counters: int) -> list[str]:
    values = {"dram": folder / "initial.bin", "out": folder, "program_addr": program_addr,
              "latency": config.dram_latency, "bus_bytes": config.bus_bytes, "max_cycles": 1 << 40,
              "counters": counters, "seed": 0, "stall": 0}
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


@dataclass(frozen=True)
class Built:
    """A model with a program: the driver's arguments, cycles, share of them in which the array computes."""

    name: str
    binary: Path
    seconds: float
    words: list[str]
    cycles: int
    matmul: float


def measure(case: Case, against: Path | None) -> list[dict]:
    """A row for each model of the tile."""
    program = program_of(case)
    timing = time_program(program)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = [build_other(case, against, folder)] if against else []
        matmul = timing.ledger["matrix"]["compute"] / timing.cycles
        for title, at_once in (("PE", False), ("dot at once", True)):
            binary, seconds = build(case, dot_at_once=at_once)
            assert check(program, binary) == timing.cycles
            models.append(Built(title, binary, seconds, arguments(program, folder), timing.cycles, matmul))
        best = dict.fromkeys(range(len(models)), float("inf"))
        for _ in range(RUNS):
            for number, model in enumerate(models):
                best[number] = min(best[number], run_seconds(model.binary, model.words))
    return [{"tile": case.tile, "program": case.name, "matmul": model.matmul, "model": model.name,
             "cycles": model.cycles, "build": model.seconds, "rate": model.cycles / best[number]}
            for number, model in enumerate(models)]


_OTHER = """\
import json, sys
from pathlib import Path
try:
    from tilescore.sim.hardware.verilator_run import build_model
    from tilescore.rtl.spec.config import TileConfig
    from tilescore.rtl.spec.ledger import COUNTER_NAMES
except ImportError:
    from tilescore.sim.rtl_verilator import build_model
    from tilescore.rtl.config import TileConfig
    from tilescore.rtl.ledger import COUNTER_NAMES
from tilescore.compiler.compile import compile_layer
from tilescore.compiler.layers import AttentionLayer, Workload
from tilescore.sim.timing import time_program
tile, layer, tokens, folder = json.loads(sys.argv[1])
known = TileConfig.__dataclass_fields__
config = TileConfig.from_dict({key: value for key, value in tile.items() if key in known}, source="rtl_speed")
if sys.argv[2] == "build":
    print(build_model(config))
else:
    program = compile_layer(Workload(layer=AttentionLayer(**layer), tokens=tokens), config).program
    program.initial_dram().tofile(Path(folder, "initial.bin"))
    timing = time_program(program)
    print(json.dumps([program.program_addr, len(COUNTER_NAMES), timing.cycles,
                      timing.ledger["matrix"]["compute"] / timing.cycles]))
"""


def build_other(case: Case, checkout: Path, folder: Path) -> Built:
    """By another checkout's own code, whose modules may lie elsewhere and whose instructions may be other ones."""
    layer = {name: getattr(case.layer, name) for name in ("hidden", "heads", "kv_heads", "head_dim")}
    own = folder / "other"
    own.mkdir()
    given = json.dumps([tile_of(case.tile).to_dict(), layer, case.tokens, str(own)])
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "tilescore").symlink_to(checkout.resolve(), target_is_directory=True)

        def run(what: str) -> str:
            done = subprocess.run([sys.executable, "-c", _OTHER, given, what], check=False, capture_output=True,
                                  text=True, cwd=name, env=os.environ | {"TILESCORE_CACHE": name, "PYTHONPATH": name})
            if done.returncode:
                sys.exit(f"rtl_speed: {checkout}: {done.stderr.strip().splitlines()[-1]}")
            return done.stdout.strip().splitlines()[-1]

        start = _seconds()
        binary = run("build")
        seconds = _seconds() - start
        kept = cache_dir("rtl-speed") / f"{case.tile}-before"
        shutil.copy(binary, kept)
        address, counters, cycles, matmul = json.loads(run("compile"))
    config = tile_of(case.tile)
    words = _words(own, address, config, counters)
    subprocess.run([str(kept), *words], check=True)
    status = dict(line.split(" ", 1) for line in (own / "status.txt").read_text().splitlines() if " " in line)
    assert (status["done"], int(status["cycles"])) == ("1", cycles), status
    return Built(f"revision {revision(checkout)}", kept, seconds, words, cycles, matmul)


def revision(checkout: Path) -> str:
    found = subprocess.run(["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"], check=False,
                           capture_output=True, text=True)
    return found.stdout.strip() or checkout.name


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
