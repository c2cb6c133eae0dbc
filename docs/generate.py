"""Write the generated parts of the documentation: `python docs/generate.py [--measure] [--check]`.

`isa.md` is generated as a whole. The other pages are written by hand except between lines
``<!-- generated: NAME -->`` and ``<!-- end -->``, where NAME is a key of `PARTS`, or with ``--measure`` also of
`MEASURED`, which take some seconds. With ``--check`` nothing is written. `tests/test_docs.py` fails when a file is not
what this script would write.
"""

import contextlib
import io
import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from tilescore.cli.main import main as command_line
from tilescore.rtl.axi.register_text import markdown as registers
from tilescore.rtl.events import EVENTS
from tilescore.rtl.isa import reference_page
from tilescore.rtl.ledger import LEDGER_COUNTERS
from tilescore.rtl.tile_file import keys_table
from tilescore.sim.energy import TABLES, load_table

DOCS = Path(__file__).resolve().parent
_PART = re.compile(r"(?<=<!-- generated: )(\S+)( -->\n).*?(?=<!-- end -->)", re.DOTALL)


def constants(name: str) -> str:
    """The constants of an energy table as a Markdown table, and their sources below it."""
    table = load_table(name)
    rows = [f"| `{c.name}` | {c.value:g} | {c.low:g} to {c.high:g} | {c.unit} | {c.status} |"
            for c in table.constants.values()]
    sources = [f"* `{c.name}`: {' '.join(c.source.split())}" for c in table.constants.values()]
    head = ["| constant | value | range | unit | status |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows, "", *sources]) + "\n"


def events() -> str:
    """Every counted event as a Markdown table."""
    rows = [f"| `{event.name}` | {event.unit} | {event.description} |" for event in EVENTS]
    return "\n".join(["| event | one count is | counted when |", "|---|---|---|", *rows]) + "\n"


def ledger() -> str:
    """Every cause of the ledger as a Markdown table, causes that units share in one row."""
    units: dict[tuple[str, str], list[str]] = {}
    for counter in LEDGER_COUNTERS:
        units.setdefault((counter.cause, counter.description), []).append(counter.unit)
    rows = [f"| `{cause}` | {', '.join(names)} | {text} |" for (cause, text), names in units.items()]
    return "\n".join(["| cause | units | cycles in which |", "|---|---|---|", *rows]) + "\n"


PARTS: dict[str, Callable[[], str]] = {
    "tile-keys": keys_table, "events": events, "ledger": ledger, "registers": registers,
    **{f"constants-{name}": (lambda name=name: constants(name)) for name in TABLES}}


def comparison() -> str:
    """What the commands of comparison.md report, as a Markdown table."""
    rows = []
    text = (DOCS / "comparison.md").read_text(encoding="utf-8")
    for line in re.findall(r"^\$ tilescore (run .*)$", text, re.MULTILINE):
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            command_line([*shlex.split(line), "--json"])
        report = json.loads(output.getvalue())
        name = {"attention": "attention", "moe": "MoE"}[report["layer"]]
        rows.append(f"| {name} | {report['cycles']:,} | {100 * report['utilization']:.1f} % | "
                    f"{report['dram_bytes']['read']:,} | {report['dram_bytes']['write']:,} |")
    head = ["| layer | cycles | utilization | DRAM bytes read | DRAM bytes written |", "|---|---|---|---|---|"]
    return "\n".join([*head, *rows]) + "\n"


MEASURED: dict[str, Callable[[], str]] = {"comparison": comparison}


def with_parts(text: str, measure: bool = False) -> str:
    """``text`` with every generated part as it should be. Raises `KeyError` for an unknown part."""
    def make(match: re.Match[str]) -> str:
        name = match[1]
        if name in MEASURED and not measure:
            return match[0]
        return name + match[2] + (PARTS | MEASURED)[name]()
    return _PART.sub(make, text)


def pages(measure: bool = False) -> dict[Path, str]:
    """{file: what it should contain} of every file with a generated part."""
    wanted = {DOCS / "isa.md": reference_page()}
    for path in sorted(DOCS.rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        if _PART.search(text):
            wanted[path] = with_parts(text, measure)
    return wanted


def stale(measure: bool = False) -> dict[Path, str]:
    """The files of `pages` that contain something else."""
    return {path: text for path, text in pages(measure).items()
            if not path.is_file() or path.read_text(encoding="utf-8") != text}


def main() -> int:
    """Write or check; the exit status is 1 when a check finds a stale file."""
    found = stale("--measure" in sys.argv)
    for path, text in found.items():
        print(f"{path.relative_to(DOCS.parent)}: {'is stale' if '--check' in sys.argv else 'written'}")
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
    return int(bool(found) and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
