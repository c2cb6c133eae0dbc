"""Area, longest path and energy of parts of the tile in the cells of Liberty files, and the energy tables from them.

    python benchmarks/gates/run.py LIBERTY [LIBERTY ...] [--parts pe,vector,...] [--store DIR] [--write]
    python benchmarks/gates/run.py --write

LIBERTY: a standard-cell library, .lib or .lib.gz. Needs Yosys (`pip install pyosys`) and a C++ compiler. What is
measured is added to the figures in benchmarks/gates/figures.json; ``--write`` writes these, the page
benchmarks/gates.md and the energy tables that are made from them; without LIBERTY from the figures as they are.
``--store`` keeps netlists, recordings and toggles, so that the command goes on where it stopped and does again only
what changed: everything from nothing takes hours, most of them in ABC.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

from tilescore.benchmarks.gates import simulation
from tilescore.benchmarks.gates.delays import inverter_of_four
from tilescore.benchmarks.gates.liberty import Library, library_of, parse, read_text
from tilescore.benchmarks.gates.measure import measure_part, wire_ff
from tilescore.benchmarks.gates.parts import PARTS, Part, record_parts
from tilescore.benchmarks.gates.store import Store
from tilescore.rtl.spec.errors import ConfigError, TilescoreError

PITCHES = "0,7,14"
"""Lengths of the wire to each sink (`measure.wire_ff`): none, and two assumptions."""

DONT_USE = "*lpflow*,*probe*"

FIGURES = Path(__file__).resolve().parent / "figures.json"


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


def pitches_of(text: str) -> list[float]:
    """Raises `ConfigError` unless ``text`` is three numbers from 0 to 1000, rising."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if len(found) != 3 or sorted(set(found)) != found or not 0 <= found[0] <= found[-1] <= 1000:
        raise ConfigError(f"--wires {text!r}: expected three rising lengths from 0 to 1000, as in {PITCHES}")
    return found


def measure(paths: Sequence[Path], parts: Sequence[Part], dont_use: Sequence[str], pitches: Sequence[float],
            store: Store, *, gated: bool = True) -> Iterator[dict]:
    """Figures of one library and one part at a time. Libraries are read first, so that a wrong file is told at once."""
    texts = [read_text(path) for path in paths]
    libraries = [without(library_of(parse(text, str(path)), str(path)), dont_use)
                 for path, text in zip(paths, texts, strict=True)]
    for part, rtlil, runs in record_parts(parts, store):
        for library, text in zip(libraries, texts, strict=True):
            found = measure_part(part, rtlil, runs, library, text, pitches, store, gated=gated)
            print(f"gates: {library.name}: {part.label}", file=sys.stderr)
            yield {"pitches": list(pitches), "libraries": [{
                "name": library.name, "corner": library.corner, "voltage": library.voltage,
                "temperature": library.temperature, "fo4_ps": inverter_of_four(library)[0],
                "wires_ff": [wire_ff(library, length) for length in pitches],
                "parts": {part.name if gated else f"{part.name}-ungated": found}}]}


def merged(runs: Sequence[dict]) -> dict:
    """One of several, the later ones first: libraries by name and corner. Raises `ConfigError` for runs that assumed
    different wires."""
    if len({json.dumps(run["pitches"]) for run in runs}) > 1:
        raise ConfigError(f"figures differ in their wires: {', '.join(json.dumps(run['pitches']) for run in runs)}")
    libraries: dict[tuple[str, str], dict] = {}
    for run in runs:
        for library in run["libraries"]:
            known = libraries.setdefault((library["name"], library["corner"]), {**library, "parts": {}})
            found = known["parts"] | library["parts"]
            known["parts"] = {name: found[name] for name in sorted(found, key=_order)}
    return {"pitches": runs[0]["pitches"], "libraries": [libraries[key] for key in sorted(libraries)]}


def _order(name: str) -> tuple[int, str]:
    base = name.removesuffix("-ungated")
    return (list(PARTS).index(base) if base in PARTS else len(PARTS)), name


def read_figures(path: Path) -> dict:
    """Raises `ConfigError` naming the file."""
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
        return {key: figures[key] for key in ("pitches", "libraries")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"figures {path}: not those of this command: {error!r}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("libraries", nargs="*", type=Path, metavar="LIBERTY")
    options.add_argument("--parts", default=",".join(PARTS), help="comma-separated; default: all")
    options.add_argument("--dont-use", default=DONT_USE, help="patterns of cells' names; default: %(default)s")
    options.add_argument("--wires", default=PITCHES, help="lengths of wires, comma-separated; default: %(default)s")
    options.add_argument("--ungated", action="store_true", help="without clock gates")
    options.add_argument("--store", type=Path, metavar="DIR", help="keep results of slow steps in DIR")
    options.add_argument("--figures", type=Path, default=FIGURES, metavar="FILE", help="default: %(default)s")
    options.add_argument("--write", action="store_true", help="write the page and the energy tables")
    given = options.parse_args(arguments)
    if not given.libraries and not given.write:
        options.error("expected a LIBERTY or --write")
    try:
        figures = collect(given)
        if given.write:
            from tilescore.benchmarks.gates.page import write
            write(figures)
    except TilescoreError as error:
        print(f"gates: {error}", file=sys.stderr)
        return 1
    return 0


def collect(given: argparse.Namespace) -> dict:
    """The figures that there are and those of the libraries given now, written as they come."""
    figures = read_figures(given.figures) if given.figures.is_file() else None
    if given.libraries:
        simulation.check_tools()
        for found in measure(given.libraries, chosen_parts(given.parts), given.dont_use.split(","),
                             pitches_of(given.wires), Store(given.store), gated=not given.ungated):
            figures = merged([figures, found] if figures else [found])
            given.figures.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if figures is None:
        raise ConfigError(f"figures {given.figures}: no such file")
    return figures


if __name__ == "__main__":
    sys.exit(main())
