"""The floors hold: imports go down only, every file is packaged, and nothing is tied to one machine."""

from __future__ import annotations

import ast
import fnmatch
import graphlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = ("rtl", "sim", "compiler", "cli", "testing")
TOP_LEVEL = {
    *FLOORS,
    "tests", "docs", "benchmarks", "examples", ".ci", ".gitignore", "pyproject.toml", "constraints.txt", "Makefile",
    "mkdocs.yml",
    "README.md", "LICENSE", "CHANGELOG.md", "__init__.py", "__main__.py",
}  # fmt: skip


def floor_of(module: str) -> int | None:
    """Height of ``tilescore.<floor>...``: rtl 0, sim 1, compiler 2, cli 3, the root 4; None for other modules."""
    package, _, rest = module.partition(".")
    if package != "tilescore":
        return None
    first = rest.partition(".")[0]
    return FLOORS.index(first) if first in FLOORS else len(FLOORS)


def imported_modules(source: str, package: str) -> Iterator[tuple[int, str]]:
    """(line, absolute module name) of each import in ``source``, a module of ``package``, at any depth.

    ``from x import y`` counts as ``x.y``, which may be one name too deep and is then of the same floor.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def violations(source: str, package: str) -> list[str]:
    """Each import in ``source`` that goes up: "line 3: tilescore.sim.x"."""
    own = floor_of(package)
    assert own is not None
    return [
        f"line {line}: {module}"
        for line, module in imported_modules(source, package)
        if (floor := floor_of(module)) is not None and floor > own
    ]


def python_files() -> list[Path]:
    """The sources of the package, root files included."""
    return [*ROOT.glob("*.py"), *(file for floor in FLOORS for file in (ROOT / floor).rglob("*.py"))]


def package_of(file: Path) -> str:
    return ".".join(["tilescore", *file.relative_to(ROOT).parent.parts])


def tracked_files() -> list[Path]:
    """What git tracks; in an unpacked archive, every file outside the folders that .gitignore names."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0 and listed.stdout:
        return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    ignored = (".venv", ".git", "__pycache__", "out", "build", "dist", ".hypothesis", ".ruff_cache")
    return [
        file
        for file in ROOT.rglob("*")
        if file.is_file() and not any(part in ignored or part.endswith(".egg-info") for part in file.parts)
    ]


