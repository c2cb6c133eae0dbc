"""The page of a run: per layer its key figures, time, cycles, energy, roofline, memories, phases, every instruction.

`view_of` draws and packs a layer while its program is at hand; `run_page` puts views together. Every figure comes from
the report or from the same timing that the report comes from.
"""

import html
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...sim.phases import OVERHEAD
from ...sim.program import Program
from ...sim.timing import Timing
from ...sim.visual import timelines
from ...sim.visual.bars import energy_bars, ledger_bars
from ...sim.visual.fields import field_columns
from ...sim.visual.occupancy import occupancy_of, values_of
from ...sim.visual.records import macs_of, records
from ...sim.visual.segments import segments_of
from ...sim.visual.svg import CAUSE_COLOURS, PHASES
from ...sim.visual.tables import Cell, pairs, table
from ..comparison import Row, compare, quantities
from ..comparison_text import change, number
from .layout import card, csv_link, fold, page
from .roofline import roofline

KEYS = {
    "cycles": "cycles", "time": "time at the tile's clock", "utilization": "utilization", "dram_bytes": "DRAM bytes",
    "energy.total_pj": "energy", "energy.pj_per_op": "energy per useful op", "energy.average_watt": "average power",
    "rel_rms_error": "relative RMS error", "instructions": "instructions",
}
"""Quantities of a comparison that head a page, and what they are called there."""

_MORE_IS_BETTER = ("utilization",)
_NEUTRAL = ("instructions",)
_BUSY = ("busy", "compute", "fill")


@dataclass(frozen=True, kw_only=True)
class LayerView:
    """What was made of a layer's program: drawings by name, packed records, MACs by phase, and per memory (peak, mean,
    capacity) in bytes."""

    drawings: dict[str, str]
    records: dict
    macs: dict[str, int]
    memories: dict[str, tuple[int, float, int]]


def view_of(program: Program, timing: Timing) -> LayerView:
    """Draw and pack one layer."""
    fields = field_columns(program)
    used = occupancy_of(values_of(program, timing, fields), program.config)
    drawings = {"activity": timelines.activity(segments_of(program, timing), timing.cycles),
                "occupancy": timelines.occupancy(used, timing.cycles)}
    memories = {name: (memory.peak, memory.mean(timing.cycles), memory.capacity) for name, memory in used.items()}
    return LayerView(drawings=drawings, records=records(program, timing, fields),
                     macs=_macs_by_phase(program, timing), memories=memories)


def _macs_by_phase(program: Program, timing: Timing) -> dict[str, int]:
    per = macs_of(timing.shape_events, program.config)[timing.shape]
    found = {}
    names = np.array(program.phases or [""] * len(program.instructions), object)
    for name in dict.fromkeys(names.tolist()):
        found[name or OVERHEAD] = int(per[names == name].sum())
    return found


def run_page(reports: Sequence[dict], views: Sequence[LayerView],
             baselines: Mapping[str, dict] | None = None) -> str:
    """The document of layers, their reports and what was drawn of the same programs and times. baselines:
    {layer: report} to which key figures are compared."""
    first = reports[0]
    title = f"{first['model']} {', '.join(r['layer'] for r in reports)} on {first['tile']}"
    words = first["command"]
    command = "" if words is None else f"<pre>{html.escape(shlex.join(['tilescore', *words]))}</pre>"
    header = (f"<h1>{html.escape(title)}</h1><p class=faint>tilescore {html.escape(first['tilescore'])}; "
              f"{html.escape(_levels(reports))}</p>{command}")
    body = "".join(_layer(i, report, view, (baselines or {}).get(report["layer"]))
                   for i, (report, view) in enumerate(zip(reports, views, strict=True)))
    colours = {"causes": CAUSE_COLOURS, "phases": PHASES}
    return page(f"{title} · tilescore", header, body, {
        "report": {"layers": reports, "memories": [view.memories for view in views],
                   "macs": [view.macs for view in views]},
        "records": {"layers": [view.records for view in views], "colours": colours}})


def _levels(reports: Sequence[dict]) -> str:
    return "; ".join(f"{r['layer']}: " + ", ".join(
        name + (f" {level['result_sha256'][:12]}" if level["result_sha256"] else "")
        for name, level in r["levels"].items()) for r in reports)


