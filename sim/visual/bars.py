"""Stacked bars that sum to 100 %: where every cycle of every unit went, and every picojoule."""

from collections.abc import Mapping, Sequence

from .svg import CAUSE_COLOURS, FAINT, SERIES, box, drawing, legend, percentages, short, text

WIDTH = 760
_LEFT, _BAR, _LABEL = 150, 22, 21


def stacked(rows: Sequence[tuple[str, Mapping[str, float]]], colours: Mapping[str, str], unit: str, label: str) -> str:
    """A bar per (name, {part: value}), each scaled to its own sum; shares are printed where there is room."""
    span, parts, y = WIDTH - _LEFT - 12, [], 10.0
    seen: dict[str, None] = {}
    for name, values in rows:
        total = sum(values.values())
        kept = {part: value for part, value in values.items() if value}
        parts.append(text(_LEFT - 8, y + 15, _fitted(name), anchor="end"))
        x = float(_LEFT)
        for (part, value), share in zip(kept.items(), percentages(list(kept.values())), strict=True):
            seen[part] = None
            width = span * value / total
            readable = part.replace("_", " ")
            parts.append(box(round(x, 2), y, round(width, 2), _BAR, colours[part],
                             f"{name}: {readable} {value:,.6g} {unit}, {share}"))
            if width > 44:
                parts.append(text(round(x + width / 2, 1), y + 15, share, anchor="middle", size=10,
                                  colour=_contrast(colours[part])))
            x += width
        y += _BAR + 6
    shared: dict[str, list[str]] = {}
    for part in colours:
        if part in seen:
            shared.setdefault(colours[part], []).append(part.replace("_", " "))
    keys, height = legend([(colour, ", ".join(names)) for colour, names in shared.items()], _LEFT, y + 14, span)
    return drawing(WIDTH, y + height + 6, parts + keys, label)


def ledger_bars(ledgers: Sequence[tuple[str, Mapping[str, Mapping[str, int]]]]) -> str:
    """A bar per unit of each (name, ledger); with several ledgers the bars of one unit stand together."""
    rows = [(f"{unit} {_fitted(name, _LABEL - 1 - len(unit))}".strip(), ledger[unit])
            for unit in ledgers[0][1] for name, ledger in ledgers]
    return stacked(rows, CAUSE_COLOURS, "cycles", "Share of each unit's cycles by cause")


def energy_bars(energies: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """A bar per (name, {component: pJ})."""
    names = list(dict.fromkeys(part for _, components in energies for part in components))
    colours = {name: SERIES[i % len(SERIES)] for i, name in enumerate(names)}
    rows = [(name or f"{sum(c.values()) / 1e6:,.1f} uJ", c) for name, c in energies]
    return stacked(rows, colours, "pJ", "Share of energy by component")


def phase_bars(reports: Sequence[tuple[str, Mapping[str, float]]], unit: str, label: str) -> str:
    """A bar per (name, {phase: value}), all on one scale, so that lengths compare."""
    names = list(dict.fromkeys(phase for _, values in reports for phase in values))
    apart = 2 if 2 * len(names) <= len(SERIES) else 1
    colours = {name: SERIES[i * apart % len(SERIES)] for i, name in enumerate(names)}
    most = max(sum(values.values()) for _, values in reports) or 1
    span, parts, y = WIDTH - _LEFT - 90, [], 10.0
    for name, values in reports:
        parts.append(text(_LEFT - 8, y + 15, _fitted(name), anchor="end"))
        x = float(_LEFT)
        for phase, value in values.items():
            width = span * value / most
            if width:
                parts.append(box(round(x, 2), y, round(width, 2), _BAR, colours[phase],
                                 f"{name}: {phase} {value:,.6g} {unit}"))
            x += width
        parts.append(text(round(x + 6, 1), y + 15, f"{short(sum(values.values()))} {unit}", colour=FAINT))
        y += _BAR + 6
    keys, height = legend([(colour, name.replace("_", " ")) for name, colour in colours.items()], _LEFT, y + 14, span)
    return drawing(WIDTH, y + height + 6, parts + keys, label)


def _fitted(name: str, letters: int = _LABEL) -> str:
    """The end of a name that is too long for its place."""
    return name if len(name) <= letters else f"…{name[1 - letters:]}"


def _contrast(colour: str) -> str:
    """White or dark, whichever is read more easily on ``colour``."""
    red, green, blue = (int(colour[i:i + 2], 16) for i in (1, 3, 5))
    return "#fff" if 0.299 * red + 0.587 * green + 0.114 * blue < 140 else "#1d2733"
