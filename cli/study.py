"""`tilescore study`: a question of co-design as a page, measured anew."""

import argparse

from ..compiler.study.page import study_files
from ..compiler.study.studies import STUDIES, points_of_all
from ..compiler.study.study import Study
from ..compiler.sweep.plan import SweepPlan
from ..compiler.sweep.run import sweep
from ..compiler.sweep.table import SweepTable
from ..rtl.spec.errors import ConfigError
from ..sim.lib.progress import Progress
from .files import write_text
from .parser import ALL


def run(arguments: argparse.Namespace) -> int:
    """Status 1 where a point's measurement broke off."""
    if arguments.workers is not None and arguments.workers < 1:
        raise ConfigError(f"--workers {arguments.workers}: expected an integer of at least 1")
    if arguments.out.exists() and not arguments.out.is_dir():
        raise ConfigError(f"--out {arguments.out}: is a file, expected a folder or a new name")
    if arguments.name != ALL:
        return _one(STUDIES[arguments.name], arguments)
    _measured(points_of_all(), "studies", arguments)
    return max([_one(study, arguments) for study in STUDIES.values()])


def _measured(plan: SweepPlan, what: str, arguments: argparse.Namespace) -> SweepTable:
    with Progress(what) as progress:
        return sweep(plan, folder=arguments.out, workers=arguments.workers, scheduler=arguments.scheduler,
                     progress=progress)


def _one(study: Study, arguments: argparse.Namespace) -> int:
    table = _measured(study.plan(), f"study {study.name}", arguments)
    files = study_files(study, table)
    for name, content in files.items():
        write_text(arguments.out / name, content)
    print(files[f"{study.name}.md"].partition("\n![")[0])
    print(f"\nWritten to {arguments.out}/: {', '.join(files)}\n")
    return int(bool(table.failed))