def _layer(position: int, report: dict, view: LayerView, baseline: dict | None) -> str:
    name = report["layer"]
    energy = report["energy"]
    spread = f"{energy['low_pj'] / 1e6:,.2f} to {energy['high_pj'] / 1e6:,.2f}"
    blocks = [
        f'<h2 id="{name}">{html.escape(report["model"])} {name}, {report["phase"]}, {report["batch"]} x '
        f'{report["tokens"]} tokens after {report["context"]}, {html.escape(report["format"])}</h2>',
        key_figures(report, baseline),
        card("What each unit does over time", view.drawings["activity"], "Each strip is 100 % of a unit's cycles, "
             "exactly aggregated; what is not coloured is idle.", figure=f"{name}-activity"),
        _viewer(position),
        card("Where the cycles go", ledger_bars([("", report["ledger"])]), "Every cycle of every unit has one cause.",
             figure=f"{name}-ledger"),
        card("Where the energy goes", energy_bars([("", energy["components"])]),
             f"Table {html.escape(energy['table'])}; with all constants at an end of their range: {spread} uJ.",
             figure=f"{name}-energy"),
        card("Roofline", roofline([(name, report)]), figure=f"{name}-roofline"),
        card("On-chip memory in use", view.drawings["occupancy"], "Addresses that hold a value which is still to be "
             "read; the most in each interval. The dashed line is the memory's size.", figure=f"{name}-occupancy"),
        phase_card(report, view.macs), _critical(report), _reproduce(report)]
    return "".join(blocks)


def key_figures(report: dict, baseline: dict | None = None) -> str:
    """The figures of `KEYS`, each with its change against ``baseline``."""
    if baseline is None:
        rows = {n: Row(s, n, unit, (value,)) for (s, n, unit), value in quantities(report)}
    else:
        rows = {row.name: row for row in compare([baseline, report], ["baseline", "this run"]).rows}
    cells = []
    for key, label in KEYS.items():
        row, value = _readable(rows[key]), rows[key].values[-1]
        text = "" if baseline is None else change(row, 1) or "no change"
        cells.append(f'<div class="key" data-key="{key}" data-value="{value!r}"><span>{label}</span>'
                     f"<b>{html.escape(_with_unit(row))}</b>"
                     + (f'<em class="{_judge(row)}">{html.escape(text)}</em>' if text else "") + "</div>")
    bound = max(report["bounds"], key=lambda name: report["bounds"][name])
    ratio = report["cycles"] / report["bounds"][bound]
    cells.append(f'<div class="key" data-key="bound" data-value="{ratio!r}"><span>cycles over the largest bound, '
                 f"{bound.removesuffix('_cycles')}</span><b>{ratio:.3f}</b></div>")
    note = "" if baseline is None else (f'<p class="faint">Changes are against {html.escape(baseline["tile"])}, '
                                        f'{html.escape(str(baseline.get("format")))}, tilescore '
                                        f"{html.escape(baseline['tilescore'])}.</p>")
    return f'<div class="keys">{"".join(cells)}</div>{note}'


def _readable(row: Row) -> Row:
    """Large energies in microjoule."""
    if row.unit != "pJ" or max(value or 0 for value in row.values) < 1e6:
        return row
    return Row(row.section, row.name, "uJ", tuple(None if value is None else value / 1e6 for value in row.values))


def _with_unit(row: Row) -> str:
    text = number(row.values[-1], row.unit)
    return text if row.unit in ("", "cycles") or row.values[-1] is None else f"{text} {row.unit}"


def _judge(row: Row) -> str:
    difference = row.change(1)
    if not difference or row.name in _NEUTRAL:
        return "other"
    return "better" if (difference > 0) == (row.name in _MORE_IS_BETTER) else "worse"


