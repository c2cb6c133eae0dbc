"""Studies: what they cover, and pages that say what their tables say."""

from __future__ import annotations

import csv
import io
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tilescore.cli.main import main
from tilescore.cli.parser import STUDY_NAMES
from tilescore.compiler.study.page import study_page, study_svg
from tilescore.compiler.study.studies import STUDIES, Study
from tilescore.compiler.sweep.run import sweep
from tilescore.compiler.sweep.table import SweepTable
from tilescore.tests.compiler.tiny import tiny_config, write_config

PAGES = Path(__file__).resolve().parents[3] / "docs" / "studies"
ALL = list(STUDIES.values())


def names(study: Study) -> str:
    return study.name


def test_the_command_line_knows_them() -> None:
    assert tuple(STUDIES) == STUDY_NAMES


@pytest.mark.parametrize("study", ALL, ids=names)
def test_three_models_three_points_two_tiles(study: Study) -> None:
    points = study.plan().points()
    assert len({point["model"] for point in points}) >= 3
    assert len({(p["phase"], p["tokens"], p.get("context"), p["batch"]) for p in points}) >= 3
    assert len({(p["tile"], p.get("rows"), p.get("cols")) for p in points}) >= 2


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SweepTable]:
    folder = tmp_path_factory.mktemp("tiny")
    write_config(folder, tiny_config("llama"))
    return {study.name: sweep(study.plan([str(folder)]), workers=1) for study in ALL}


def page_rows(page: str) -> list[list[str]]:
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    return [line.strip("| ").split(" | ") for line in lines[2:]]


@pytest.mark.parametrize("study", ALL, ids=names)
def test_a_page_has_a_verdict_and_a_drawing(study: Study, tables: dict[str, SweepTable]) -> None:
    table = tables[study.name]
    page = study_page(study, table)
    assert page.count("The claim stands.") + page.count("The claim is refuted.") == 1
    assert study.claimed in page and study.refuted in page and page_rows(page)
    root = ElementTree.fromstring(study_svg(study, table))
    height = float(root.get("height", 0))
    assert all(float(bar.get("y", 0)) + float(bar.get("height", 0)) <= height for bar in root.iter() if bar.get("y"))


def test_the_page_of_formats_says_what_the_table_says(tables: dict[str, SweepTable]) -> None:
    table = tables["formats"]
    rows = list(csv.DictReader(io.StringIO(table.csv())))
    base = {(r["phase"], r["batch"], r["tile"]): r for r in rows if r["format"] == "e4m3"}
    others = [r for r in rows if r["format"] != "e4m3"]
    shown = page_rows(study_page(STUDIES["formats"], table))
    assert len(shown) == len(others) == 3 * 2 * 3
    wanted = {(r["tile"], r["format"], f"{float(r['time_us']) / float(b['time_us']):.3f}",
               f"{float(r['energy_pj']) / float(b['energy_pj']):.3f}")
              for r in others for b in [base[r["phase"], r["batch"], r["tile"]]]}
    assert {(cells[2], cells[3], cells[4], cells[6]) for cells in shown} == wanted


def test_the_verdict_follows_the_table(tables: dict[str, SweepTable]) -> None:
    """One planted row turns a claim that stands."""
    table, study = tables["prefill-decode"], STUDIES["prefill-decode"]
    for wanted, (compute, dram) in (("stands", (1, 0)), ("is refuted", (0, 1))):
        rows = [row | {"vector_bound_cycles": 0, "compute_bound_cycles": int(row["phase"] == "prefill"),
                       "dram_bound_cycles": int(row["phase"] == "decode")} for row in table.rows]
        rows[0] |= {"compute_bound_cycles": compute, "dram_bound_cycles": dram}
        assert rows[0]["phase"] == "prefill"
        assert f"The claim {wanted}." in study_page(study, SweepTable(given=table.given, rows=rows))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "formats", "--workers", "0", "--out", str(tmp_path)]) == 2
    assert "--workers 0: expected an integer of at least 1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["study", "formatz"])
    assert "did you mean formats" in capsys.readouterr().err


# ---- the pages of docs/ ----


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(PAGES.glob("*.md")), ids=lambda path: path.stem)
def test_the_pages_are_measured(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command writes the committed page and drawing."""
    if path.stem == "index":
        found = set(re.findall(r"\((\S+)\.md\)", path.read_text()))
        assert found == {other.stem for other in PAGES.glob("*.md")} - {"index"}
        return
    assert main(["study", path.stem, "--out", str(tmp_path)]) == 0
    for name in (f"{path.stem}.md", f"{path.stem}.svg"):
        assert (tmp_path / name).read_text() == (PAGES / name).read_text(), f"tilescore study {path.stem} --out docs"
