"""A point as a task: everything that its measurement depends on, by content, so that another process can do it.

A task holds no path: tiles, schedules, routings, models and energy tables are read when it is made. Its digest covers
all of them and every source file of tilescore that a figure could depend on, so that two tasks with equal digests have
equal results, and a result that was kept can be used for as long as its digest is asked for.
"""

import functools
import hashlib
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...rtl.spec.config import TileConfig, load_tile
from ...rtl.spec.errors import TilescoreError, ToolError, WorkloadError
from ...sim.area import area_of
from ...sim.energy import EnergyTable, load_table
from ...sim.legality.verifier import verify
from ...sim.simulate import simulate
from ..bounds import bounds, peak_macs_per_cycle
from ..compile import CompiledLayer, compile_layer
from ..dispatch import split_dispatch
from ..layers import Workload
from ..model_layers import layer_of
from ..models import ModelConfig, changed_model, load_model
from ..numerics import Numerics, from_options
from ..products import useful_macs
from ..provenance import table_digest
from ..schedule import Schedule, load_schedule, to_dict, unblocked
from .columns import COLUMNS, Measured
from .keys import AUTO, ROUTER, TILE_NAMES, UNBLOCKED
from .plan import Point

_ROOT = Path(__file__).parents[2]
_SHOWING = frozenset({"visual", "study", "explain"})
"""Folders that read figures and make none."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to measure. blocked: false for the schedule chosen by rule without its blocking. routing: a name for
    `compile_layer`, None for the router's own; routing_file: the content of a file in its place."""

    workload: Workload
    config: TileConfig
    numerics: Numerics
    schedule: Schedule | None
    routing: str | None
    routing_file: str | None
    seed: int
    energy: EnergyTable
    blocked: bool = True

    @functools.cached_property
    def digest(self) -> str:
        """20 hexadecimal digits of all that decides the result."""
        values = {"sources": sources_digest(), "workload": asdict(self.workload), "tile": self.config.to_dict(),
                  "numerics": self.numerics.digest, "schedule": self.schedule and to_dict(self.schedule),
                  "blocked": self.blocked,
                  "routing": self.routing, "routing_file": self.routing_file, "seed": self.seed,
                  "energy": table_digest(self.energy)}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:20]


Outcome = dict[str, Any]
"""``{"values": {column: number}}`` or ``{"error": text}``, of JSON types."""


