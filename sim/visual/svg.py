"""SVG drawings that stand alone: every colour and font is an attribute, so that one cut out of a page is a figure."""

import html
import math
from collections.abc import Iterable, Sequence

FONT = "Helvetica, Arial, sans-serif"
INK, FAINT, RULE = "#1d2733", "#5a6672", "#d5dbe1"

CAUSE_COLOURS = {
    "busy": "#2b5c8a", "compute": "#2b5c8a", "fill": "#86aed1", "dispatch": "#2b5c8a",
    "wait_load": "#e0a030", "wait_store": "#c4553b", "wait_matrix": "#4f9a6b", "wait_vector": "#9467ad",
    "wait_port": "#d98a86", "outstanding": "#7a5230", "queue_full": "#b9a06a", "sync": "#c98bb9", "fetch": "#6fb7bd",
    "halt": "#c8cdd2", "idle": "#eceff2",
}
"""Colour of each cause of the ledger, the same in every drawing and in the page's script."""

SERIES = ("#2b5c8a", "#86aed1", "#1f8a84", "#8fd0bd", "#4f9a6b", "#b7d38c", "#e0a030", "#f2cf86", "#c4553b", "#e59c86",
          "#9467ad", "#cdb3da", "#7a5230", "#8b949e", "#6d7f2c", "#c9c47a", "#b8457a", "#eab3cb")
"""Colours of other categories, in order."""


PHASES = ("#2b5c8a", "#1f8a84", "#7388a6", "#274060", "#58a6c4", "#46695c", "#9aa9bd")
"""Colours of phases where causes are drawn beside them: none is a cause's but that of busy cycles."""


def text(x: float, y: float, content: str, *, size: float = 11, anchor: str = "start", colour: str = INK,
         weight: str = "normal", turn: int = 0) -> str:
    """One line of text; ``y`` is its baseline, ``turn`` degrees clockwise."""
    more = f' transform="rotate({turn} {x:g} {y:g})"' if turn else ""
    bold = "" if weight == "normal" else f' font-weight="{weight}"'
    return (f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{anchor}" fill="{colour}"{bold}{more}>'
            f"{html.escape(content)}</text>")


def box(x: float, y: float, width: float, height: float, colour: str, title: str = "") -> str:
    """A filled rectangle with a tool tip."""
    tip = f"<title>{html.escape(title)}</title>" if title else ""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{colour}">{tip}</rect>'


def line(points: Iterable[tuple[float, float]], colour: str = RULE, width: float = 1, dash: str = "") -> str:
    path = "L".join(f"{x:g} {y:g}" for x, y in points)
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="{width:g}"{dashed}/>'


def drawing(width: float, height: float, parts: Iterable[str], label: str) -> str:
    """A whole SVG on white; label: what it shows, for those who cannot see it."""
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
            f'height="{height:g}" font-family="{FONT}" role="img" aria-label="{html.escape(label)}">'
            f'<rect width="{width:g}" height="{height:g}" fill="#fff"/>{"".join(parts)}</svg>')


def percentages(values: Sequence[float]) -> list[str]:
    """Shares as ``12.3 %`` whose printed figures sum to 100.0: the largest remainders are rounded up."""
    total = math.fsum(values)
    if not total:
        return ["0.0 %"] * len(values)
    exact = [1000 * value / total for value in values]
    whole = [math.floor(value) for value in exact]
    missing = 1000 - sum(whole)
    for i in sorted(range(len(values)), key=lambda i: whole[i] - exact[i])[:missing]:
        whole[i] += 1
    return [f"{value / 10:.1f} %" for value in whole]


def ticks(top: float, count: int = 5) -> list[float]:
    """Round numbers from 0 to at most ``top``."""
    if top <= 0:
        return [0.0]
    rough = top / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    return [i * step for i in range(int(top / step + 1e-9) + 1)]


def short(value: float) -> str:
    """``18.0M``: three digits and a power of thousand."""
    for power, sign in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= power:
            return f"{value / power:.3g}{sign}"
    return f"{value:.3g}"


def legend(entries: Sequence[tuple[str, str]], x: float, y: float, width: float) -> tuple[list[str], float]:
    """(parts, height) of (colour, name) entries in lines of at most ``width``."""
    parts, left, top = [], x, y
    for colour, name in entries:
        need = 26 + 6.7 * len(name)
        if left + need > x + width and left > x:
            left, top = x, top + 17
        parts += [box(left, top - 9, 10, 10, colour), text(left + 14, top, name, colour=FAINT)]
        left += need
    return parts, top - y + 17
