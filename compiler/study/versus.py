"""Variants against a base at the same model, operating point and tile: what most studies are made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..sweep.table import Row, SweepTable
from .study import ENDS, Series, good, point_name, span


@dataclass(frozen=True, kw_only=True)
class Versus:
    """A variant's row and the base's. work: how much more of it there is to do, by which time and energy are
    divided."""

    model: str
    point: str
    tile: str
    name: str
    row: Row
    base: Row
    work: float

    def ratio(self, column: str) -> float:
        return self.row[column] / self.base[column] / self.work

    @property
    def time(self) -> float:
        return self.ratio("time_us")

    @property
    def energies(self) -> list[float]:
        """With all constants at the low end, at their value, at the high end."""
        return [self.ratio(column) for column in ENDS]

    @property
    def where(self) -> str:
        return f"{self.model}, {self.point}, {self.tile}"


def versus(table: SweepTable, name_of: Callable[[Row], str], base: str,
           work_of: Callable[[Row], float] = lambda row: 1.0) -> list[Versus]:
    """Every variant but ``base`` whose base has values, in the table's order."""
    keyed = {(row["model"], point_name(row), row["tile"], name_of(row)): row for row in good(table)}
    found = []
    for (model, point, tile, name), row in keyed.items():
        other = keyed.get((model, point, tile, base))
        if name != base and other is not None:
            found.append(Versus(model=model, point=point, tile=tile, name=name, row=row, base=other,
                                work=work_of(row) / work_of(other)))
    return found


def extremes(found: Sequence[Versus]) -> str:
    """The least and the most time, with where."""
    fast, slow = min(found, key=lambda one: one.time), max(found, key=lambda one: one.time)
    if f"{fast.time:.3f}" == f"{slow.time:.3f}":
        return f"{fast.time:.3f} (everywhere)"
    return f"{fast.time:.3f} ({fast.where}) to {slow.time:.3f} ({slow.where})"


def certainty(found: Sequence[Versus], what: str) -> str:
    """How many comparisons of energy come out alike at both ends of the table's range. what: the base."""
    ends = [one.energies for one in found]
    sure = sum(max(three) < 1 or min(three) > 1 for three in ends)
    shift = max(max(three) - min(three) for three in ends)
    rest = "" if sure == len(ends) else "; in the others the answer depends on the constants"
    return (f"The energy is on the same side of {what}'s at both ends of the table's range in {sure} of {len(ends)} "
            f"comparisons{rest}. The range moves a ratio by at most {shift:.3f}.")


def versus_table(found: Sequence[Versus], variant: str, base: str) -> tuple[list[str], list[list[str]]]:
    """(head, rows). variant: what the names are; base: what it is compared with."""
    head = ["model", "point", "tile", variant, f"time / {base}", f"bytes read / {base}", f"energy / {base}",
            "energy, over the range"]
    return head, [[one.model, one.point, one.tile, one.name, f"{one.time:.3f}", f"{one.ratio('read_bytes'):.3f}",
                   f"{one.energies[1]:.3f}", span(one.energies)] for one in found]


def versus_drawing(found: Sequence[Versus], base: str) -> Series:
    """Time over that of the base, a group of bars per place."""
    names = tuple(dict.fromkeys(one.name for one in found))
    rows: dict[str, dict[str, float]] = {}
    for one in found:
        rows.setdefault(one.where, {})[one.name] = one.time
    return Series(unit=f"time / {base}", names=names,
                  rows=[(where, [values.get(name) for name in names]) for where, values in rows.items()])