def phase_card(report: dict, macs: Mapping[str, int]) -> str:
    """The phases: a table that sorts, and a CSV with every cause and component."""
    units = [unit for unit in report["ledger"] if unit != "dispatch"]
    head = ["phase", "cycles", *(f"{unit} busy" for unit in units), "DRAM read [B]", "DRAM written [B]", "energy [uJ]",
            "MACs", "instructions"]
    rows: list[list[Cell]] = []
    for phase in report["phases"]:
        busy = [sum(phase["ledger"][unit].get(cause, 0) for cause in _BUSY) for unit in units]
        rows.append([phase["phase"], phase["cycles"], *busy, phase["dram_bytes"]["read"], phase["dram_bytes"]["write"],
                     phase["energy_pj"] / 1e6, macs.get(phase["phase"], 0), phase["instructions"]])
    total: list[Cell] = ["sum", *(math.fsum(c) if isinstance(c[0], float) else sum(c)
                                  for c in list(zip(*rows, strict=True))[1:])]
    link = csv_link(f"{report['layer']}-phases", *phase_rows(report, macs))
    return card("Phases", table(head, rows, total, sortable=True), "Phases overlap; a phase's cycles are those by "
                f"which it moves the latest retirement, so they add up. {link} with every cause and component.")


def phase_rows(report: dict, macs: Mapping[str, int]) -> tuple[list[str], list[list[Cell]]]:
    """(head, rows) of the CSV: exact values."""
    first = report["phases"][0]
    causes = [(unit, cause) for unit, found in first["ledger"].items() for cause in found]
    head = ["phase", "cycles", "instructions", "dram_read_bytes", "dram_write_bytes", "macs", "energy_pj",
            *(f"{unit}.{cause}" for unit, cause in causes), *(f"{name}_pj" for name in first["components"])]
    rows = [[p["phase"], p["cycles"], p["instructions"], p["dram_bytes"]["read"], p["dram_bytes"]["write"],
             macs.get(p["phase"], 0), p["energy_pj"], *(p["ledger"][u][c] for u, c in causes),
             *p["components"].values()] for p in report["phases"]]
    return head, rows


def _critical(report: dict) -> str:
    units = list(dict.fromkeys(unit for found in report["critical_path"].values() for unit in found))
    rows = [[phase, *(found.get(unit, 0) for unit in units), sum(found.values())]
            for phase, found in report["critical_path"].items()]
    total = ["sum", *(sum(column) for column in list(zip(*rows, strict=True))[1:])]
    return card("Critical path", table(["phase", *units, "cycles"], rows, total, sortable=True),
                "Cycles along the chain of causes behind the last cycle, by phase and unit; what is not on it could be "
                "slower without any effect.")


def _reproduce(report: dict) -> str:
    return (f'<section class="card"><h3>To have it again</h3>{pairs(provenance_values(report))}'
            + fold("schedule", f"<pre>{html.escape(json.dumps(report['schedule'], indent=2))}</pre>")
            + fold("tile", f"<pre>{html.escape(json.dumps(report['tile_parameters'], indent=2))}</pre>") + "</section>")


def provenance_values(report: dict) -> dict[str, object]:
    """What decides the figures of a report, and what they were made with."""
    command = "from Python" if report["command"] is None else shlex.join(["tilescore", *report["command"]])
    levels = ", ".join(name + (f" (result {level['result_sha256']})" if level["result_sha256"] else "")
                       for name, level in report["levels"].items())
    return {"command": command, "tilescore": report["tilescore"], "levels that agree": levels,
            "tile": f"{report['tile']}, {report['tile_digest']}, {report['clock_mhz']:g} MHz",
            "energy table": f"{report['energy']['table']}, {report['energy']['digest']}",
            "numerics": ", ".join(f"{k} {v}" for k, v in report["numerics"].items() if v is not None),
            "routing": report["routing"] or "the router's own", "seed": report["seed"], "mask": report["mask"]}


def _viewer(position: int) -> str:
    buttons = "".join(f'<button type="button" data-act="{act}">{label}</button>' for act, label in (
        ("in", "zoom in"), ("out", "zoom out"), ("all", "all"), ("left", "◀"), ("right", "▶"),
        ("previous", "previous instruction"), ("next", "next instruction")))
    return (f'<section class="card viewer" id="viewer-{position}"><h3>Every instruction</h3><p class="faint">Wheel or '
            'keys + and - zoom, drag moves, a click chooses. An instruction has its phase\'s colour; lower, in gaps: '
            f'what the next one waits for. <span class="phases"></span></p>{buttons}<input type="number" min="-1" '
            'placeholder="instruction" aria-label="number of an instruction"><canvas tabindex="0" '
            'aria-label="timeline"></canvas><p class="faint range"></p><div class="detail"><p class="faint">No '
            "instruction is chosen.</p></div></section>")
