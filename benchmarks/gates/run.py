"""Area, longest path and energy per event of parts of the tile in the cells of Liberty files.

    python benchmarks/gates/run.py LIBERTY [LIBERTY ...] [--parts pe,vector,...] [--out FILE.json] [--write]
    python benchmarks/gates/run.py --add FILE.json [--add FILE.json ...] [--write]

LIBERTY: a standard-cell library, .lib or .lib.gz. Needs Yosys (`pip install pyosys`) and Icarus Verilog. ``--out``
writes the figures as JSON, after every library; ``--add`` takes figures of earlier runs in; ``--write`` puts the page
made from all of them into benchmarks/gates.md. Tens of seconds per part for the stimuli, and about as much per part and
library; the vector lane keeps ABC busy for minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from fnmatch import fnmatch
from pathlib import Path

from tilescore.benchmarks.gates import simulation
from tilescore.benchmarks.gates.delays import find_delays, inverter_of_four
from tilescore.benchmarks.gates.energy import find_energy
from tilescore.benchmarks.gates.liberty import Library, library_of, parse, read_text
from tilescore.benchmarks.gates.mapping import map_component
from tilescore.benchmarks.gates.netlist import Netlist
from tilescore.benchmarks.gates.page import page
from tilescore.benchmarks.gates.parts import PARTS, Part, Stimulated, Stimulus, stimulate
from tilescore.rtl.spec.errors import ConfigError, TilescoreError

WIRES_FF = "0,0.3,0.6"
"""Capacitance of the wire to each sink: assumed, as there is no layout."""

PERIOD_FO4 = 20
"""Period that ABC sizes gates for, in delays of an inverter that drives four."""

PAGE = Path(__file__).resolve().parent.parent / "gates.md"


def measure_library(library: Library, text: str, parts: Sequence[Part], stimulated: dict[str, Stimulated],
                    wires_ff: Sequence[float]) -> dict:
    """Figures of one library, of JSON types."""
    fo4, _ = inverter_of_four(library)
    result = {"name": library.name, "corner": library.corner, "voltage": library.voltage,
              "temperature": library.temperature, "fo4_ps": fo4, "parts": {}}
    for part in parts:
        netlist = map_component(stimulated[part.name].component, library, text, period_ps=round(PERIOD_FO4 * fo4))
        delays = {wire: find_delays(netlist, library, wire) for wire in wires_ff}
        result["parts"][part.name] = {
            "label": part.label, "event": part.event, "area": netlist.area, "gates": len(netlist.gates),
            "flip_flops": len(netlist.flip_flops),
            "path_ps": {str(wire): found.path_ps for wire, found in delays.items()},
            "stimuli": [figures for stimulus in stimulated[part.name].stimuli
                        for figures in _measure_stimulus(netlist, library, stimulus, delays)]}
        print(f"gates: {library.name}: {part.label}", file=sys.stderr)
    return result


def _measure_stimulus(netlist: Netlist, library: Library, stimulus: Stimulus, delays: dict) -> Iterator[dict]:
    """With zero delay and, if the stimulus says so, with unit delays."""
    cycles = len(stimulus.cycles) - stimulus.skip
    for unit_delay in (False, True) if stimulus.glitches else (False,):
        toggles = simulation.count(netlist, stimulus.cycles, skip=stimulus.skip, delay=unit_delay)
        energies = {wire: find_energy(netlist, library, toggles, cycles, found, wire) for wire, found in delays.items()}
        yield {"name": stimulus.name, "delay": "unit" if unit_delay else "zero", "cycles": cycles,
               "events": stimulus.events, "macs_per_event": stimulus.macs,
               "pair": stimulus.pair.name if stimulus.pair is not None else None,
               "toggles_per_cycle": sum(toggles.values()) / cycles,
               "fj_per_cycle": {str(wire): {**asdict(e), "total": e.total} for wire, e in energies.items()}}


def without(library: Library, patterns: Sequence[str]) -> Library:
    """The library with the cells of these patterns marked as not to be used."""
    return replace(library, cells={
        name: replace(cell, usable=cell.usable and not any(fnmatch(name, pattern) for pattern in patterns))
        for name, cell in library.cells.items()})


def chosen_parts(text: str) -> list[Part]:
    """Raises `ConfigError` naming what is allowed."""
    names = text.split(",")
    for name in names:
        if name not in PARTS:
            raise ConfigError(f"--parts: unknown part {name!r}; allowed: {', '.join(PARTS)}")
    return [PARTS[name] for name in dict.fromkeys(names)]


def wires(text: str) -> list[float]:
    """Raises `ConfigError` unless ``text`` is numbers from 0 to 1000, rising."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or sorted(set(found)) != found or not 0 <= found[0] <= found[-1] <= 1000:
        raise ConfigError(f"--wires {text!r}: expected rising numbers of fF from 0 to 1000, as in {WIRES_FF}")
    return found


