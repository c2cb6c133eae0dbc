"""The report of a language model as text for a terminal."""

from __future__ import annotations

from ..aligned import aligned


def lm_text(report: dict) -> str:
    """A line about model and text, a table, and the continuations."""
    text = report["text"]
    lines = [f"{report['model']} ({report['file']}), {report['layers']} layers on {report['tile']}",
             f"{report['tokens']:,} tokens of {text['source']} (sha256 {text['sha256'][:12]}"
             f"{', the text of benchmarks/lm.md' if text['of_benchmark'] else ''}), windows of {report['window']}", "",
             *_table(report)]
    for number, prompt in enumerate(report["prompts"] if report["generated"] else ()):
        lines += ["", repr(prompt), *(f"  {name:{_name_width(report)}}  {made[number]['text']!r}"
                                      for name, made in _made(report))]
    return "\n".join(lines)


def _made(report: dict) -> list[tuple[str, list[dict]]]:
    return [("float64", report["float64"]["continuations"]),
            *((one["format"], one["continuations"]) for one in report["formats"])]


def _name_width(report: dict) -> int:
    return max(len(name) for name, _ in _made(report))


def _table(report: dict) -> list[str]:
    rows = [("format", "perplexity", "nats lost", "uJ per token", "low to high", "cycles per token")]
    rows.append(("float64", _pm(report["float64"]["perplexity"], 2), "", "", "", ""))
    for one in report["formats"]:
        rows.append((one["format"], _pm(one["perplexity"], 2), _pm(one["nats_lost"], 4),
                     f"{one['joules_per_token'] * 1e6:,.1f}", f"{one['joules_per_token_low'] * 1e6:,.0f} to "
                     f"{one['joules_per_token_high'] * 1e6:,.0f}", f"{one['cycles_per_token']:,.0f}"))
    return aligned(rows)


def _pm(value: dict, digits: int) -> str:
    return f"{value['mean']:,.{digits}f} +- {value['standard_error']:.{digits}f}"
