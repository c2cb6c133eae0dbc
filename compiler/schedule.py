"""Schedules: everything the compiler decides, as plain values a user can write, print, compare and save.

A `Schedule` is one value for any graph: for each kernel, by name, how its loops are cut and what stays on chip; and the
order in which the kernels run. It never changes a result: accumulators are exact, and what is rounded in between is
decided by `Numerics` (`numerics.py`), not here. It changes cycles, bytes and energy. `auto.py` makes one for a layer
and a tile; the kernels follow it to the letter and raise `CompileError` when it does not fit.

Rejected: a class per kind of layer, which every new op, and every layer with more than one core or more than one set of
experts, would have had to change; and untyped values alone, which a kernel would have to check at every use.
"""

import dataclasses
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from ..rtl.spec.errors import CompileError, did_you_mean
from ..sim.lib.atomic_file import write_text
from ..sim.visual.tables import table


@dataclass(frozen=True, kw_only=True)
class KernelSchedule:
    """Base of what one kernel is told: integers of at least 1, or switches. loop: the kernel that it is for."""

    loop: ClassVar[str]
    may_be_zero: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for part in dataclasses.fields(self):
            value, low = getattr(self, part.name), 0 if part.name in self.may_be_zero else 1
            if part.type is bool and not isinstance(value, bool):
                raise CompileError(f"{part.name} must be true or false, got {value!r}")
            if part.type is int and (type(value) is not int or value < low):
                raise CompileError(f"{part.name} must be an integer of at least {low}, got {value!r}")

    def values(self) -> dict[str, int | bool]:
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class GemmSchedule(KernelSchedule):
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

    loop = "gemm"
    may_be_zero = ("stage_banks",)

    m_tile: int
    k_tile: int
    n_tiles: int
    group_tiles: int
    a_resident: bool = True
    k_outer: bool = False
    stage_banks: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group_tiles % self.n_tiles:
            raise CompileError(f"group_tiles must be a multiple of n_tiles = {self.n_tiles}, got {self.group_tiles}")


@dataclass(frozen=True, kw_only=True)
class FlashSchedule(KernelSchedule):
    """How softmax(Q K^T) V is cut.

    q_rows: query rows of one head per sub-tile; kv_tile: keys per load and matmul, pieces of a softmax block
    (`Numerics.softmax_block`); q_tiles: sub-tiles that share one pass over the keys and take turns on the array while
    the vector unit works on another.
    """

    loop = "flash"

    q_rows: int
    kv_tile: int
    q_tiles: int


@dataclass(frozen=True, kw_only=True)
class GatherAddSchedule(KernelSchedule):
    """How gathered rows are added. m_tile, n_tiles: rows and column tiles per step."""

    loop = "gather_add"

    m_tile: int
    n_tiles: int


@dataclass(frozen=True, kw_only=True)
class RowwiseSchedule(KernelSchedule):
    """How FP32 rows are added, normalized and quantized. m_tile, n_tiles: rows and column tiles on chip at once."""

    loop = "rowwise"

    m_tile: int
    n_tiles: int


KERNELS: dict[str, type[KernelSchedule]] = {
    cls.loop: cls for cls in (GemmSchedule, FlashSchedule, GatherAddSchedule, RowwiseSchedule)}


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """kernels: by name, as ``experts.down`` where one step has several. order: of the steps, those that others read
    before these. interleave: steps whose first loads run in the tail of the step before (`streams`)."""

    kernels: Mapping[str, KernelSchedule] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    interleave: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, kernel in self.kernels.items():
            if not isinstance(kernel, KernelSchedule):
                allowed = ", ".join(cls.__name__ for cls in KERNELS.values())
                raise CompileError(f"schedule: {name}: expected one of {allowed}, got {kernel!r}")

    def __hash__(self) -> int:
        return hash((tuple(self.kernels.items()), self.order, self.interleave))

    def __getitem__(self, name: str) -> Any:
        """What the kernel of that name is told."""
        return self.kernels[name]

    def change(self, kernel: str, **values: int | bool) -> Self:
        """Another schedule, with values of one kernel changed. Raises `CompileError` naming what is allowed."""
        if kernel not in self.kernels:
            raise CompileError(f"schedule: unknown kernel {kernel!r}; allowed: {', '.join(self.kernels)}"
                               f"{did_you_mean(kernel, self.kernels)}")
        old = self.kernels[kernel]
        return self.replace({kernel: _kernel(old.values() | {"kernel": old.loop} | values, f"schedule: {kernel}")})

    def replace(self, kernels: Mapping[str, KernelSchedule]) -> Self:
        """Another schedule, with these kernels in place of those of the same names."""
        return dataclasses.replace(self, kernels={**self.kernels, **kernels})

    def __str__(self) -> str:
        return to_text(self)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        rows = [[name, value if isinstance(value, int) else str(value)] for name, value in _flat(to_dict(self))]
        return table(["", "schedule"], rows)


