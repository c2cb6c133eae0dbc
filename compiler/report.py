"""What `run` and `simulate` report: one object per layer, and its table on a terminal.

The names in the object are an interface; scripts read them. `docs/report.md` explains each.
"""

import math
from dataclasses import asdict, replace

import numpy as np

from ..rtl.spec.config import TileConfig
from ..rtl.spec.errors import CompileError, ProgramError
from ..rtl.spec.events import event_counts
from ..rtl.spec.isa import ScaleRule
from ..sim.area import area_of
from ..sim.critical_path import critical_path
from ..sim.energy import EnergyTable, load_table
from ..sim.phases import phases_of
from ..sim.program import Program
from ..sim.result import Result
from ..sim.simulate import simulate
from ..sim.timeline import timeline_of
from .bounds import bounds, peak_macs_per_cycle
from .compile import CompiledLayer
from .dispatch import padded_rows
from .formats import E4M3
from .graph.calibrate import Scales
from .lowering.plan import layer_plan
from .numerics import Numerics
from .products import useful_macs
from .provenance import provenance, table_digest
from .routing import Routing
from .schedule import to_dict

BOUNDS = ("compute_cycles", "dram_cycles", "vector_cycles")
"""Fields of `Bounds` that are reported."""


MAY_BE_ZERO = ("context", "layer_index", "flipped_tokens", "useful_macs", "compute_cycles", "vector_cycles")
"""Of a description: a norm multiplies no matrices."""


def describe(compiled: CompiledLayer, config: TileConfig, *, seed: int | None) -> dict:
    """What a program file must remember of its layer, so that `simulate` reports what `run` reports."""
    workload = compiled.workload
    limit = bounds(workload, config, compiled.routing, compiled.numerics)
    return {
        "layer": workload.layer.kind, "model": workload.layer.model, "phase": workload.phase,
        "tokens": workload.tokens, "context": workload.cached, "batch": workload.batch, "mask": workload.mask,
        "seed": seed, "useful_macs": useful_macs(workload, compiled.routing), "bounds": asdict(limit),
        "numerics": compiled.numerics.to_dict(),
        "peak_macs_per_cycle": peak_macs_per_cycle(config, workload, compiled.numerics),
        "e4m3_read_bytes": _e4m3_read_bytes(compiled, config),
        "schedule": to_dict(compiled.schedule), "routing": compiled.routing_source,
        "flipped_tokens": compiled.flipped,
        "experts": None if compiled.routing is None else expert_load(compiled.routing, config.rows),
    }


def expert_load(routing: Routing, tile_rows: int) -> dict:
    """Tokens of each expert, what a mode dropped and added (`dispatch.py`), and rows that whole tiles would pad."""
    counts = routing.counts
    mean = routing.pairs / routing.experts
    return {"counts": counts.tolist(), "active": len(routing.active), "pairs": routing.pairs,
            "dropped": routing.dropped, "added": routing.added, "tile_rows": tile_rows,
            "padded_rows": padded_rows(counts, tile_rows),
            "max_over_mean": float(counts.max() / mean) if mean else None}


def _e4m3_read_bytes(compiled: CompiledLayer, config: TileConfig) -> int | None:
    """DRAM bytes that the same layer reads in E4M3, with its own schedule; None when it is in E4M3 or that is not
    built."""
    if compiled.numerics.formats == E4M3 or "e4m3" not in config.formats:
        return None
    numerics = replace(compiled.numerics, formats=E4M3, scale_rule=ScaleRule.FLOOR)
    steps = layer_plan(compiled.workload, config, numerics, compiled.routing)
    program = steps.program(steps.schedule(), Scales())
    columns = program.columns
    beats = int(columns.column(event_counts(form, config).get("dram_read_beats", 0) for form in columns.forms).sum())
    return beats * config.bus_bytes


