"""Area, longest path and energy of parts of the tile in the cells of Liberty files, and the energy tables from them.

    python benchmarks/gates/run.py LIBERTY [LIBERTY ...] [--parts pe,vector,...] [--stale] [--store DIR] [--write]
    python benchmarks/gates/run.py --write

LIBERTY: a standard-cell library, .lib or .lib.gz. Needs Yosys (`pip install pyosys`) and a C++ compiler. What is
measured is added to the figures in benchmarks/gates/figures.json; ``--write`` writes these, the page
benchmarks/gates.md and the energy tables that are made from them; without LIBERTY from the figures as they are.
``--stale`` measures again only what the figures have of these libraries and what has changed in the RTL since
(`stale.py`): minutes for a unit, and nothing if nothing changed.
``--store`` keeps netlists, recordings and toggles, so that the command goes on where it stopped and does again only
what changed: everything from nothing takes hours, most of them in ABC.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

from tilescore.benchmarks.gates import simulation, tables
from tilescore.benchmarks.gates.delays import inverter_of_four
from tilescore.benchmarks.gates.liberty import Library, library_of, parse, read_text
from tilescore.benchmarks.gates.measure import measure_part, wire_ff
from tilescore.benchmarks.gates.parts import PARTS, Part, record_parts
from tilescore.benchmarks.gates.stale import UNGATED, stale
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


def libraries_of(paths: Sequence[Path], dont_use: Sequence[str]) -> list[tuple[Library, str]]:
    """Each with its file's text."""
    texts = [read_text(path) for path in paths]
    return [(without(library_of(parse(text, str(path)), str(path)), dont_use), text)
            for path, text in zip(paths, texts, strict=True)]


def measure(libraries: Sequence[tuple[Library, str]], parts: Sequence[Part], pitches: Sequence[float], store: Store, *,
            gated: bool = True, only: Collection[tuple[str, str]] | None = None) -> Iterator[dict]:
    """Figures of one library and one part at a time. only: of these names of libraries and of parts in figures."""
    def wanted(library: Library, part: Part) -> bool:
        return only is None or (library.name, _name(part, gated)) in only

    chosen = [part for part in parts if any(wanted(library, part) for library, _ in libraries)]
    for part, rtlil, runs in record_parts(chosen, store):
        for library, text in libraries:
            if wanted(library, part):
                found = measure_part(part, rtlil, runs, library, text, pitches, store, gated=gated)
                print(f"gates: {library.name}: {part.label}", file=sys.stderr)
                yield {"pitches": list(pitches), "libraries": [{
                    "name": library.name, "corner": library.corner, "voltage": library.voltage,
                    "temperature": library.temperature, "fo4_ps": inverter_of_four(library)[0],
                    "wires_ff": [wire_ff(library, length) for length in pitches],
                    "parts": {_name(part, gated): found}}]}


def _name(part: Part, gated: bool) -> str:
    return part.name if gated else part.name + UNGATED


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
    base = name.removesuffix(UNGATED)
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
    options.add_argument("--stale", action="store_true", help="only what changed since the figures were made")
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
    """The figures that there are and those of the libraries given now, written as they come. Parts that judge the
    tables come when the tables are written."""
    figures = read_figures(given.figures) if given.figures.is_file() else None
    if given.libraries:
        parts, pitches = chosen_parts(given.parts), pitches_of(given.wires)
        libraries = libraries_of(given.libraries, given.dont_use.split(","))
        simulation.check_tools()
        for judges in (False, True):
            group = [part for part in parts if part.fitted != judges]
            only = set(stale(figures, group)) if given.stale and figures else None
            for gated in (True, False) if given.stale else (not given.ungated,):
                for found in measure(libraries, group, pitches, Store(given.store), gated=gated, only=only):
                    figures = merged([figures, found] if figures else [found])
                    given.figures.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
            if given.write and not judges and group and figures:
                tables.write(figures)
    if figures is None:
        raise ConfigError(f"figures {given.figures}: no such file")
    return figures


if __name__ == "__main__":
    sys.exit(main())