@functools.cache
def sources_digest() -> str:
    """16 hexadecimal digits that change with every file of `rtl/`, `sim/` and `compiler/` that makes a figure."""
    digest = hashlib.sha256()
    for floor in ("rtl", "sim", "compiler"):
        for path in sorted((_ROOT / floor).rglob("*")):
            parts = path.relative_to(_ROOT).parts
            if path.suffix in (".py", ".toml", ".json") and not _SHOWING.intersection(parts):
                digest.update("/".join(parts).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


@functools.cache
def _model(name: str, changes: str | None) -> ModelConfig:
    return load_model(name) if changes is None else changed_model(load_model(name), changes)


_tile = functools.cache(load_tile)
_table = functools.cache(load_table)
_schedule = functools.cache(load_schedule)


def forget_files() -> None:
    """Read every file anew: called at the begin of a sweep."""
    for load in (_model, _tile, _table, _schedule):
        load.cache_clear()


def task_of(point: Point) -> Task:
    """The task of a point. Raises a `TilescoreError` where its values contradict each other."""
    layer = str(point["layer"])
    model = _model(str(point["model"]), point.get("model_set"))  # type: ignore[arg-type]
    workload = Workload(
        layer=layer_of(model, layer, point.get("layer_index")).layer, phase=point["phase"],  # type: ignore[arg-type]
        tokens=point["tokens"], batch=point["batch"], **{k: point[k] for k in ("context", "mask") if k in point})  # type: ignore[arg-type]
    numerics = from_options(str(point["format"]), softmax_block=point.get("softmax_block"),  # type: ignore[arg-type]
                            scale_rule=point.get("scale_rule"))  # type: ignore[arg-type]
    schedule = None if point["schedule"] in (AUTO, UNBLOCKED) else _schedule(Path(str(point["schedule"])))
    routing = str(point.get("routing", ROUTER))
    return Task(workload=workload, config=_config_of(point), numerics=numerics, schedule=schedule,
                blocked=point["schedule"] != UNBLOCKED,
                routing=None if routing == ROUTER else routing, routing_file=routing_content(routing),
                seed=int(point.get("seed", 0)), energy=_table(str(point["energy"])))  # type: ignore[arg-type]


def _config_of(point: Point) -> TileConfig:
    config = _tile(str(point["tile"]))
    old = config.to_dict()
    changes = {name: list(value) if isinstance(value := point[name], tuple) else value
               for name in TILE_NAMES if name in point}
    changed = [name for name, value in changes.items() if value != old[name]]
    if not changed:
        return config
    return TileConfig.from_dict(old | changes | {"name": "+".join([config.name, *changed])}, source="point")


def routing_content(routing: str) -> str | None:
    """Of the file that a routing names, beside its mode, if it names one."""
    load, _ = split_dispatch(routing)
    if load in (ROUTER, "balanced") or not Path(load).is_file():
        return None
    try:
        return Path(load).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise WorkloadError(f"routing {routing}: cannot be read as text: {error}") from None


def outcome_of(task: Task, sources: str) -> Outcome:
    """What `values_of` gives, or the error with which the task is refused. sources: those of the process that asks.

    Raises `ToolError` in a process with other sources, whose figures would be kept under the wrong digest.
    """
    if sources != sources_digest():
        raise ToolError(f"a worker has other sources of tilescore: expected {sources}, got {sources_digest()}; install "
                        "the same version there")
    try:
        return {"values": values_of(task)}
    except TilescoreError as error:
        return {"error": str(error)}


def compile_task(task: Task) -> CompiledLayer:
    """The layer of a task, without data, verified. Raises a `TilescoreError` where that cannot be."""
    with tempfile.TemporaryDirectory(prefix="tilescore-") as folder:
        routing = task.routing
        if task.routing_file is not None:
            load, _ = split_dispatch(str(routing))
            file = Path(folder) / Path(load).name
            file.write_text(task.routing_file, encoding="utf-8")
            routing = f"{file}{str(routing).removeprefix(load)}"
        given: dict[str, Any] = {"routing": routing, "seed": task.seed, "data": False, "numerics": task.numerics}
        try:
            compiled = compile_layer(task.workload, task.config, schedule=task.schedule, **given)
            if not task.blocked:
                schedule = unblocked(compiled.schedule, task.config.rows)
                compiled = compile_layer(task.workload, task.config, schedule=schedule, **given)
        except TilescoreError as error:
            if task.routing_file is None:
                raise
            raise type(error)(str(error).replace(str(routing), str(task.routing))) from None
    compiled.program.meta["useful_macs"] = useful_macs(task.workload, compiled.routing)
    verify(compiled.program)
    return compiled


def measure(task: Task, compiled: CompiledLayer) -> Measured:
    """The run of what `compile_task` gave for ``task``."""
    return Measured(
        workload=task.workload, config=task.config, useful=compiled.program.meta["useful_macs"],
        result=simulate(compiled.program, ("timing",), energy_table=task.energy),
        bounds=bounds(task.workload, task.config, compiled.routing, task.numerics),
        peak=peak_macs_per_cycle(task.config, task.workload, task.numerics), area=area_of(task.config, task.energy))


def values_of(task: Task) -> dict[str, int | float | None]:
    """{column: value} of a task: compiled, verified and timed. Raises a `TilescoreError` where that cannot be."""
    measured = measure(task, compile_task(task))
    return {name: column.of(measured) for name, column in COLUMNS.items()}
