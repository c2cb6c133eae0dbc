"""Which points a sweep has: a TOML file, or keys with values from a command line.

::

    model = "qwen3-30b-a3b"          # one value: the same in every point
    layer = "attention"
    tokens = [16, 64, 256]           # a list: every value, combined with every value of every other list

    [[case]]                         # keys that go together: each case is combined with all of the above
    tile = "edge"
    [[case]]
    tile = "server"
    rows = 8                         # any key of a tile

Points are in the order of the file: cases, then keys, the last of which changes fastest. A key that a layer does not
have (`context` of an MoE layer) is left out of its points, and points that become equal are one.
"""

import itertools
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...rtl.spec.errors import ConfigError
from ..formats import parse_format
from ..layers import LAYER_KINDS
from ..numerics import has_power_of_two_scales
from .keys import NAMES, OWN_KEYS, Value, check_name, read_value

MOST_POINTS = 1_000_000

Point = dict[str, Value]
"""{key: value}, defaults filled in, without keys that the layer does not have; in the order of `NAMES`."""


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """axes: {key: values}, in order; cases: {key: value} each, at least one, which may be empty; source: for messages.

    Raises `ConfigError` for unknown keys, wrong values, keys that are missing, that are in both, or that no point has.
    """

    axes: Mapping[str, Sequence[object]]
    cases: Sequence[Mapping[str, object]] = ({},)
    source: str = "sweep"

    def __post_init__(self) -> None:
        for name, values in self.axes.items():
            check_name(name, self.source)
            if not values:
                raise ConfigError(f"{self.source}: {name}: expected at least one value")
            for case in self.cases:
                if name in case:
                    raise ConfigError(f"{self.source}: {name} is set in a case and for all of them; expected one place")
        read = {name: tuple(dict.fromkeys(read_value(name, value, self.source) for value in values))
                for name, values in self.axes.items()}
        cases = []
        for case in self.cases:
            for name in case:
                check_name(name, f"{self.source}: case")
            cases.append({name: read_value(name, value, f"{self.source}: case") for name, value in case.items()})
        object.__setattr__(self, "axes", read)
        object.__setattr__(self, "cases", tuple(cases))
        for case in cases:
            for need in ("model", "layer"):
                if need not in read and need not in case:
                    raise ConfigError(f"{self.source}: missing key {need!r}")

    @property
    def given(self) -> tuple[str, ...]:
        """Keys that are set somewhere, in the order of `NAMES`."""
        there = set(self.axes).union(*self.cases)
        return tuple(name for name in NAMES if name in there)

    def points(self) -> list[Point]:
        """Every point once."""
        count = len(self.cases)
        for values in self.axes.values():
            count *= len(values)
        if count > MOST_POINTS:
            raise ConfigError(f"{self.source}: {count:,} points, expected at most {MOST_POINTS:,}")
        found: dict[tuple, Point] = {}
        for case in self.cases:
            for values in itertools.product(*self.axes.values()):
                point = _complete({**case, **dict(zip(self.axes, values, strict=True))}, self.source)
                found.setdefault(tuple(point.items()), point)
        used = set().union(*found.values())
        for name in self.given:
            if name not in used:
                raise ConfigError(f"{self.source}: {name}: no point has a use for it ({_why(name)})")
        return list(found.values())


def _complete(given: Mapping[str, object], source: str) -> Point:
    """A point of what is given for it."""
    layer, phase = given["layer"], given.get("phase", "prefill")
    point: Point = {}
    for name in NAMES:
        key = OWN_KEYS.get(name)
        value = given.get(name, key.default if key else None)
        if name == "tokens" and value is None:
            if phase != "decode":
                raise ConfigError(f"{source}: missing key 'tokens', which prefill needs")
            value = 1
        if name == "scale_rule" and not has_power_of_two_scales(parse_format(str(point["format"]))):
            continue
        if value is None or (key and layer not in key.layers):
            continue
        point[name] = value  # type: ignore[assignment]  # read by `read_value`
    return point


def _why(name: str) -> str:
    layers = OWN_KEYS[name].layers if name in OWN_KEYS else LAYER_KINDS
    return f"only these layers have one: {', '.join(layers)}" if layers != LAYER_KINDS else (
        "no format has power-of-two block scales")


def plan_of_file(path: Path, settings: Sequence[str] = ()) -> SweepPlan:
    """The plan of a TOML file; ``settings`` (`plan_of_settings`) take the place of its keys."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not valid TOML: expected UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    cases = values.pop("case", [{}])
    if not isinstance(cases, list) or not cases or not all(isinstance(case, dict) for case in cases):
        raise ConfigError(f"{path}: case: expected tables [[case]], got {str(cases)[:60]}")
    axes = {name: value if isinstance(value, list) else [value] for name, value in values.items()}
    changed = _axes(settings)
    cases = [{name: value for name, value in case.items() if name not in changed} for case in cases]
    return SweepPlan(axes=axes | changed, cases=cases, source=str(path))


def plan_of_settings(settings: Sequence[str]) -> SweepPlan:
    """The plan of ``KEY=VALUE[,VALUE...]`` texts, one per key; a list of a tile is A+B."""
    return SweepPlan(axes=_axes(settings), source="--set")


def _axes(settings: Sequence[str]) -> dict[str, list[object]]:
    axes: dict[str, list[object]] = {}
    for text in settings:
        name, equals, values = text.partition("=")
        if not equals or not name:
            raise ConfigError(f"--set {text}: expected KEY=VALUE[,VALUE...]; keys: {', '.join(NAMES)}")
        check_name(name, f"--set {text}")
        if name in axes:
            raise ConfigError(f"--set {text}: {name} is set twice")
        axes[name] = [read_value(name, value.strip(), f"--set {text}") for value in values.split(",")]
    return axes