def check_description(program: Program) -> None:
    """Raise `ProgramError` unless ``program`` has a result ``out`` and in ``meta`` what `describe` puts there."""
    def need(meta: dict, keys: dict, prefix: str = "") -> None:
        for key, kind in keys.items():
            value, low = meta.get(key), 0 if key in MAY_BE_ZERO else 1
            if type(value) is not kind or (isinstance(value, int) and not low <= value < 1 << 63):
                kind_name = {str: "a string", dict: "an object",
                             int: f"an integer of at least {low} and below 2**63"}[kind]
                raise ProgramError(f"not made by `tilescore compile`: expected {prefix}{key} in its description, "
                                   f"{kind_name}, got {repr(value)[:60]}")

    need(program.meta, {"layer": str, "model": str, "phase": str, "tokens": int, "context": int, "batch": int,
                        "mask": str, "numerics": dict, "useful_macs": int, "peak_macs_per_cycle": int, "bounds": dict,
                        "schedule": dict})
    for key, kinds in (("seed", (int, type(None))), ("routing", (str, type(None)))):
        if key not in program.meta or type(program.meta[key]) not in kinds:
            raise ProgramError(f"not made by `tilescore compile`: expected {key} in its description, got "
                               f"{repr(program.meta.get(key))[:60]}")
    numerics_of(program.meta)
    if program.meta.get("e4m3_read_bytes") is not None:
        need(program.meta, {"e4m3_read_bytes": int})
    for key, kind in (("layer_index", int), ("layer_of_model", str)):
        if program.meta.get(key) is not None:
            need(program.meta, {key: kind})
    if program.meta.get("flipped_tokens") is not None:
        need(program.meta, {"flipped_tokens": int})
    need(program.meta["bounds"], dict.fromkeys(BOUNDS, int), "bounds.")
    names = [region.name for region in program.outputs]
    if names[:1] != ["out"]:
        raise ProgramError("not made by `tilescore compile`: expected a result named out, "
                           f"got {', '.join(names) or 'none'}")


def numerics_of(meta: dict) -> Numerics:
    """The `Numerics` of a described program. Raises `ProgramError`."""
    try:
        return Numerics.from_dict(meta["numerics"], "its description: numerics")
    except CompileError as error:
        raise ProgramError(f"not made by `tilescore compile`: {error}") from None


def rel_rms_error(result: np.ndarray, expected: np.ndarray) -> float:
    """Root mean square of the difference over that of ``expected``; infinite when a result is not finite."""
    difference = result.astype(np.float64) - expected
    if not np.isfinite(difference).all():
        return float("inf")
    scale = float(np.sqrt(np.mean(np.square(expected))))
    error = float(np.sqrt(np.mean(np.square(difference))))
    return error / scale if scale else error


def report_compiled(compiled: CompiledLayer, *, energy: str | EnergyTable = "7nm", seed: int | None = None) -> dict:
    """The report of a compiled layer at the timing level, with its timeline: what a gate or a comparison takes.

    energy: a name or file for `load_table`, or a table. seed: that of the tensors, for the report.
    """
    table, program = energy if isinstance(energy, EnergyTable) else load_table(energy), compiled.program
    meta = program.meta | describe(compiled, program.config, seed=seed)
    result = simulate(replace(program, meta=meta), ("timing",), energy_table=table)
    report = layer_report(meta, program, result, table, expected=None, compile_s=0.0, simulate_s=result.wall_s)
    return report | {"timeline": timeline_of(program, result.timing).to_dict()}


def layer_report(meta: dict, program: Program, result: Result, table: EnergyTable, *, expected: np.ndarray | None,
                 expected_routed: np.ndarray | None = None, compile_s: float, simulate_s: float,
                 command: list[str] | None = None) -> dict:
    """The JSON object of one layer. table: the one that ``result`` was made with. expected, expected_routed: as in
    `CompiledLayer`."""
    config, numerics = program.config, numerics_of(meta)
    peak = meta["peak_macs_per_cycle"]
    useful = meta["useful_macs"]
    finite = None if result.outputs is None else bool(np.isfinite(result.outputs["out"]).all())
    flipped = meta.get("flipped_tokens")
    bus = config.bus_bytes
    return {
        **{key: meta[key] for key in ("layer", "model", "phase", "tokens", "context", "batch", "mask")},
        "layer_index": meta.get("layer_index"), "layer_of_model": meta.get("layer_of_model"),
        "format": numerics.formats.name,
        "tile": config.name,
        "cycles": result.cycles,
        "useful_macs": useful,
        "peak_macs_per_cycle": peak,
        "utilization": useful / (peak * result.cycles),
        "bounds": {key: meta["bounds"][key] for key in BOUNDS},
        "dram_bytes": {"read": result.events["dram_read_beats"] * bus,
                       "write": result.events["dram_write_beats"] * bus,
                       "scales": result.events["scale_beats"] * bus},
        "bandwidth_gain": _gain(meta.get("e4m3_read_bytes"), result.events["dram_read_beats"] * bus),
        "ledger": result.ledger,
        "events": result.events,
        "energy": {**result.energy.to_dict(), "digest": table_digest(table)},
        "area": area_of(config, table).to_dict(),
        "experts": meta.get("experts"),
        "phases": [phase.to_dict() for phase in phases_of(program, result.timing, table)],
        "critical_path": critical_path(program, result.timing),
        "numerics": {**numerics.to_dict(), "rel_rms_error": _error_of(result, expected), "finite": finite,
                     "routing_flips": None if flipped is None else flipped / (meta["batch"] * meta["tokens"]),
                     "rel_rms_error_float64_routing": _error_of(result, expected_routed),
                     "flags": None if result.status is None else list(result.status)},
        "instructions": len(program.instructions),
        "levels": {name: {"cycles": level.cycles, "result_sha256": level.result_sha256, "numerics": numerics.digest}
                   for name, level in result.levels.items()},
        "wall_s": {"compile": round(compile_s, 3), "simulate": round(simulate_s, 3)},
        "clock_mhz": config.clock_mhz,
        **provenance(meta, program, command),
    }


