"""Pages of runs and comparisons: their figures, read back by other code, are those of `run` in another process."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tilescore.tests.sim.visual.trace_reader import read

LAYER = ("--model", "qwen3-30b-a3b", "--layer", "moe", "--tokens", "2", "--tile", "edge", "--level", "timing")
BROWSER = next((found for name in ("chromium", "chromium-browser", "google-chrome", "chrome")
                if (found := shutil.which(name))), None)


def tilescore(*arguments: object, status: int = 0) -> str:
    done = subprocess.run([sys.executable, "-m", "tilescore", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done.stdout if status != 2 else done.stderr


class Reader(HTMLParser):
    """What a page holds: data blocks, key figures, links with data, addresses, tables and figures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.data: dict[str, dict] = {}
        self.keys: list[tuple[str, str]] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self._held: str | None = None
        self.feed(text)
        self.figures = [ET.fromstring(found) for found in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self._held = found["id"] if found.get("type") == "application/json" else None
        if "data-key" in found:
            self.keys.append((found["data-key"], found["data-value"]))
        self.addresses += [found[name] for name in ("src", "href", "action", "data") if name in found]
        if "id" in found:
            self.ids.append(found["id"])

    def handle_data(self, data: str) -> None:
        if self._held:
            self.data[self._held] = json.loads(data)
            self._held = None

    @property
    def tables(self) -> list[list[dict[str, str]]]:
        return [list(csv.DictReader(io.StringIO(base64.b64decode(a.partition("base64,")[2]).decode())))
                for a in self.addresses if a.startswith("data:text/csv")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything, and a page of another format against it."""
    folder = tmp_path_factory.mktemp("pages")
    said = tilescore("run", *LAYER, "--out", folder / "run")
    assert f"Page to look at: {folder / 'run/report.html'}\n" in said
    tilescore("run", *LAYER, "--format", "nvfp4", "--html", folder / "fp4.html", "--baseline", folder / "run",
              "--trace", folder / "fp4.pftrace")
    tilescore("compare", folder / "run", "format=nvfp4", *LAYER[:-2], "--html", folder / "both.html")
    return folder


@pytest.fixture(scope="module")
def report() -> dict:
    return json.loads(tilescore("run", *LAYER, "--json"))


def without_times(report: dict) -> dict:
    return {k: v for k, v in report.items() if k not in ("wall_s", "command", "timeline")}


def test_numbers_in_page_csv_and_json_are_those_of_another_process(folder: Path, report: dict) -> None:
    page = Reader((folder / "run/report.html").read_text())
    (held,) = page.data["report"]["layers"]
    (saved,) = json.loads((folder / "run/report.json").read_text())["layers"]
    assert without_times(held) == without_times(saved) == without_times(report)
    keys = {name: float(value) for name, value in page.keys if value != "None"}
    assert keys["cycles"] == report["cycles"] and keys["instructions"] == report["instructions"]
    assert keys["energy.total_pj"] == report["energy"]["total_pj"]
    assert keys["utilization"] == 100 * report["utilization"]
    (phases,) = page.tables
    assert [row["phase"] for row in phases] == [phase["phase"] for phase in report["phases"]]
    for row, phase in zip(phases, report["phases"], strict=True):
        assert float(row["energy_pj"]) == phase["energy_pj"] and int(row["cycles"]) == phase["cycles"]
        assert int(row["dram_read_bytes"]) == phase["dram_bytes"]["read"]
        for unit, causes in phase["ledger"].items():
            assert {c: int(row[f"{unit}.{c}"]) for c in causes} == causes
        assert {c: float(row[f"{c}_pj"]) for c in phase["components"]} == phase["components"]
    events, cols = report["events"], report["tile_parameters"]["cols"] * report["tile_parameters"]["lanes"]
    assert sum(int(row["macs"]) for row in phases) == cols * sum(
        count for name, count in events.items() if name in ("e4m3_row_steps", "e5m2_row_steps"))
    assert page.data["records"]["layers"][0]["cycles"] == report["cycles"]


def test_printed_figures_and_bars_are_the_reports(folder: Path, report: dict) -> None:
    text = (folder / "run/report.html").read_text()
    assert f"<b>{report['cycles']:,}</b>" in text
    page = Reader(text)
    tips = [title.text or "" for figure in page.figures for title in figure.iter("{http://www.w3.org/2000/svg}title")]
    for unit, causes in report["ledger"].items():
        for cause, cycles in causes.items():
            said = [tip for tip in tips if tip.startswith(f"{unit}: {cause.replace('_', ' ')} ")]
            assert len(said) == bool(cycles)
            if cycles:
                assert f" {cycles:,.6g} cycles" in said[0]


def test_a_page_needs_nothing_else_and_reads_without_scripts(folder: Path) -> None:
    for name in ("run/report.html", "fp4.html", "both.html"):
        text = (folder / name).read_text()
        page = Reader(text)
        assert all(a.startswith(("data:", "#")) for a in page.addresses), name
        assert "default-src 'none'" in text and "@import" not in text and "url(" not in text
        assert len(page.ids) == len(set(page.ids))
        assert len(page.figures) >= 5 and len(text) < 300_000
        still = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
        assert "Where the cycles go" in still and still.count("<svg") == len(page.figures)


def test_changes_against_a_baseline(folder: Path, report: dict) -> None:
    text = (folder / "fp4.html").read_text()
    (held,) = Reader(text).data["report"]["layers"]
    change = held["cycles"] - report["cycles"]
    assert change < 0
    assert f'<em class="better">{change:,} ({100 * change / report["cycles"]:.2f} %)</em>' in text
    assert "Changes are against edge" in text


def test_numbers_in_the_trace_are_those_of_another_process(folder: Path) -> None:
    report = json.loads(tilescore("run", *LAYER, "--format", "nvfp4", "--json"))
    found = read((folder / "fp4.pftrace").read_bytes())
    for word, key in (("read", "read"), ("written", "write")):
        assert found["samples"][f"DRAM {word} in all [B]"][-1][1] == report["dram_bytes"][key]
    slices = [s for s in found["slices"] if s["track"] in ("load", "store", "matrix", "vector")]
    for unit, causes in report["ledger"].items():
        spent = Counter()
        for s in slices:
            if s["track"] == unit:
                spent[s["name"] if s["kind"] == "stall" else "busy"] += s["end"] - s["start"]
        if unit != "dispatch":
            assert spent["busy"] == sum(causes.get(name, 0) for name in ("busy", "compute", "fill"))
            assert {c: spent[c] for c in causes if c.startswith("wait")} == {
                c: n for c, n in causes.items() if c.startswith("wait")}
    inside = [s for s in slices if s["kind"] == "instruction"]
    assert sum(s.get("dram_bytes", 0) for s in inside) == sum(report["dram_bytes"][k] for k in ("read", "write"))
    memories = Reader((folder / "fp4.html").read_text()).data["report"]["memories"][0]
    for name, (peak, _, _) in memories.items():
        assert max(value for _, value in found["samples"][f"{name} in use [B]"]) == peak


def test_a_comparison_has_the_rows_of_compare(folder: Path, report: dict) -> None:
    page = Reader((folder / "both.html").read_text())
    found = json.loads(tilescore("compare", folder / "run", "format=nvfp4", *LAYER[:-2], "--json"))
    del found["failed"]
    assert page.data["comparison"] == found
    assert page.data["reports"][0]["cycles"] == report["cycles"]
    (rows,) = page.tables
    for row, wanted in zip(rows, found["rows"], strict=True):
        values = [float(v) if v else None for v in list(row.values())[2:4]]
        assert values == [None if v is None else float(v) for v in wanted["values"]]


def test_what_cannot_be_done_is_said_first(folder: Path, tmp_path: Path) -> None:
    said = tilescore("run", *LAYER, "--html", tmp_path / "no/page.html", status=2)
    assert said == f"tilescore: {tmp_path}/no/page.html: folder {tmp_path}/no does not exist\n"
    said = tilescore("run", *LAYER, "--baseline", folder / "run", status=2)
    assert said == f"tilescore: --baseline {folder / 'run'}: --html or --out is needed too\n"
    other = tuple("attention" if word == "moe" else word for word in LAYER)
    said = tilescore("run", *other, "--baseline", folder / "run", "--html", tmp_path / "page.html", status=2)
    assert "--layer attention: not in it; allowed: moe" in said
    schedule = folder / "run/moe.schedule.toml"
    said = tilescore("run", *LAYER, "--baseline", schedule, "--html", tmp_path / "page.html", status=2)
    assert "is a schedule, expected a report.json" in said
    assert not list(tmp_path.iterdir())


def browse(page: str, width: int, profile: Path) -> tuple[str, str]:
    """(the document after its scripts have run, what the browser's console said)."""
    done = subprocess.run(
        [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
         f"--user-data-dir={profile}", f"--window-size={width},1400", "--virtual-time-budget=15000",
         "--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom", page],
        capture_output=True, text=True, env=os.environ | {"HOME": str(profile)})
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome")
@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_shows_it_without_errors(width: int, folder: Path, tmp_path: Path) -> None:
    """The script runs, and the instruction that the address names is shown as the listing has it."""
    listed = [line for line in (folder / "run/moe.txt").read_text().splitlines() if not line.startswith("#")]
    for index in (7, len(listed) - 9):
        shown, console = browse(f"{(folder / 'run/report.html').as_uri()}#0/{index}", width, tmp_path)
        assert console == "" and 'data-ready="' in shown
        cells = dict(re.findall(r"<tr><td>([\w ()]+)</td><td>([^<]*)</td></tr>", shown[shown.index("detail chosen"):]))
        number, issue, retire, *rest = listed[index].split()
        words = rest[1 if rest[0] == "-" else 2:]
        words = words[:words.index("#")] if "#" in words else words
        assert cells["instruction"] == number == str(index)
        assert cells["issued"] == f"{int(issue):,}" and cells["retired (wr)"] == f"{int(retire):,}"
        assert sorted(cells["assembler"].split()) == sorted(words)
        assert (cells["held up"] == "not at all") == (rest[0] == "-")
    shown, console = browse((folder / "both.html").as_uri(), width, tmp_path)
    assert console == "" and "Where the cycles go" in shown
