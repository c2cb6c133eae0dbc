"""Studies: what they cover, pages that say what their tables say, and pages of docs/ that the command makes."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from tilescore.cli.main import main
from tilescore.cli.parser import STUDY_NAMES
from tilescore.compiler.study.page import study_files
from tilescore.compiler.study.studies import STUDIES, points_of_all
from tilescore.compiler.study.study import Study
from tilescore.compiler.study.table_file import read_table
from tilescore.compiler.sweep import tasks
from tilescore.compiler.sweep.columns import COLUMNS
from tilescore.compiler.sweep.run import sweep
from tilescore.compiler.sweep.table import SweepTable
from tilescore.rtl.spec.errors import ConfigError
from tilescore.tests.compiler.tiny import tiny_config, write_config

PAGES = Path(__file__).resolve().parents[3] / "docs" / "studies"
ALL = list(STUDIES.values())
each_study = pytest.mark.parametrize("study", ALL, ids=lambda study: study.name)


def test_the_command_line_knows_them() -> None:
    assert tuple(STUDIES) == STUDY_NAMES


@each_study
def test_three_models_three_points_two_tiles(study: Study) -> None:
    points = study.plan().points()
    assert len({point["model"] for point in points}) >= 3
    assert len({(p["phase"], p["tokens"], p.get("context"), p["batch"]) for p in points}) >= 3
    assert len({(p["tile"], p.get("rows"), p.get("cols")) for p in points}) >= 2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tiny")
    write_config(folder, tiny_config("qwen3_moe") | {"num_hidden_layers": 4})
    return str(folder)


def planted(study: Study, model: str, rng: np.random.Generator) -> SweepTable:
    """The study's points on one model with figures that are drawn, and those errors that its points have by
    themselves."""
    rows = []
    for point in study.plan([model]).points():
        figures = {name: float(rng.uniform(1, 2)) for name in COLUMNS} | {
            "cycles": 100, "useful_macs": int(rng.integers(100, 200)), "read_bytes": 1000, "write_bytes": 10}
        refused = point.get("formats") or point.get("scales")
        rows.append({"point": None, **point, **({} if refused else figures), "error": "no" if refused else None})
    return SweepTable(given=study.plan([model]).given, rows=rows)


def page_rows(page: str) -> list[list[str]]:
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    return [line.strip("| ").split(" | ") for line in lines[2:]]


def check_files(study: Study, table: SweepTable) -> None:
    """A page with everything it must say, a drawing whose bars lie in it, and points that give the same page."""
    files = study_files(study, table)
    page = files[f"{study.name}.md"]
    assert page.count("The claim stands.") + page.count("The claim is refuted.") == 1
    assert study.claimed in page and study.refuted in page and "\n**Energy.** " in page and page_rows(page)
    heads = [line for line in page.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in heads}) == 1
    root = ElementTree.fromstring(files[f"{study.name}.svg"])
    height, width = float(root.get("height", 0)), float(root.get("width", 0))
    bars = [bar for bar in root.iter() if bar.get("y") and bar.get("height")]
    assert bars and all(float(bar.get("y", 0)) + float(bar.get("height", 0)) <= height for bar in bars)
    assert all(float(bar.get("x", 0)) + float(bar.get("width", 0)) <= width for bar in bars)
    assert study_files(study, read_table(files[f"{study.name}.csv"], "points")) == files


@each_study
def test_a_page_of_any_figures(study: Study, model: str, rng: np.random.Generator) -> None:
    check_files(study, planted(study, model, rng))


@pytest.mark.parametrize("name", ["alignment", "prefill-decode", "rounding"])
def test_small_grids(name: str, model: str) -> None:
    check_files(STUDIES[name], sweep(STUDIES[name].plan([model]), workers=1))


@pytest.mark.sampled
@each_study
def test_small_grids_of_all(study: Study, model: str) -> None:
    table = sweep(study.plan([model]), workers=1)
    check_files(study, table)
    assert len(table.errors) == (3 if study.name == "hundredfold" else 0)


def test_all_of_them_measure_a_point_once() -> None:
    wanted = {tuple(point.items()) for study in ALL for point in study.plan().points()}
    points = points_of_all().points()
    assert {tuple(point.items()) for point in points} == wanted and len(points) == len(wanted) < sum(
        len(study.plan().points()) for study in ALL)


def test_a_table_that_is_none() -> None:
    for text, message in (("model,cicles\n", "points: unknown column 'cicles'"),
                          ("model,cycles\na,1,2\n", "points: line 2: expected 2 cells, got 3")):
        with pytest.raises(ConfigError, match=message):
            read_table(text, "points")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "formats", "--workers", "0", "--out", str(tmp_path)]) == 2
    assert "--workers 0: expected an integer of at least 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["study", "formatz"])
    assert "did you mean formats" in capsys.readouterr().err


# ---- the pages of docs/ ----


def test_the_index_has_every_study() -> None:
    rows = re.findall(r"^\| \[(\S+)\]\((\S+)\.md\) \|", (PAGES / "index.md").read_text(), re.MULTILINE)
    assert rows == [(name, name) for name in STUDIES]
    assert {path.name for path in PAGES.glob("*.*")} - {"index.md", "points.jsonl"} == {
        f"{name}.{kind}" for name in STUDIES for kind in ("md", "svg", "csv")}


def committed(study: Study) -> SweepTable:
    return read_table((PAGES / f"{study.name}.csv").read_text(), study.name)


def again(study: Study) -> str:
    """How a page is made anew."""
    return f"tilescore study {study.name} --out docs/studies"


@each_study
def test_a_page_follows_from_its_points(study: Study) -> None:
    """Without measuring: page and drawing are those that the committed values give, and the points are the study's."""
    table = committed(study)
    for name, content in study_files(study, table).items():
        assert (PAGES / name).read_text() == content, again(study)
    wanted = [{name: value for name, value in point.items() if name in table.keys} for point in study.plan().points()]
    assert [{name: row[name] for name in table.keys if name in row} for row in table.rows] == wanted, again(study)


def check_row(study: Study, number: int) -> None:
    """Measured anew, a row is the committed one."""
    row, point = committed(study).rows[number], study.plan().points()[number]
    outcome = tasks.outcome_of(tasks.task_of(point), tasks.sources_digest())
    values = outcome.get("values", {})
    assert {name: row.get(name) for name in COLUMNS} == {name: values.get(name) for name in COLUMNS}, again(study)
    assert row["error"] == outcome.get("error")


def test_a_value_of_the_pages_is_measured(rng: np.random.Generator) -> None:
    """One that is drawn, of a short program."""
    study = ALL[rng.integers(len(ALL))]
    short = [i for i, row in enumerate(committed(study).rows) if row["error"] is None and row["instructions"] < 9000]
    check_row(study, int(rng.choice(short)))


@pytest.mark.slow
@each_study
def test_values_of_every_page_are_measured(study: Study, rng: np.random.Generator) -> None:
    check_row(study, int(rng.integers(len(committed(study).rows))))


@pytest.mark.sampled
@each_study
def test_the_pages_are_measured(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command writes the committed files."""
    assert main(["study", study.name, "--out", str(tmp_path)]) == 0
    for name in (f"{study.name}.md", f"{study.name}.svg", f"{study.name}.csv"):
        assert (tmp_path / name).read_text() == (PAGES / name).read_text(), again(study)
