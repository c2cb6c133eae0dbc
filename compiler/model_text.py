"""The report of a model as text for a terminal."""

from collections.abc import Sequence

from .aligned import aligned


def model_text(report: dict) -> str:
    """What the model is, what it needs, and a table for each phase."""
    lines = [f"{report['model']} on {report['tile']}, {report['format']}: {report['parameters'] / 1e9:,.2f} B "
             f"parameters, {_size(report['weight_bytes'])} of weights, {report['kv_bytes_per_token']:,} B of KV cache "
             "per token"]
    if report["routing"]:
        lines.append(f"experts chosen: {report['routing']}")
    prefill, decodes = report["prefill"], report["decode"]
    lines += ["", f"prefill: {prefill['batch']} x {prefill['tokens']:,} tokens", *_layers(prefill), "", *_pairs([
        ("time to first token", f"{prefill['time_to_first_token_s']:.4g} s ({prefill['cycles']:,} cycles)"),
        ("tokens per second", f"{prefill['tokens_per_s']:,.4g}"), *_common(prefill)])]
    for step in decodes:
        lines += ["", f"decode: {step['batch']} x 1 token after {step['context']:,}", *_layers(step), "", *_pairs([
            ("time per output token", f"{step['time_per_output_token_s']:.4g} s ({step['cycles']:,} cycles)"),
            ("tokens per second", f"{step['tokens_per_s']:,.4g} in all, {step['tokens_per_s_per_request']:,.4g} per "
             "request"), *_common(step)])]
    if len(decodes) > 1:
        lines += ["", "throughput against interactivity", *aligned([
            ("batch", "tokens/s", "tokens/s per request", "J/token", "KV cache"),
            *((f"{d['batch']:,}", f"{d['tokens_per_s']:,.4g}", f"{d['tokens_per_s_per_request']:,.4g}",
               f"{d['joules_per_token']:.4g}", _size(d["kv_bytes"])) for d in decodes)])]
    return "\n".join(lines)


def _common(phase: dict) -> list[tuple[str, str]]:
    fits = {None: "", True: ", fits", False: ", does not fit"}[phase["fits_dram"]]
    return [
        ("energy per token", f"{phase['joules_per_token']:.4g} J ({phase['joules_per_token_low']:.4g} to "
         f"{phase['joules_per_token_high']:.4g})"),
        ("lower bound", f"{phase['bound_cycles']:,} cycles, {phase['gap']:.3f} x"),
        ("KV cache; weights and KV cache", f"{_size(phase['kv_bytes'])}; {_size(phase['memory_bytes'])}{fits}")]


def _layers(phase: dict) -> list[str]:
    rows = [("layer", "count", "cycles of one", "share", "x bound", "most of it in")]
    for layer in phase["layers"]:
        largest = sorted(layer["phases"].items(), key=lambda item: -item[1])[:3]
        rows.append((layer["layer"], str(layer["count"]), f"{layer['cycles']:,}", f"{100 * layer['share']:.1f} %",
                     f"{layer['gap']:.3f}",
                     ", ".join(f"{name} {100 * cycles / layer['cycles']:.0f} %" for name, cycles in largest)))
    return aligned(rows, left=(0, 5))


def _pairs(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    return [f"  {name.ljust(width)}  {value}" for name, value in rows]


def _size(count: int) -> str:
    for unit, size in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:,.2f} {unit}"
    return f"{count} B"
