"""What does not exist yet is added to a copy of the tree, in at most three product files, and is right there.

Each change has a test of its own, against torch, transformers or numpy, which runs on the copy; it fails without the
change.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tilescore.tests.changes.changes import CHANGES, PRODUCT_FILES, Change

ROOT = Path(__file__).parents[2]
PARTS = ("rtl", "sim", "compiler", "cli", "testing", "tests/changes", "tests/compiler")
OWN = "tests/changes/own"


def copied(tree: Path) -> Path:
    """The tree in ``tree``, under the name under which it is imported."""
    leave = shutil.ignore_patterns("__pycache__")
    for part in PARTS:
        shutil.copytree(ROOT / part, tree / part, ignore=leave)
    for name in ("__init__.py", "__main__.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tree / name)
    return tree


def run(tree: Path, test: str) -> subprocess.CompletedProcess[str]:
    """A test of ``own``, which imports the copy."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{OWN}/{test}"]
    return subprocess.run(command, cwd=tree, env=os.environ | {"PYTHONPATH": str(tree.parent)}, capture_output=True,
                          text=True, check=False)


def test_at_most_three_product_files() -> None:
    for name, change in CHANGES.items():
        assert len(change.touched) <= PRODUCT_FILES, name
        assert all(file.split("/")[0] in PARTS for file in change.touched), name
        assert (ROOT / OWN / change.test).is_file()


def test_every_change_still_finds_its_places(tmp_path: Path) -> None:
    for name, change in CHANGES.items():
        for file in change.touched:
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            if file in change.edits:
                shutil.copy(ROOT / file, tmp_path / name / file)
        change.apply(tmp_path / name)
        for file in change.touched:
            compile((tmp_path / name / file).read_text(encoding="utf-8"), file, "exec")
    with pytest.raises(ValueError, match=r"compiler/families.py: expected 'nowhere' once, found 0"):
        Change(test="", edits={"compiler/families.py": {"nowhere": ""}}).apply(ROOT)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_copy_is_right(name: str, tmp_path: Path) -> None:
    tree, change = copied(tmp_path / "tilescore"), CHANGES[name]
    without = run(tree, change.test)
    assert without.returncode and " passed" not in without.stdout, without.stdout
    change.apply(tree)
    found = run(tree, change.test)
    assert found.returncode == 0, found.stdout + found.stderr