@pytest.mark.parametrize("file", python_files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_go_down_only(file: Path) -> None:
    assert violations(file.read_text(), package_of(file)) == []


@pytest.mark.parametrize("file", python_files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_floors_import_relatively_and_the_root_absolutely(file: Path) -> None:
    nodes = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
    if file.parent == ROOT:  # pytest imports these under the checkout folder's name
        assert [node.lineno for node in nodes if node.level] == []
    else:
        own = [node.lineno for node in nodes if not node.level and floor_of(node.module or "") is not None]
        assert own == []


@pytest.mark.parametrize(
    ("package", "source", "wrong"),
    [
        ("tilescore.rtl", "from ..sim import simulate", ["line 1: tilescore.sim.simulate"]),
        ("tilescore.rtl", "from .. import sim", ["line 1: tilescore.sim"]),
        ("tilescore.rtl.arith", "from ...compiler.tile import x", ["line 1: tilescore.compiler.tile.x"]),
        ("tilescore.sim", "def f():\n    import tilescore.compiler", ["line 2: tilescore.compiler"]),
        ("tilescore.compiler", "from .. import __version__", ["line 1: tilescore.__version__"]),
        ("tilescore.compiler.moe", "from ...sim.levels import x\nfrom ..tile import y\nimport numpy", []),
        ("tilescore.compiler", "from ..cli.main import main", ["line 1: tilescore.cli.main.main"]),
        ("tilescore.cli", "from ..compiler import compile_layer", []),
        ("tilescore", "from tilescore.compiler import compile_layer", []),
    ],
)
def test_the_import_check_finds_each_way_up(package: str, source: str, wrong: list[str]) -> None:
    assert violations(source, package) == wrong


# What software may know of the hardware's floor, and the modules that drive hardware and so may know all of it.
SHARED = ("tilescore.rtl.spec", "tilescore.rtl.plan")
DRIVERS = ("tilescore.sim.hardware", "tilescore.sim.host", "tilescore.cli.hardware")


def within(module: str, packages: tuple[str, ...]) -> bool:
    """``module`` is one of ``packages`` or in one."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def hardware_imports(source: str, module: str) -> list[str]:
    """Each import in ``source``, the text of ``module``, of hardware that it must not know: "line 3: tilescore.rtl.x".

    Software knows `SHARED`; ``rtl/spec`` knows itself alone, and neither knows Amaranth.
    """
    if within(module, DRIVERS) or (module.startswith("tilescore.rtl") and not within(module, SHARED[:1])):
        return []
    shared = SHARED[:1] if module.startswith("tilescore.rtl") else SHARED
    return [f"line {line}: {name}" for line, name in imported_modules(source, module.rpartition(".")[0])
            if within(name, ("amaranth",)) or (within(name, ("tilescore.rtl",)) and not within(name, shared))]


@pytest.mark.parametrize("file", python_files(), ids=lambda file: str(file.relative_to(ROOT)))
def test_software_imports_the_specification_only(file: Path) -> None:
    assert hardware_imports(file.read_text(), f"{package_of(file)}.{file.stem}") == []


@pytest.mark.parametrize(("module", "source", "wrong"), [
    ("tilescore.sim.timing", "from ..rtl.tile import Tile", ["line 1: tilescore.rtl.tile.Tile"]),
    ("tilescore.sim.timing", "from ..rtl import tile", ["line 1: tilescore.rtl.tile"]),
    ("tilescore.sim.legality.x", "import numpy\nfrom amaranth.hdl import Signal", ["line 2: amaranth.hdl.Signal"]),
    ("tilescore.compiler.moe.x", "from ...rtl.matrix.pe import A", ["line 1: tilescore.rtl.matrix.pe.A"]),
    ("tilescore.cli.run", "from ..rtl.export.verilog import a", ["line 1: tilescore.rtl.export.verilog.a"]),
    ("tilescore.testing.gate", "import tilescore.rtl.specification", ["line 1: tilescore.rtl.specification"]),
    ("tilescore.rtl.spec.events", "from ..plan import duration", ["line 1: tilescore.rtl.plan.duration"]),
    ("tilescore.rtl.matrix.pe", "from amaranth.hdl import Signal\nfrom .drain import x", []),
    ("tilescore.sim.hardware.run", "from ...rtl.tile import Tile", []),
    ("tilescore.compiler.x", "from ..rtl.plan import duration\nfrom ..rtl.spec import isa", []),
])
def test_the_check_of_software_finds_planted_imports(module: str, source: str, wrong: list[str]) -> None:
    assert hardware_imports(source, module) == wrong


LAYER_MODULES = ("graph", "lowering", "layers", "models", "tensors", "routing", "compile", "checkpoint")
"""Modules of the compiler that know layers or ops, and that no kernel may import."""


@pytest.mark.parametrize("folder", ["kernels", "tiles"])
def test_kernels_know_no_layer_and_no_op(folder: str) -> None:
    above = tuple(f"tilescore.compiler.{name}" for name in LAYER_MODULES)
    wrong = [f"{file.name} line {line}: {name}" for file in (ROOT / "compiler" / folder).glob("*.py")
             for line, name in imported_modules(file.read_text(), package_of(file)) if within(name, above)]
    assert wrong == []
    planted = list(imported_modules("from ..graph.ops.linear import Linear", "tilescore.compiler.kernels"))
    assert within(planted[0][1], above)


def test_no_kind_of_layer_stands_in_kernels_lowering_or_schedules() -> None:
    """But for the op of that name."""
    files = [file for part in ("kernels", "tiles", "lowering") for file in (ROOT / "compiler" / part).glob("*.py")]
    files += [ROOT / "compiler" / name for name in ("schedule.py", "auto.py", "auto_gemm.py")]
    kinds = re.compile(r"\bmoe\b|layer\.kind|\.attention\b(?! import Attention\b)|(Attention|MoE|Decoder)Layer")
    found = {file.name: kinds.findall(file.read_text()) for file in files}
    assert len(files) > 20 and not any(found.values()), found


def room_of(module: str) -> str:
    """The folder of a module of the package; a module that lies beside folders is a room of its own."""
    parts = module.split(".")
    if (ROOT.joinpath(*parts[1:])).is_dir():
        return module
    package = ".".join(parts[:-1])
    return module if any((ROOT.joinpath(*parts[1:-1])).glob("*/__init__.py")) else package


def imports_of(source: str) -> str:
    """What a module imports when it is loaded."""
    own = [node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]
    return "\n".join(map(ast.unparse, own))


def arrows(floor: str, *, when_loaded: bool = False) -> dict[str, set[str]]:
    """{room: the other rooms of ``floor`` that it imports}."""
    found: dict[str, set[str]] = {}
    for file in (ROOT / floor).rglob("*.py"):
        package = package_of(file)
        own = room_of(package if file.stem == "__init__" else f"{package}.{file.stem}")
        source = file.read_text()
        for _, name in imported_modules(imports_of(source) if when_loaded else source, package):
            if not name.startswith(f"tilescore.{floor}."):
                continue
            path = ROOT.joinpath(*name.split(".")[1:])
            module = name if path.is_dir() or path.with_suffix(".py").is_file() else name.rpartition(".")[0]
            if room_of(module) != own:
                found.setdefault(own, set()).add(room_of(module))
    return found


@pytest.mark.parametrize("floor", ["rtl", "sim", "compiler"])
def test_rooms_have_no_circles(floor: str) -> None:
    """In the compiler of what is imported when a module is loaded, and not for its types or by a function that is
    called later."""
    graph = arrows(floor, when_loaded=floor == "compiler")
    assert len(graph) > 5
    graphlib.TopologicalSorter(graph).prepare()


LINES, FUNCTION, ELABORATE = 450, 60, 80
"""Of a file, of a function, and of what describes a piece of hardware, at most."""


def too_long(source: str) -> list[tuple[str, int]]:
    """(function, or nothing for the whole, lines) of all that is longer."""
    found = [("", source.count("\n"))] if source.count("\n") > LINES else []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > (ELABORATE if node.name == "elaborate" else FUNCTION):
                found.append((node.name, lines))
    return found


def test_files_and_functions_are_short() -> None:
    wrong = {str(file.relative_to(ROOT)): found for floor in FLOORS for file in (ROOT / floor).rglob("*.py")
             if (found := too_long(file.read_text()))}
    assert wrong == {}
    planted = "def f():\n" + "    x = 1\n" * FUNCTION + "\n" * LINES
    assert too_long(planted) == [("", LINES + FUNCTION + 1), ("f", FUNCTION + 1)]


def test_pyproject_lists_every_package_and_each_has_an_init() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = {package_of(file) for file in python_files()}
    assert sorted(settings["packages"]) == sorted(packages)
    folders = {file.parent for file in python_files()}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_pyproject_lists_every_data_file() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = [
        "/".join([*package.split(".")[1:], pattern])
        for package, listed in settings["package-data"].items()
        for pattern in listed
    ]
    names = [file.relative_to(ROOT).as_posix() for file in tracked_files()]
    data = [
        name for name in names if name.startswith(tuple(f"{f}/" for f in FLOORS)) and not name.endswith(".py")
    ]
    assert [name for name in data if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)] == []


@pytest.mark.slow
def test_a_wheel_holds_every_tracked_file_of_the_package(tmp_path: Path) -> None:
    """Built from what git tracks, so a file that only the working tree has cannot make it pass."""
    pytest.importorskip("pip", reason="building a wheel needs pip in this environment (uv leaves it out)")
    for file in tracked_files():
        copy = tmp_path / "source" / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", "wheel", "./source"]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    if "No matching distribution found for setuptools" in built.stderr:
        pytest.skip("building a wheel needs setuptools from a package index, and none answers")
    assert built.returncode == 0, built.stderr
    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    held = {name.removeprefix("tilescore/") for name in names if ".dist-info/" not in name}
    tracked = {file.relative_to(ROOT).as_posix() for file in tracked_files()}
    ours = {name for name in tracked if name.split("/")[0] in FLOORS or re.fullmatch(r"\w+\.py", name)}
    assert held == ours


def test_top_level_holds_the_fixed_names_only() -> None:
    assert {file.relative_to(ROOT).parts[0] for file in tracked_files()} <= TOP_LEVEL


MACHINE = re.compile(
    r"(?<![\w.~$}/)<>*-])/(?:home|root|work|opt|mnt|Users|usr/local|tmp)/\w"  # a path of one machine
    r"|(?:^|[\s\"'=])(?:--(?:extra-)?index-url|--find-links|--trusted-host)"  # where packages come from
    r"|\bpypi\.org\b|\bpythonhosted\.org\b|\blocalhost\b|(?<!==)\b(?:10|127|192\.168)(?:\.\d{1,3}){2,3}\b"
)


def machine_traces(text: str) -> list[str]:
    return [match.group().strip() for match in MACHINE.finditer(text)]


def test_tracked_files_name_no_machine_and_no_package_index() -> None:
    found = {}
    for file in tracked_files():
        if file == Path(__file__).resolve():
            continue
        try:
            traces = machine_traces(file.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            continue
        if traces:
            found[file.relative_to(ROOT).as_posix()] = traces
    assert found == {}


@pytest.mark.parametrize(
    "text", ["open('/home/a/b')", "--index-url x", "https://pypi.org/simple", "x = '/work/m'"]
)
def test_the_machine_check_finds_planted_traces(text: str) -> None:
    assert machine_traces(text)


@pytest.mark.parametrize(
    "text", ["cost/work/mac", "~/.cache/tilescore", "rtl/opt/x", "../root/x", "m / work/ k"]
)
def test_the_machine_check_leaves_other_text_alone(text: str) -> None:
    assert not machine_traces(text)


def test_constraints_are_exact_versions_only() -> None:
    lines = [line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pins = [line for line in lines if line]
    assert len(pins) > 10
    assert [pin for pin in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9A-Za-z.+!]+( ; .+)?", pin)] == []