def unblocked(schedule: Schedule, rows: int) -> Schedule:
    """What a first version of each kernel does: one panel of the array's ``rows`` at a time, so that weights and keys
    are read again for each; the rest as it is."""
    kernels: dict[str, KernelSchedule] = {}
    for name, kernel in schedule.kernels.items():
        values = kernel.values()
        changes = {key: min(values[key], rows) for key in ("m_tile", "q_rows") if key in values}
        if not isinstance(kernel, RowwiseSchedule):
            changes |= {key: 1 for key in ("n_tiles", "q_tiles") if key in values}
        kernels[name] = dataclasses.replace(kernel, **changes)
    return schedule.replace(kernels)


def to_dict(schedule: Schedule) -> dict:
    """Plain values: the order, what is interleaved, and a dictionary per kernel; `from_dict` is the inverse."""
    return {"order": list(schedule.order), **({"interleave": list(schedule.interleave)} if schedule.interleave else {}),
            **{name: {"kernel": kernel.loop, **kernel.values()} for name, kernel in schedule.kernels.items()}}


def from_dict(values: object, source: str = "schedule") -> Schedule:
    """The schedule of `to_dict`'s output. Errors name ``source`` and the key."""
    if not isinstance(values, dict):
        raise CompileError(f"{source}: expected a table per kernel, got {str(values)[:60]}")
    if "kind" in values:
        raise CompileError(f"{source}: {OLD_FILE}")
    names = {key: _names(values.get(key, []), f"{source}: {key}") for key in STEPS}
    return Schedule(kernels={name: _kernel(part, f"{source}: {name}") for name, part in values.items()
                             if name not in STEPS}, **names)


STEPS = ("order", "interleave")
"""Keys of a schedule with names of steps; all others are kernels."""


def _names(value: object, source: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise CompileError(f"{source} must be a list of names, got {str(value)[:60]}")
    return tuple(value)


def _kernel(values: object, source: str) -> KernelSchedule:
    loop = values.get("kernel") if isinstance(values, dict) else None
    if not isinstance(values, dict) or not isinstance(loop, str) or loop not in KERNELS:
        raise CompileError(f"{source}: expected a table with kernel = one of {', '.join(KERNELS)}, "
                           f"got {str(values)[:60]}")
    cls = KERNELS[loop]
    fields = {part.name: part for part in dataclasses.fields(cls)}
    for name in values:
        if name != "kernel" and name not in fields:
            raise CompileError(f"{source}: unknown key {name!r}; allowed: {', '.join(fields)}"
                               f"{did_you_mean(name, fields)}")
    for name, part in fields.items():
        if name not in values and part.default is dataclasses.MISSING:
            raise CompileError(f"{source}: missing key {name!r}")
    try:
        return cls(**{name: value for name, value in values.items() if name != "kernel"})
    except CompileError as error:
        raise CompileError(f"{source}: {error}") from None


OLD_FILE = ("is a schedule of an earlier version, in JSON; expected TOML with a table per kernel: `tilescore compile "
            "--schedule-out FILE` writes one, in which the old part q is the table [q] with the same keys")


def to_text(schedule: Schedule) -> str:
    """The schedule as TOML, as `load_schedule` reads it."""
    lines = [f"{key} = [{', '.join(map(_quoted, names))}]" for key in STEPS
             if (names := getattr(schedule, key)) or key == "order"]
    for name, kernel in schedule.kernels.items():
        path = ".".join(part if part.replace("_", "").isalnum() and part.isascii() else _quoted(part)
                        for part in name.split("."))
        lines += ["", f"[{path}]", f"kernel = {_quoted(kernel.loop)}"]
        lines += [f"{key} = {str(value).lower()}" for key, value in kernel.values().items()]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def save_schedule(schedule: Schedule, path: Path) -> None:
    """Write a schedule as TOML."""
    write_text(path, to_text(schedule))


def load_schedule(path: Path) -> Schedule:
    """Read a schedule written by `save_schedule` or by hand. Raises `CompileError` naming the file and the key."""
    source = f"schedule file {path}"
    try:
        text = path.read_text(encoding="utf-8-sig")
        if text.lstrip().startswith("{"):
            raise CompileError(f"{source}: {OLD_FILE}")
        values = tomllib.loads(text)
    except OSError as problem:
        raise CompileError(f"{source}: cannot be read: {problem.strerror}") from None
    except UnicodeDecodeError:
        raise CompileError(f"{source}: not valid TOML: expected UTF-8 text") from None
    except (tomllib.TOMLDecodeError, RecursionError) as problem:
        raise CompileError(f"{source}: not valid TOML: {problem or 'nested too deeply'}") from None
    return from_dict(dict(_tables(values)), source)


def _tables(values: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """(name, table) of every kernel, and the lists of steps: a table of tables is a step with several kernels."""
    for name, value in values.items():
        if isinstance(value, dict) and value and "kernel" not in value and \
                all(isinstance(part, dict) for part in value.values()):
            yield from _tables(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def schedule_differences(old: Schedule | dict, new: Schedule | dict) -> list[str]:
    """One line per value that differs, as ``q.k_tile: 256 -> 512``; schedules, or what `to_dict` makes of them."""
    a, b = (dict(_flat(value if isinstance(value, dict) else to_dict(value))) for value in (old, new))
    return [f"{key}: {a.get(key)} -> {b.get(key)}" for key in sorted(a | b) if a.get(key) != b.get(key)]


def _flat(values: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, " ".join(value) if isinstance(value, list) else value