def _error_of(result: Result, expected: np.ndarray | None) -> float | None:
    """`rel_rms_error` of the layer's output; None without either, or when it is not finite."""
    if result.outputs is None or expected is None:
        return None
    error = rel_rms_error(result.outputs["out"], expected)
    return error if math.isfinite(error) else None


def _gain(e4m3_bytes: int | None, read_bytes: int) -> float | None:
    return None if e4m3_bytes is None else e4m3_bytes / read_bytes


def table(reports: list[dict]) -> str:
    """Layers as columns, quantities as rows, plain text."""
    rows = [("", [f"{r['model']} {r['layer']}" for r in reports])]
    rows += [(label, [make(r) for r in reports]) for label, make in _ROWS]
    width = max(len(label) for label, _ in rows)
    columns = [max(len(cells[i]) for _, cells in rows) for i in range(len(reports))]
    lines = []
    for label, cells in rows:
        lines.append("  ".join([label.ljust(width), *(cell.rjust(columns[i]) for i, cell in enumerate(cells))]))
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(lines)


def headline(report: dict) -> str:
    """The result of one layer in a line, for a run that goes on with others."""
    return (f"{report['model']} {report['layer']} on {report['tile']}: {report['cycles']:,} cycles, utilization "
            f"{_percent(report['utilization'])}, pJ per useful op {_energy(report)}, relative RMS error "
            f"{_error(report)}")


def phase_table(report: dict) -> str:
    """The phases of one layer as rows, and their sum: cycles, the share of each unit's busy cycles, bytes, energy."""
    units = [unit for unit in report["ledger"] if unit != "dispatch"]
    head = [f"{report['model']} {report['layer']}", "cycles", *units, "DRAM bytes", "energy [uJ]", "instructions"]
    rows = []
    for phase in report["phases"]:
        busy = [sum(phase["ledger"][unit].get(cause, 0) for cause in ("busy", "compute", "fill")) for unit in units]
        rows.append([phase["phase"], phase["cycles"], *busy, sum(phase["dram_bytes"].values()),
                     phase["energy_pj"] / 1e6, phase["instructions"]])
    total = ["sum", *(math.fsum(column) if isinstance(column[0], float) else sum(column)
                      for column in list(zip(*rows, strict=True))[1:])]
    cells = [head] + [[str(row[0]), *(f"{v:,.2f}" if isinstance(v, float) else f"{v:,}" for v in row[1:])]
                      for row in [*rows, total]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
    lines = ["  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in
                                                    zip(line[1:], widths[1:], strict=True))]) for line in cells]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _flags(flags: list[str] | None) -> str:
    return "-" if flags is None else ", ".join(flags) or "none"


def _percent(part: float) -> str:
    return f"{100 * part:.1f} %"


def _busy(unit: str):
    def cell(report: dict) -> str:
        causes = report["ledger"][unit]
        busy = sum(causes.get(name, 0) for name in ("busy", "compute", "fill"))
        waits = {name: count for name, count in causes.items() if name not in ("busy", "compute", "fill") and count}
        worst = max(waits, key=waits.__getitem__, default=None)
        text = _percent(busy / report["cycles"])
        if worst is None:
            return text
        return f"{text}, {worst.replace('_', ' ')} {_percent(waits[worst] / report['cycles'])}"
    return cell


def _energy(report: dict) -> str:
    energy = report["energy"]
    if energy["pj_per_op"] is None:
        return "-"
    ratio = energy["pj_per_op"] / energy["total_pj"]
    return f"{energy['pj_per_op']:.3f} ({energy['low_pj'] * ratio:.3f} to {energy['high_pj'] * ratio:.3f})"


