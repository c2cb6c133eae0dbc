"""Which schedules energy prefers when registers that rest are clocked, and when clock gates stop them.

    python benchmarks/idle_energy.py [--write]

A layer at a high and at a low utilization is compiled with the compiler's own schedule and with every one that differs
from it in one value. Each is priced by table `7nm`, and by the same table as it would be without clock gates: every
register of the logic clocked in every cycle, and steps at their energy above that, both as measured on the E4M3 PE
without clock gates (benchmarks/gates/figures.json). ``--write`` makes benchmarks/idle_energy.md.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tilescore.benchmarks.gates.fit import idle_energy
from tilescore.benchmarks.gates.page import step_energy
from tilescore.benchmarks.gates.run import FIGURES, read_figures
from tilescore.compiler.compile import compile_layer
from tilescore.compiler.layers import AttentionLayer, Workload
from tilescore.compiler.products import useful_macs
from tilescore.compiler.schedule import Schedule, schedule_differences
from tilescore.rtl.spec.config import TileConfig, load_tile
from tilescore.rtl.spec.errors import CompileError
from tilescore.sim.energy import load_table
from tilescore.sim.energy_components import CLOCKED, components, total
from tilescore.sim.structure import tile_sizes
from tilescore.sim.timing import time_program

TILE = "server"
LAYER = AttentionLayer(model="llama-3-8b", hidden=4096, heads=32, kv_heads=8, head_dim=128, rope_theta=500000.0)
CASES = {"prefill of 256 tokens": Workload(layer=LAYER, tokens=256),
         "decode of 24 sequences of 512 tokens": Workload(layer=LAYER, phase="decode", tokens=1, batch=24, context=512)}

DISTINCT = 0.01
"""Two energies closer than this are equal."""


@dataclass(frozen=True)
class Point:
    """pJ per useful operation: without clock gates, with them, and of these what is not DRAM."""

    change: str
    cycles: int
    utilization: float
    dram_bytes: int
    ungated: float
    gated: float
    ungated_chip: float
    gated_chip: float


def ungated(events: Mapping[str, int], cycles: int, config: TileConfig, constants: dict[str, float]
            ) -> dict[str, float]:
    """As `components`, without clock gates."""
    parts = next(entry for entry in read_figures(FIGURES)["libraries"] if entry["name"] == "asap7")["parts"]
    plain, gated = parts["pe-ungated"], parts["pe"]
    register = idle_energy(plain, "value") / 1000 / plain["flip_flops"]
    steps = [step_energy("pe", part, part["runs"][0]) - idle_energy(part, "value") for part in (plain, gated)]
    result = components(events, cycles, config, constants)
    for name in ("multipliers", "operand_registers", "accumulators"):
        result[name] *= steps[0] / steps[1]
    for component in {component for component, _ in CLOCKED.values()}:
        result[component] = sum(size.count * size.registers for unit, size in tile_sizes(config).items()
                                if CLOCKED[unit][0] == component) * cycles * register
    return result


def neighbours(schedule: Schedule) -> Iterator[Schedule]:
    """All that differ in one value: half, double, or the other switch."""
    for name, kernel in schedule.kernels.items():
        for key, value in kernel.values().items():
            for other in (not value,) if isinstance(value, bool) else (value // 2, value * 2):
                if isinstance(other, bool) or other > 0:
                    with contextlib.suppress(CompileError):
                        yield schedule.change(name, **{key: other})


def measure(workload: Workload) -> list[Point]:
    """The compiler's own schedule first."""
    config, constants = load_tile(TILE), load_table("7nm").at("value")
    own = compile_layer(workload, config, data=False).schedule
    ops = 2 * useful_macs(workload, None)
    found = []
    for schedule in (own, *neighbours(own)):
        try:
            timing = time_program(compile_layer(workload, config, schedule=schedule, data=False).program)
        except CompileError:
            continue
        energies = [price(timing.events, timing.cycles, config, constants) for price in (ungated, components)]
        found.append(Point(
            change="; ".join(schedule_differences(own, schedule)) or "the compiler's own", cycles=timing.cycles,
            utilization=ops / 2 / config.macs_per_cycle / timing.cycles,
            dram_bytes=(timing.events["dram_read_beats"] + timing.events["dram_write_beats"]) * config.bus_bytes,
            **{name: (total(energy) - part * energy["dram"]) / ops for name, energy, part in zip(
                ("ungated", "gated", "ungated_chip", "gated_chip"), energies * 2, (0, 0, 1, 1), strict=True)}))
    return found


def turned(points: list[Point], before: str, after: str) -> Counter[str]:
    """Pairs of schedules by what they say before and after: "same", "reversed", "vanished" (equal only after),
    "appeared" (equal only before)."""
    found: Counter[str] = Counter()
    for a, b in itertools.combinations(points, 2):
        old, new = (_sign(getattr(a, key), getattr(b, key)) for key in (before, after))
        if old or new:
            found["same" if old == new else "vanished" if not new else "appeared" if not old else "reversed"] += 1
    return found


def _sign(a: float, b: float) -> int:
    return 0 if abs(a / b - 1) < DISTINCT else 1 if a > b else -1


def page() -> str:
    return "\n".join([
        "# Two schedules by energy, without and with clock gates", "",
        "Made by `python benchmarks/idle_energy.py --write` from table `7nm`; needs no library. *Before*: the same "
        "table with every register clocked in every cycle, at what the E4M3 PE takes without clock gates "
        "([gates.md](gates.md#idle-processing-elements)). Each row is the compiler's own schedule with one value "
        f"changed, relative to it; rows that differ by less than {DISTINCT:.0%} in everything are left out. *Chip*: "
        "without DRAM.", "",
        *(line for name, workload in CASES.items() for line in _case(name, measure(workload)))])


def _case(name: str, points: list[Point]) -> Iterator[str]:
    own = points[0]
    yield from (f"## Attention of {LAYER.model} on `{TILE}`, {name}: utilization {own.utilization:.0%}", "",
                f"The compiler's own schedule: {own.cycles:,} cycles, {own.dram_bytes:,} bytes of DRAM; pJ per useful "
                f"operation {own.ungated:.3f} before and {own.gated:.3f} after, without DRAM {own.ungated_chip:.3f} "
                f"and {own.gated_chip:.3f}.", "",
                "| change | cycles | DRAM bytes | energy before | after | chip before | after |",
                "|---|---|---|---|---|---|---|")
    distinct = {_ratios(point, own): point for point in reversed(points)}
    for ratios, point in sorted(distinct.items()):
        if any(abs(ratio - 1) >= DISTINCT for ratio in ratios):
            yield f"| `{point.change}` | " + " | ".join(f"{ratio - 1:+.1%}" for ratio in ratios) + " |"
    for what, before, after in (("in total", "ungated", "gated"), ("on the chip", "ungated_chip", "gated_chip")):
        found = turned(list(distinct.values()), before, after)
        yield from ("", f"Of {sum(found.values())} pairs of these schedules that differ {what}, {found['same']} "
                        f"compare as before, {found['vanished']} are equal now, {found['appeared']} were equal before, "
                        f"and {found['reversed']} have turned round.")
    yield ""


def _ratios(point: Point, own: Point) -> tuple[float, ...]:
    return tuple(round(getattr(point, key) / getattr(own, key), 3) for key in (
        "cycles", "dram_bytes", "ungated", "gated", "ungated_chip", "gated_chip"))


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--write", action="store_true")
    text, target = page(), Path(__file__).with_suffix(".md")
    if options.parse_args().write:
        target.write_text(text, encoding="utf-8")
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
