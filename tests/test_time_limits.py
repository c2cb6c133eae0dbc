"""No test limits time: a slower machine passes too. How fast things are is the subject of `benchmarks/`."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
CLOCKS = {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time",
          "process_time_ns", "thread_time", "default_timer", "times", "getrusage", "setrlimit", "alarm", "setitimer"}
HANG_S = 600
"""Subprocesses may have a time-out that only a hang exceeds: so many seconds or more, a constant of the file."""


def limits(source: str) -> list[str]:
    """``line: what`` for each clock that is read, and each time-out of a subprocess below `HANG_S`."""
    tree = ast.parse(source)
    constants = {target.id: node.value.value for node in tree.body
                 if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
                 for target in node.targets if isinstance(target, ast.Name)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in CLOCKS and isinstance(node.value, ast.Name) and (
                node.value.id in ("time", "os", "resource", "signal", "timeit")):
            found.append(f"{node.lineno}: {ast.unparse(node)}")
        if isinstance(node, ast.Call) and (ast.unparse(node.func).startswith("subprocess.")
                                           or ast.unparse(node.func).endswith((".wait", ".communicate"))):
            for keyword in node.keywords:
                value = keyword.value
                number = value.value if isinstance(value, ast.Constant) else constants.get(ast.unparse(value), 0)
                if keyword.arg == "timeout" and number is not None and number < HANG_S:
                    found.append(f"{node.lineno}: timeout={ast.unparse(value)}")
    return found


def test_no_test_limits_time() -> None:
    found = {str(path.relative_to(TESTS)): limits(path.read_text(encoding="utf-8")) for path in TESTS.rglob("*.py")}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(("source", "count"), [
    ("begin = os.times()", 1), ("time.perf_counter()", 1), ("subprocess.run(x, timeout=120)", 1),
    ("process.wait(timeout=5)", 1), ("p.communicate(timeout=9)", 1), ("time.monotonic()", 1),
    ("LONG = 30\nsubprocess.run(x, timeout=LONG)", 1), ("LONG = 3600\nsubprocess.run(x, timeout=LONG)", 0),
    ("subprocess.run(x)", 0), ("tile.start(0, timeout=200)", 0), ("resource.setrlimit(a, b)", 1)])
def test_limits_are_found(source: str, count: int) -> None:
    assert len(limits(source)) == count
