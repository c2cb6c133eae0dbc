"""`tilescore study`: a question of co-design as a page, measured anew."""

import argparse
from pathlib import Path

from ..compiler.study.page import study_page, study_svg
from ..compiler.study.studies import STUDIES
from ..compiler.sweep.run import sweep
from ..rtl.spec.errors import ConfigError
from ..sim.lib.progress import Progress
from .files import write_text


def run(arguments: argparse.Namespace) -> int:
    """Status 1 where a point's measurement broke off."""
    study = STUDIES[arguments.name]
    if arguments.workers is not None and arguments.workers < 1:
        raise ConfigError(f"--workers {arguments.workers}: expected an integer of at least 1")
    if arguments.out.exists() and not arguments.out.is_dir():
        raise ConfigError(f"--out {arguments.out}: is a file, expected a folder or a new name")
    with Progress(f"study {study.name}") as progress:
        table = sweep(study.plan(), folder=arguments.out, workers=arguments.workers, scheduler=arguments.scheduler,
                      progress=progress)
    page = study_page(study, table)
    for name, content in {f"{study.name}.md": page, f"{study.name}.svg": study_svg(study, table),
                          f"{study.name}.csv": table.csv()}.items():
        write_text(Path(arguments.out) / name, content)
    print(page.partition("\n![")[0])
    print(f"\nWritten to {arguments.out}/: {study.name}.md, {study.name}.svg, {study.name}.csv")
    return int(bool(table.failed))
