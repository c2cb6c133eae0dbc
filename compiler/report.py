"""What `run` and `simulate` report: one object per layer, and its table on a terminal.

The names in the object are an interface; scripts read them. `docs/report.md` explains each.
"""

import math
from dataclasses import asdict

import numpy as np

from ..rtl.config import TileConfig
from ..rtl.errors import ProgramError
from ..rtl.events import event_counts
from ..sim.program import Program
from ..sim.result import Result
from .attention.inputs import AttentionScales
from .attention.lower import lower_attention
from .auto import attention_schedule, moe_schedule
from .bounds import bounds, peak_macs_per_cycle
from .compile import CompiledLayer
from .formats import E4M3
from .moe.inputs import unit_scales
from .moe.lower import lower_moe


def describe(compiled: CompiledLayer, config: TileConfig, *, seed: int | None) -> dict:
    """What a program file must remember of its layer, so that `simulate` reports what `run` reports."""
    workload = compiled.workload
    limit = bounds(workload, config, compiled.routing, compiled.formats)
    return {
        "layer": workload.layer.kind, "model": workload.layer.model, "phase": workload.phase,
        "tokens": workload.tokens, "context": workload.cached, "batch": workload.batch, "mask": workload.mask,
        "seed": seed, "useful_macs": workload.useful_macs(), "bounds": asdict(limit),
        "format": compiled.formats.name, "peak_macs_per_cycle": peak_macs_per_cycle(config, compiled.formats),
        "e4m3_read_bytes": _e4m3_read_bytes(compiled, config),
    }


def _e4m3_read_bytes(compiled: CompiledLayer, config: TileConfig) -> int | None:
    """DRAM bytes that the same layer reads in E4M3, with its own schedule; None when it is in E4M3 or that is not
    built."""
    if compiled.formats == E4M3 or "e4m3" not in config.formats:
        return None
    if compiled.routing is None:
        program = lower_attention(compiled.workload, config, attention_schedule(compiled.workload, config),
                                  AttentionScales())
    else:
        schedule = moe_schedule(compiled.workload, compiled.routing, config)
        program = lower_moe(compiled.workload, compiled.routing, config, schedule, unit_scales(compiled.routing))
    beats = sum(event_counts(i, config).get("dram_read_beats", 0) for i in program.instructions)
    return beats * config.bus_bytes


def check_description(program: Program) -> None:
    """Raise `ProgramError` unless ``program`` has a result ``out`` and in ``meta`` what `describe` puts there."""
    def need(meta: dict, keys: dict, prefix: str = "") -> None:
        for key, kind in keys.items():
            value, low = meta.get(key), 0 if key == "context" else 1
            if type(value) is not kind or (isinstance(value, int) and value < low):
                kind_name = {str: "a string", int: f"an integer of at least {low}", dict: "an object"}[kind]
                raise ProgramError(f"not made by `tilescore compile`: expected {prefix}{key} in its description, "
                                   f"{kind_name}, got {repr(value)[:60]}")

    need(program.meta, {"layer": str, "model": str, "phase": str, "tokens": int, "context": int, "batch": int,
                        "mask": str, "format": str, "useful_macs": int, "peak_macs_per_cycle": int, "bounds": dict})
    if program.meta.get("e4m3_read_bytes") is not None:
        need(program.meta, {"e4m3_read_bytes": int})
    need(program.meta["bounds"], {"compute_cycles": int, "dram_cycles": int}, "bounds.")
    names = [region.name for region in program.outputs]
    if names[:1] != ["out"]:
        raise ProgramError("not made by `tilescore compile`: expected a result named out, "
                           f"got {', '.join(names) or 'none'}")


def rel_rms_error(result: np.ndarray, expected: np.ndarray) -> float:
    """Root mean square of the difference over that of ``expected``; infinite when a result is not finite."""
    difference = result.astype(np.float64) - expected
    if not np.isfinite(difference).all():
        return float("inf")
    scale = float(np.sqrt(np.mean(np.square(expected))))
    error = float(np.sqrt(np.mean(np.square(difference))))
    return error / scale if scale else error


def layer_report(meta: dict, program: Program, result: Result, *, expected: np.ndarray | None,
                 compile_s: float, simulate_s: float) -> dict:
    """The JSON object of one layer."""
    config = program.config
    peak = meta["peak_macs_per_cycle"]
    useful = meta["useful_macs"]
    error = finite = None
    if result.outputs is not None:
        finite = bool(np.isfinite(result.outputs["out"]).all())
        if expected is not None and math.isfinite(found := rel_rms_error(result.outputs["out"], expected)):
            error = found
    bus = config.bus_bytes
    return {
        **{key: meta[key] for key in ("layer", "model", "phase", "tokens", "context", "batch", "mask")},
        "format": meta["format"],
        "tile": config.name,
        "cycles": result.cycles,
        "useful_macs": useful,
        "peak_macs_per_cycle": peak,
        "utilization": useful / (peak * result.cycles),
        "bounds": {key: meta["bounds"][key] for key in ("compute_cycles", "dram_cycles")},
        "dram_bytes": {"read": result.events["dram_read_beats"] * bus,
                       "write": result.events["dram_write_beats"] * bus,
                       "scales": result.events["scale_beats"] * bus},
        "bandwidth_gain": _gain(meta.get("e4m3_read_bytes"), result.events["dram_read_beats"] * bus),
        "ledger": result.ledger,
        "events": result.events,
        "energy": result.energy.to_dict(),
        "numerics": {"rel_rms_error": error, "finite": finite,
                     "flags": None if result.status is None else list(result.status)},
        "instructions": len(program.instructions),
        "levels": {name: {"cycles": level.cycles, "result_sha256": level.result_sha256}
                   for name, level in result.levels.items()},
        "wall_s": {"compile": round(compile_s, 3), "simulate": round(simulate_s, 3)},
        "clock_mhz": config.clock_mhz,
        "seed": meta.get("seed"),
    }


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


def _levels(report: dict) -> str:
    return ", ".join(report["levels"])


_ROWS = (
    ("phase, tokens", lambda r: f"{r['phase']}, {r['batch']} x {r['tokens']} after {r['context']}"),
    ("tile", lambda r: f"{r['tile']}, {r['peak_macs_per_cycle']:,} MAC/cycle"),
    ("cycles", lambda r: f"{r['cycles']:,}"),
    ("time at the tile's clock", lambda r: f"{r['cycles'] / r['clock_mhz']:,.1f} us"),
    ("useful MACs", lambda r: f"{r['useful_macs']:,}"),
    ("utilization", lambda r: _percent(r["utilization"])),
    ("bound: compute cycles", lambda r: f"{r['bounds']['compute_cycles']:,}"),
    ("bound: DRAM cycles", lambda r: f"{r['bounds']['dram_cycles']:,}"),
    ("cycles / larger bound", lambda r: f"{r['cycles'] / max(r['bounds'].values()):.3f}"),
    ("format: weights:activations:kv", lambda r: r["format"]),
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
    ("relative RMS error", _error),
    ("flags of MATMUL results", lambda r: _flags(r["numerics"]["flags"])),
    ("instructions", lambda r: f"{r['instructions']:,}"),
    ("levels that agree", _levels),
    ("compile, simulate", lambda r: f"{r['wall_s']['compile']:.2f} s, {r['wall_s']['simulate']:.2f} s"),
)