def _largest_components(report: dict) -> str:
    energy = report["energy"]
    parts = sorted(energy["components"].items(), key=lambda item: -item[1])[:3]
    return ", ".join(f"{name} {_percent(value / energy['total_pj'])}" for name, value in parts)


def _error(report: dict) -> str:
    numerics = report["numerics"]
    if numerics["finite"] is False:
        return "the result is not finite"
    return "-" if numerics["rel_rms_error"] is None else f"{numerics['rel_rms_error']:.4f}"


def _flips(report: dict) -> str:
    numerics = report["numerics"]
    if numerics["routing_flips"] is None:
        return "-"
    error = numerics["rel_rms_error_float64_routing"]
    share = f"{100 * numerics['routing_flips']:.2f} %"
    return share if error is None else f"{share}, error with its routing {error:.4f}"


def _load(report: dict) -> str:
    load = report.get("experts")
    if not load:
        return "-"
    ratio = load["max_over_mean"]
    return f"{load['active']} of {len(load['counts'])}, {'-' if ratio is None else f'{ratio:.2f}'}"


def _pairs(report: dict) -> str:
    load = report.get("experts")
    return "-" if not load else (f"{load['dropped']:,}, {load['added']:,} of {load['pairs']:,}; "
                                 f"{load['padded_rows']:,} to tiles of {load['tile_rows']}")


def _levels(report: dict) -> str:
    return ", ".join(report["levels"])


_ROWS = (
    ("phase, tokens", lambda r: f"{r['phase']}, {r['batch']} x {r['tokens']} after {r['context']}"),
    ("layer of the model", lambda r: r["layer_of_model"] or "-"),
    ("tile", lambda r: f"{r['tile']}, {r['peak_macs_per_cycle']:,} MAC/cycle"),
    ("cycles", lambda r: f"{r['cycles']:,}"),
    ("time at the tile's clock", lambda r: f"{r['cycles'] / r['clock_mhz']:,.1f} us"),
    ("useful MACs", lambda r: f"{r['useful_macs']:,}"),
    ("utilization", lambda r: _percent(r["utilization"])),
    ("bound: compute cycles", lambda r: f"{r['bounds']['compute_cycles']:,}"),
    ("bound: DRAM cycles", lambda r: f"{r['bounds']['dram_cycles']:,}"),
    ("bound: vector cycles", lambda r: f"{r['bounds']['vector_cycles']:,}"),
    ("cycles / largest bound", lambda r: f"{r['cycles'] / max(r['bounds'].values()):.3f}"),
    ("format: weights:activations:kv", lambda r: r["format"]),
    ("numerics, softmax block", lambda r: f"{r['numerics']['digest']}, {r['numerics']['softmax_block']} keys"),
    ("scale bytes, gain over e4m3", lambda r: f"{r['dram_bytes']['scales']:,} B"
     + ("" if r["bandwidth_gain"] is None else f", {r['bandwidth_gain']:.2f} x")),
    ("DRAM read, written", lambda r: f"{r['dram_bytes']['read']:,} B, {r['dram_bytes']['write']:,} B"),
    ("matrix unit", _busy("matrix")),
    ("load unit", _busy("load")),
    ("vector unit", _busy("vector")),
    ("store unit", _busy("store")),
    ("energy table", lambda r: r["energy"]["table"]),
    ("pJ per useful op (range)", _energy),
    ("average power, of it leakage", lambda r: f"{1e3 * r['energy']['average_watt']:,.2f} mW, "
     f"{1e3 * r['energy']['leakage_watt']:,.2f} mW"),
    ("largest shares", _largest_components),
    ("clock of idle PEs, of idle vector lanes", lambda r: ", ".join(
        _percent(value / r["energy"]["total_pj"]) for value in r["energy"]["idle_pj"].values())),
    ("area, per TOPS at the FP8 peak", lambda r: f"{r['area']['total_mm2']:,.3f} mm2, "
                                                 f"{r['area']['mm2_per_tops']:,.3f} mm2"),
    ("relative RMS error", _error),
    ("tokens routed unlike float64", _flips),
    ("experts used, largest over mean load", _load),
    ("pairs dropped, added; rows padded", _pairs),
    ("flags of MATMUL results", lambda r: _flags(r["numerics"]["flags"])),
    ("instructions", lambda r: f"{r['instructions']:,}"),
    ("levels that agree", _levels),
    ("compile, simulate", lambda r: f"{r['wall_s']['compile']:.2f} s, {r['wall_s']['simulate']:.2f} s"),
)