def measure(paths: Sequence[Path], parts: Sequence[Part], dont_use: Sequence[str],
            wires_ff: Sequence[float]) -> Iterator[dict]:
    """Figures of JSON types, anew after every library. Libraries are read first, so that a wrong file is told at once.
    """
    texts = [read_text(path) for path in paths]
    libraries = [without(library_of(parse(text, str(path)), str(path)), dont_use)
                 for path, text in zip(paths, texts, strict=True)]
    figures = {"wires_ff": list(wires_ff), "period_fo4": PERIOD_FO4, "dont_use": list(dont_use), "libraries": []}
    stimulated = stimulate(list(parts))
    for library, text in zip(libraries, texts, strict=True):
        figures["libraries"].append(measure_library(library, text, parts, stimulated, wires_ff))
        yield figures


def merged(runs: Sequence[dict]) -> dict:
    """One of several: libraries by name and corner, parts in the order of `PARTS`. Raises `ConfigError` for runs that
    assumed different things."""
    for key in ("wires_ff", "period_fo4", "dont_use"):
        if len({json.dumps(run[key]) for run in runs}) > 1:
            raise ConfigError(f"--add: runs differ in {key}: {', '.join(json.dumps(run[key]) for run in runs)}")
    libraries: dict[tuple[str, str], dict] = {}
    for run in runs:
        for library in run["libraries"]:
            known = libraries.setdefault((library["name"], library["corner"]), {**library, "parts": {}})
            found = known["parts"] | library["parts"]
            known["parts"] = {name: found[name] for name in PARTS if name in found}
    return {**runs[0], "libraries": list(libraries.values())}


def read_figures(path: Path) -> dict:
    """Raises `ConfigError` naming the file."""
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
        return {key: figures[key] for key in ("wires_ff", "period_fo4", "dont_use", "libraries")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"--add {path}: not figures of this command: {error!r}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("libraries", nargs="*", type=Path, metavar="LIBERTY")
    options.add_argument("--parts", default=",".join(PARTS), help="comma-separated; default: all")
    options.add_argument("--dont-use", default="*lpflow*,*probe*",
                         help="patterns of cells' names; default: %(default)s")
    options.add_argument("--wires", default=WIRES_FF, help="fF to each sink, comma-separated; default: %(default)s")
    options.add_argument("--add", type=Path, action="append", default=[], metavar="FILE")
    options.add_argument("--out", type=Path, metavar="FILE")
    options.add_argument("--write", action="store_true", help="write benchmarks/gates.md")
    given = options.parse_args(arguments)
    if not given.libraries and not given.add:
        options.error("expected a LIBERTY or --add FILE")
    try:
        figures = collect(given)
    except TilescoreError as error:
        print(f"gates: {error}", file=sys.stderr)
        return 1
    text = page(figures)
    print(text, end="")
    if given.write:
        PAGE.write_text(text, encoding="utf-8")
    return 0


def collect(given: argparse.Namespace) -> dict:
    """Figures of earlier runs and of the libraries given now, written to ``--out`` as they come."""
    runs = [read_figures(path) for path in given.add]
    figures = merged(runs) if runs else {}
    if given.libraries:
        simulation.check_tools()
        for found in measure(given.libraries, chosen_parts(given.parts), given.dont_use.split(","), wires(given.wires)):
            figures = merged([*runs, found])
            if given.out:
                given.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    elif given.out:
        given.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return figures


if __name__ == "__main__":
    sys.exit(main())
