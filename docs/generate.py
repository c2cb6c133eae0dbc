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
from typing import Any

from tilescore.cli.main import main as command_line
from tilescore.compiler.bounds import bounds
from tilescore.compiler.compile import compile_layer
from tilescore.compiler.feed_forward import MoELayer
from tilescore.compiler.formats import PRESETS
from tilescore.compiler.layers import AttentionLayer, Workload
from tilescore.compiler.numerics import Numerics
from tilescore.compiler.sweep.columns import columns_page
from tilescore.compiler.sweep.keys import keys_page
from tilescore.rtl.export.register_text import markdown as registers
from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.events import EVENTS
from tilescore.rtl.spec.isa import reference_page
from tilescore.rtl.spec.ledger import LEDGER_COUNTERS
from tilescore.rtl.spec.tile_file import keys_table
from tilescore.sim.energy import load_table
from tilescore.sim.names import TABLES
from tilescore.sim.timing import time_program

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
    "sweep-keys": keys_page, "sweep-columns": columns_page,
    **{f"constants-{name}": (lambda name=name: constants(name)) for name in TABLES}}


def comparison() -> str:
    """What the commands of comparison.md report, as a Markdown table."""
    rows = []
    text = (DOCS / "comparison.md").read_text(encoding="utf-8")
    for line in re.findall(r"^\$ tilescore (run .*)$", text, re.MULTILINE):
        report, shared = (_report([*shlex.split(line), *more]) for more in ((), ("--tile-set", "dram_shared=true")))
        name = {"attention": "attention", "moe": "MoE"}[report["layer"]]
        rows.append(f"| {name} | {report['cycles']:,} | {100 * report['utilization']:.1f} % | "
                    f"{report['dram_bytes']['read']:,} | {report['dram_bytes']['write']:,} | {shared['cycles']:,} |")
    head = ["| layer | cycles | utilization | DRAM bytes read | DRAM bytes written | cycles on one port |",
            "|---|---|---|---|---|---|"]
    return "\n".join([*head, *rows]) + "\n"


def _report(arguments: list[str]) -> dict:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        command_line([*arguments, "--json"])
    return json.loads(output.getvalue())


def experts(count: int, hidden: int, intermediate: int, tokens: int, top_k: int = 1) -> Workload:
    return Workload(layer=MoELayer(hidden=hidden, experts=count, top_k=top_k, intermediate=intermediate,
                                   norm_topk=True), tokens=tokens)


def heads(count: int, kv_heads: int, head_dim: int, hidden: int, tokens: int, **request: Any) -> Workload:
    return Workload(layer=AttentionLayer(hidden=hidden, heads=count, kv_heads=kv_heads, head_dim=head_dim),
                    tokens=tokens, **request)


BOUNDED: tuple[tuple[str, Workload, str, str, str], ...] = (
    ("2 experts, 1 token", experts(2, 1024, 1024, 1, 2), "edge", "e4m3", ""),
    ("2 experts, 1 token", experts(2, 1024, 1024, 1, 2), "edge", "nvfp4", ""),
    ("1 expert, 17 tokens", experts(1, 1024, 1024, 17), "edge", "e4m3", ""),
    ("attention, 512 tokens, no mask", heads(16, 4, 128, 2048, 512, mask="none"), "edge", "e4m3", ""),
    ("attention, 1 token after 2,000", heads(16, 4, 128, 2048, 1, context=2000), "edge", "e4m3", ""),
    ("attention, 1 token after 8,000", heads(16, 4, 128, 256, 1, context=8000), "edge", "e4m3", ""),
    ("1 expert, 128 tokens", experts(1, 1024, 2048, 128), "edge", "e4m3",
     "buffer A holds the products of a part of the tokens: weights are read again for each part"),
    ("1 expert, 128 tokens", experts(1, 1024, 2048, 128), "edge", "nvfp4",
     "as above"),
    ("16 experts, 64 tokens, top 8", experts(16, 1024, 256, 64, 8), "edge", "e4m3",
     "each token's results of 8 experts go to DRAM and come back"),
    ("attention, 512 tokens, causal", heads(4, 2, 128, 256, 512), "edge", "e4m3",
     "the array and the vector unit each have their work, and a short layer has little to overlap; blocks of keys on "
     "the diagonal are computed whole"),
    ("short heads, 1,024 tokens", heads(8, 8, 32, 64, 1024, mask="none"), "server", "e4m3",
     "a head of 32 fills 32 of 128 columns of the array in P V and of the lanes in the merges"),
    ("4 experts, 8 tokens", experts(4, 64, 64, 8, 2), "edge", "e4m3",
     "filling and draining, program pages and the waits between router, experts and combine"),
)
"""Layers of bounds.md: name, workload, tile, format, and why the bound is more than a tenth away, if it is."""


def bounds_reached() -> str:
    """How close the schedules chosen by rule come to the bounds, as a Markdown table."""
    rows = []
    for name, workload, tile, preset, reason in BOUNDED:
        config, numerics = load_tile(tile), Numerics(formats=PRESETS[preset])
        compiled = compile_layer(workload, config, data=False, numerics=numerics,
                                 routing="balanced" if workload.layer.kind == "moe" else None)
        limit, timing = bounds(workload, config, compiled.routing, numerics), time_program(compiled.program)
        cycles = {"compute": limit.compute_cycles, "DRAM": limit.dram_cycles, "vector": limit.vector_cycles}
        which = max(cycles, key=cycles.__getitem__)
        ratio = timing.cycles / limit.cycles
        if (ratio > 1.1) != bool(reason):
            raise ValueError(f"bounds.md: {name}, {preset}: {ratio:.3f} of its bound; a reason is for more than 1.1")
        read = timing.events["dram_read_beats"] * config.bus_bytes / limit.read_bytes
        rows.append(f"| {name} | {tile}, {preset} | {which} | {ratio:.2f} | {read:.2f} | "
                    f"{timing.ledger['matrix']['compute'] / limit.compute_cycles:.2f} | "
                    f"{timing.ledger['vector']['busy'] / limit.vector_cycles:.2f} | {reason} |")
    head = ["| layer | tile, format | bound | cycles | bytes read | array | vector | why it is more than 1.10 |",
            "|---|---|---|---|---|---|---|---|"]
    return "\n".join([*head, *rows]) + "\n"


MEASURED: dict[str, Callable[[], str]] = {"comparison": comparison, "bounds": bounds_reached}


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
