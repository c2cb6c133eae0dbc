"""`tilescore sweep`: many layers on many tiles, as one table, with its Pareto fronts."""

import argparse
import json
import sys

from ..compiler.sweep.plan import plan_of_file, plan_of_settings
from ..compiler.sweep.plot import pareto_svg
from ..compiler.sweep.run import sweep
from ..compiler.sweep.table import SweepTable
from ..rtl.spec.errors import ConfigError
from ..rtl.spec.version import version
from ..sim.lib.progress import Progress
from .files import write_text
from .ignored import refuse

MOST_LINES = 40


def run(arguments: argparse.Namespace) -> int:
    """Status 1 where no point has a value, or where one broke off."""
    if arguments.file is None and not arguments.set:
        raise ConfigError("sweep: expected FILE.toml or --set KEY=VALUE[,VALUE...]")
    settings = arguments.set or []
    plan = plan_of_settings(settings) if arguments.file is None else plan_of_file(arguments.file, settings)
    if arguments.workers is not None and arguments.workers < 1:
        raise ConfigError(f"--workers {arguments.workers}: expected an integer of at least 1")
    if arguments.scheduler is not None:
        refuse(arguments, ("workers",), "the workers are those of --scheduler")
    if arguments.pareto is None:
        refuse(arguments, ("per",), "--pareto is needed too")
    columns, per = _words(arguments.pareto), _words(arguments.per)
    if columns:
        SweepTable(given=plan.given, rows=[{**point, "error": None} for point in plan.points()]).check_columns(
            columns, "--pareto")
    if arguments.out.exists() and not arguments.out.is_dir():
        raise ConfigError(f"--out {arguments.out}: is a file, expected a folder or a new name")
    with Progress("sweep") as progress:
        table = sweep(plan, folder=arguments.out, workers=arguments.workers, scheduler=arguments.scheduler,
                      progress=progress)
    files = _write(arguments, table, columns, per)
    _show(arguments, table, columns, per)
    if not arguments.json:
        print(f"\n{len(table.rows):,} points, {table.known:,} known before, {len(table.errors):,} with an error\n"
              f"Written to {arguments.out}/: {', '.join(files)}")
    elif table.errors:
        print(f"tilescore: {len(table.errors):,} of {len(table.rows):,} points have an error in place of values",
              file=sys.stderr)
    return int(bool(table.failed) or len(table.errors) == len(table.rows))


def _words(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",")]


def _write(arguments: argparse.Namespace, table: SweepTable, columns: list[str] | None,
           per: list[str] | None) -> list[str]:
    about = {"tilescore": version(), "command": arguments.words}
    texts = {"table.csv": table.csv(), "table.json": json.dumps(about | table.to_dict(), indent=1) + "\n"}
    if columns:
        texts["pareto.csv"] = table.csv(table.pareto(columns, per))
        texts["pareto.svg"] = pareto_svg(table, columns, per)
    for name, content in texts.items():
        write_text(arguments.out / name, content)
    return list(texts)


def _show(arguments: argparse.Namespace, table: SweepTable, columns: list[str] | None, per: list[str] | None) -> None:
    if arguments.json:
        made = table.to_dict()
        if columns:
            made["pareto"] = [row["point"] for row in table.pareto(columns, per)]
        print(json.dumps(made, indent=1))
        return
    print(table.text(table.rows[:MOST_LINES]))
    if len(table.rows) > MOST_LINES:
        print(f"... and {len(table.rows) - MOST_LINES:,} more in {arguments.out}/table.csv")
    if columns:
        best = table.pareto(columns, per)
        names = [name.partition(":")[0] for name in columns]
        print(f"\nPareto front over {', '.join(names)}: {len(best):,} of "
              f"{len(table.rows) - len(table.errors):,} points")
        print(table.text(best, [name for name in names if name not in table.varying]))
