"""A sweep from plan to table: what is known is taken from the store, the rest is measured and kept as it comes."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from ...rtl.spec.errors import ConfigError, TilescoreError, ToolError
from ...sim.lib.threads import processors
from .cluster import run_on_cluster
from .plan import Point, SweepPlan
from .pool import run_here
from .store import Store
from .table import SweepTable
from .tasks import Outcome, Task, forget_files, task_of

Progress = Callable[[int, int], None]


def sweep(keys: Mapping[str, object] | SweepPlan, *, cases: Sequence[Mapping[str, object]] = ({},),
          folder: str | Path | None = None, workers: int | None = None, scheduler: str | None = None,
          progress: Progress | None = None) -> SweepTable:
    """Measure every combination of the values of ``keys``: {key: value or list of values}, as in a file of
    `tilescore sweep`.

    cases: keys that go together, each case combined with all of ``keys``. folder: where outcomes are kept; a sweep that
    was stopped goes on there, and points that any sweep has measured there are not measured again. workers: processes,
    by default one per processor; 1 is this process alone (others import the calling script anew: put the call under
    ``if __name__ == "__main__":``). scheduler: address of a Dask scheduler, whose workers take their place. progress:
    called with (points done, points).

    A point that a layer or a tile cannot have keeps its error in the table. Raises `ConfigError` for keys and values
    that are wrong by themselves, `ToolError` for a cluster that does not answer.
    """
    if workers is not None and (type(workers) is not int or workers < 1):
        raise ConfigError(f"workers: expected an integer of at least 1, got {workers!r}")
    plan = keys if isinstance(keys, SweepPlan) else SweepPlan(axes={
        name: list(value) if isinstance(value, list | tuple) else [value] for name, value in keys.items()}, cases=cases)
    forget_files()
    points = plan.points()
    digests, tasks, refused = _tasks(points)
    outcomes: dict[str, Outcome] = {}
    failed: dict[str, str] = {}
    with (Store(Path(folder)) if folder is not None else nullcontext()) as store:
        for digest in list(tasks):
            if store is not None and (known := store.get(digest)) is not None:
                outcomes[digest] = known
                del tasks[digest]
        known_count, total = len(outcomes), len(outcomes) + len(tasks)

        def done(digest: str, outcome: Outcome | BaseException) -> None:
            if isinstance(outcome, ToolError) or not isinstance(outcome, Exception | dict):
                raise outcome
            if isinstance(outcome, dict):
                outcomes[digest] = outcome
                if store is not None:
                    store.put(digest, outcome)
            else:
                failed[digest] = f"{type(outcome).__name__}: {' '.join(str(outcome).split())}"
            if progress is not None:
                progress(len(outcomes) + len(failed), total)

        if tasks and scheduler is not None:
            run_on_cluster(tasks, scheduler, done)
        elif tasks:
            run_here(tasks, min(workers or processors(), len(tasks)), done)
    rows = []
    for number, (point, digest) in enumerate(zip(points, digests, strict=True)):
        outcome = {"error": refused[number]} if digest is None else outcomes.get(digest) or {"error": failed[digest]}
        values: Mapping[str, object] = outcome.get("values", {})  # type: ignore[assignment]
        rows.append({"point": digest, **point, **values, "error": outcome.get("error")})
    return SweepTable(given=plan.given, rows=rows, known=known_count, failed=len(failed))


def _tasks(points: Sequence[Point]) -> tuple[list[str | None], dict[str, Task], dict[int, str]]:
    """The digest of each point's task, the tasks by digest, and by number why a point has none."""
    digests: list[str | None] = []
    tasks: dict[str, Task] = {}
    refused: dict[int, str] = {}
    for number, point in enumerate(points):
        try:
            task = task_of(point)
        except TilescoreError as error:
            refused[number] = str(error)
            digests.append(None)
            continue
        digests.append(task.digest)
        tasks[task.digest] = task
    return digests, tasks, refused
