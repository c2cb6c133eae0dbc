"""Schedules: everything the compiler decides, as plain values a user can write, print, compare and save.

A schedule never changes a result: accumulators are exact, and what is rounded in between is decided by `Numerics`
(`numerics.py`), not here. It changes cycles, bytes and energy. `auto.py` makes one for a layer and a tile; the
lowerings (`gemm.py`, `attention/`, `moe/`) follow it to the letter and raise `CompileError` when it does not fit the
buffers.
"""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ..rtl.spec.errors import CompileError
from ..sim.lib.atomic_file import write_text
from ..sim.lib.json_file import read_json
from ..sim.visual.tables import table


def _require(where: str, name: str, value: object, low: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise CompileError(f"schedule: {where}: {name} must be an integer of at least {low}, got {value!r}")


def _require_parts(where: str, schedule: object, **parts: type) -> None:
    for name, cls in parts.items():
        if not isinstance(getattr(schedule, name), cls):
            raise CompileError(f"schedule: {where}: {name} must be a {cls.__name__}, got {getattr(schedule, name)!r}")


class _Shown:
    """What a notebook shows of a schedule."""

    def _repr_html_(self) -> str:
        values = to_dict(cast("Schedule", self))
        rows = [[f"{part}.{name}".strip("."), value] for part, own in _parts(values) for name, value in own]
        return table(["", values["kind"]], rows)


def _parts(values: dict, prefix: str = "") -> Iterator[tuple[str, list[tuple[str, int | bool]]]]:
    """(name of the part, its own values), outermost first."""
    yield prefix, [(k, v) for k, v in values.items() if k != "kind" and not isinstance(v, dict)]
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _parts(value, f"{prefix}.{key}".strip("."))


@dataclass(frozen=True, kw_only=True)
class GemmSchedule(_Shown):
    """How C[m, n] = sum over k of A[m, k] * B[n, k] is cut.

    m_tile: rows of A that are on chip at once; B is read once per m_tile rows.
    k_tile: elements of k per MATMUL; more than one chunk means raw partial accumulators between them.
    n_tiles: column tiles (of ``cols``) per B load.
    group_tiles: column tiles per epilogue, a multiple of n_tiles.
    a_resident: A's whole k extent stays on chip while n runs (else A is read again for every n_tiles).
    k_outer: within a group, chunks of k run outside the column tiles; A that is not resident is then read once per
    group. Else chunks run inside.
    stage_banks: A banks kept free for quantized results on their way out (0 when nothing is quantized).
    """

    m_tile: int
    k_tile: int
    n_tiles: int
    group_tiles: int
    a_resident: bool = True
    k_outer: bool = False
    stage_banks: int = 1

    def __post_init__(self) -> None:
        for name in ("m_tile", "k_tile", "n_tiles", "group_tiles"):
            _require("gemm", name, getattr(self, name), 1)
        _require("gemm", "stage_banks", self.stage_banks, 0)
        for name in ("a_resident", "k_outer"):
            if not isinstance(getattr(self, name), bool):
                raise CompileError(f"schedule: gemm: {name} must be true or false, got {getattr(self, name)!r}")
        if self.group_tiles % self.n_tiles:
            raise CompileError(f"schedule: gemm: group_tiles must be a multiple of n_tiles = {self.n_tiles}, "
                               f"got {self.group_tiles}")


@dataclass(frozen=True, kw_only=True)
class CoreSchedule(_Shown):
    """How softmax(Q K^T) V is cut.

    q_rows: query rows of one head per sub-tile; kv_tile: keys per load and matmul, pieces of a softmax block
    (`Numerics.softmax_block`); q_tiles: sub-tiles that share one pass over the keys and take turns on the array while
    the vector unit works on another.
    """

    q_rows: int
    kv_tile: int
    q_tiles: int

    def __post_init__(self) -> None:
        for name in ("q_rows", "kv_tile", "q_tiles"):
            _require("core", name, getattr(self, name), 1)


@dataclass(frozen=True, kw_only=True)
class AttentionSchedule(_Shown):
    """Projections q, k, v (transposed: features are its rows), core and output projection."""

    q: GemmSchedule
    k: GemmSchedule
    v: GemmSchedule
    core: CoreSchedule
    out: GemmSchedule

    def __post_init__(self) -> None:
        _require_parts("attention", self, q=GemmSchedule, k=GemmSchedule, v=GemmSchedule, core=CoreSchedule,
                       out=GemmSchedule)


@dataclass(frozen=True, kw_only=True)
class MoESchedule(_Shown):
    """Router, the experts' two GEMMs (gate and up share one), and the weighted combine.

    combine_rows, combine_tiles: tokens and column tiles per step of the combine.
    """

    router: GemmSchedule
    gate_up: GemmSchedule
    down: GemmSchedule
    combine_rows: int
    combine_tiles: int

    def __post_init__(self) -> None:
        _require_parts("moe", self, router=GemmSchedule, gate_up=GemmSchedule, down=GemmSchedule)
        for name in ("combine_rows", "combine_tiles"):
            _require("moe", name, getattr(self, name), 1)


Schedule = GemmSchedule | AttentionSchedule | MoESchedule

_KINDS = {"gemm": GemmSchedule, "core": CoreSchedule, "attention": AttentionSchedule, "moe": MoESchedule}
_KIND_OF: dict[object, str] = {cls: kind for kind, cls in _KINDS.items()}


def to_dict(schedule: Schedule | CoreSchedule) -> dict:
    """Plain nested values with a ``kind`` in every level; `from_dict` is the inverse."""
    values: dict = {"kind": _KIND_OF[type(schedule)]}
    for field in dataclasses.fields(schedule):
        value = getattr(schedule, field.name)
        values[field.name] = to_dict(value) if type(value) in _KIND_OF else value
    return values


def from_dict(values: object, source: str = "schedule"):
    """The schedule of `to_dict`'s output. Errors name ``source`` and the key."""
    if not isinstance(values, dict) or not isinstance(kind := values.get("kind"), str) or kind not in _KINDS:
        raise CompileError(f"{source}: expected an object with kind {', '.join(_KINDS)}, got {str(values)[:60]}")
    cls = _KINDS[values["kind"]]
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = set(values) - set(fields) - {"kind"}
    if unknown:
        raise CompileError(f"{source}: unknown key {sorted(unknown)[0]!r}; allowed: {', '.join(fields)}")
    arguments = {}
    for name, field in fields.items():
        if name not in values:
            if field.default is dataclasses.MISSING:
                raise CompileError(f"{source}: missing key {name!r}")
            continue
        value = values[name]
        wanted = _KIND_OF.get(field.type)
        arguments[name] = from_dict(value, f"{source}: {name}") if wanted else value
        if wanted and value["kind"] != wanted:
            raise CompileError(f"{source}: {name}: expected kind {wanted}, got {value['kind']}")
    try:
        return cls(**arguments)
    except CompileError as error:
        raise CompileError(f"{source}: {str(error).removeprefix('schedule: ')}") from None


def to_text(schedule: Schedule) -> str:
    """The schedule as JSON, as `load_schedule` reads it."""
    return json.dumps(to_dict(schedule), indent=2) + "\n"


def save_schedule(schedule: Schedule, path: Path) -> None:
    """Write a schedule as JSON."""
    write_text(path, to_text(schedule))


def load_schedule(path: Path):
    """Read a schedule written by `save_schedule` or by hand. Raises `CompileError` naming the file and the key."""
    return from_dict(read_json(path, CompileError, "schedule file"), f"schedule file {path}")


def schedule_differences(old: Schedule | dict, new: Schedule | dict) -> list[str]:
    """One line per value that differs, as ``q.k_tile: 256 -> 512``; schedules, or what `to_dict` makes of them."""
    a, b = (dict(_flat(value if isinstance(value, dict) else to_dict(value))) for value in (old, new))
    return [f"{key}: {a.get(key)} -> {b.get(key)}" for key in sorted(a | b) if a.get(key) != b.get(key)]


def _flat(values: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
