"""The public names: exactly those that are documented, and the README's example runs as it stands."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tilescore

ROOT = Path(__file__).resolve().parent.parent


def test_all_is_what_the_docstring_lists() -> None:
    """Names in backquotes in the module docstring; "its subclasses" stands for those of `TilescoreError`."""
    documented = set(re.findall(r"`(\w+)`", tilescore.__doc__ or ""))
    errors = {name for name in tilescore.__all__ if inspect.isclass(value := getattr(tilescore, name))
              and issubclass(value, tilescore.TilescoreError)}
    layers = {"AttentionLayer", "DecoderLayer", "MlpLayer", "MoELayer", "NormLayer", "EmbeddingLayer", "HeadLayer"}
    assert set(tilescore.__all__) == documented | errors | layers
    assert tilescore.__all__ == sorted(tilescore.__all__, key=lambda name: (not name[0].isupper(), name))


def test_all_is_all_that_is_there() -> None:
    """No helper leaks out: what is not in __all__ is a submodule or has an underscore."""
    names = {name for name in dir(tilescore) if not inspect.ismodule(getattr(tilescore, name))}
    assert {name for name in names if not name.startswith("_")} == set(tilescore.__all__)


def test_the_lazy_names_are_those_that_type_checkers_see() -> None:
    """The imports under TYPE_CHECKING, and the table from which names are fetched when they are used."""
    tree = ast.parse(Path(tilescore.__file__).read_text())
    imports = {(node.module or "").removeprefix("tilescore."): tuple(alias.name for alias in node.names)
               for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imports == tilescore._HOME
    assert sorted(name for names in imports.values() for name in names) == sorted(tilescore.__all__)
    with pytest.raises(AttributeError, match="no attribute 'simulat'"):
        _ = tilescore.simulat


@pytest.mark.parametrize("name", tilescore.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    value = getattr(tilescore, name)
    assert (inspect.getdoc(value) or "").strip()
    assert value.__module__.startswith("tilescore.")


def test_every_error_is_public() -> None:
    from tilescore.rtl.spec import errors

    assert set(errors.__all__) <= set(tilescore.__all__)
    assert all(issubclass(getattr(tilescore, name), tilescore.TilescoreError) for name in errors.__all__)


def test_public_dataclasses_are_frozen_and_keyword_only() -> None:
    import dataclasses

    for name in ("AttentionLayer", "MoELayer", "Workload", "TileConfig", "GemmSchedule", "FlashSchedule",
                 "GatherAddSchedule", "Schedule", "Numerics", "CompiledLayer", "Program", "Result"):
        cls = getattr(tilescore, name)
        assert dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen
        kinds = {p.kind for p in inspect.signature(cls).parameters.values()}
        assert kinds == {inspect.Parameter.KEYWORD_ONLY}, name


def test_version_is_that_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert tilescore.__version__ == project["version"]
    assert f"## {tilescore.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def snippet() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return code


def test_the_snippet_of_the_readme(tmp_path: Path) -> None:
    """As it stands, in a process of its own: cycles, then the ledger of the matrix unit, which sums to them."""
    done = subprocess.run([sys.executable, "-c", snippet()], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    cycles, _, causes = done.stdout.partition(" ")
    assert sum(int(count) for count in re.findall(r": (\d+)", causes)) == int(cycles) > 0


def test_the_snippet_uses_public_names_only() -> None:
    (names,) = re.findall(r"^from tilescore import (.+)$", snippet(), re.MULTILINE)
    assert set(re.split(r",\s*", names)) <= set(tilescore.__all__)
    assert "tilescore." not in snippet()


def test_importing_needs_no_optional_package() -> None:
    code = ("import sys, tilescore; tilescore.list_models(); print(*sorted({'torch', 'hypothesis', 'ml_dtypes',"
            "'gfloat', 'safetensors', 'pyslang', 'pyosys', 'cocotb', 'pytest'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
