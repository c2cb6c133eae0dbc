"""The names that Amaranth gives to signals, by the Python that runs this: ``python bytecode_names.py TRACER FOLDER``.

For each call in FOLDER's sources that makes a signal without a name: what TRACER, which is `amaranth.tracer`, reads
from the bytecode, against what the source says. Nothing of FOLDER is run, so another Python needs no package for it.
Prints a line for each name that is lost or other than in the source, and in the end the number of calls.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import CodeType, ModuleType, SimpleNamespace

MAKERS = ("Signal", "like", "Memory", "read_port", "write_port", "create")


def target_names(source: str) -> dict[tuple[int, int], str | None]:
    """{where a call ends: name that it is assigned to, if it is the value of a statement and of one name}."""
    calls: dict[tuple[int, int], str | None] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            calls.setdefault(_end(node), None)
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Call):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {getattr(target, "id", None) or getattr(target, "attr", None) for target in targets}
            calls[_end(node.value)] = names.pop() if len(names) == 1 else None
    return calls


def unnamed(source: str) -> set[tuple[int, int]]:
    """Where calls end that make a signal, memory or interface and leave its name to the tracer."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and not any(keyword.arg in ("name", "path") for keyword in node.keywords):
            function = node.func
            name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
            if name in MAKERS:
                found.add(_end(node))
    return found


def call_end(code: CodeType, instruction: int) -> tuple[int | None, int | None]:
    """Where the call ends, in the source, that ``instruction`` (a byte offset) of ``code`` makes."""
    _, line, _, column = next(islice(code.co_positions(), instruction // 2, None))
    return line, column


def _end(node: ast.expr) -> tuple[int, int]:
    assert node.end_lineno is not None and node.end_col_offset is not None
    return node.end_lineno, node.end_col_offset


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _traced(tracer: ModuleType, code: CodeType, instruction: int) -> str | None:
    """What the tracer says when asked from a function called by ``instruction``."""
    tracer.sys = SimpleNamespace(_getframe=lambda depth: SimpleNamespace(f_code=code, f_lasti=instruction),
                                 version_info=sys.version_info)
    return tracer.get_var_name(default=None)


def unsure(tracer: ModuleType, path: Path) -> tuple[int, list[str]]:
    """Number of unnamed calls in the file, and a line for each that the tracer names otherwise than the source."""
    source = path.read_text(encoding="utf-8")
    targets, wanted = target_names(source), unnamed(source)
    lines, seen = [], set()
    for code in _codes(compile(source, str(path), "exec")):
        for instruction in range(0, len(code.co_code), 2):
            if not tracer.opname[code.co_code[instruction]].startswith("CALL"):
                continue
            end = call_end(code, instruction)
            if end in wanted:
                seen.add(end)
                name = _traced(tracer, code, instruction)
                if name is None or name != targets[end]:
                    lines.append(f"{path.name}:{end[0]}: {name} by the bytecode, {targets[end]} by the source")
    lines += [f"{path.name}:{line}: no call in the bytecode" for line, _ in wanted - seen]
    return len(wanted), lines


def load(path: str) -> ModuleType:
    """The tracer of that path as a module of its own."""
    spec = importlib.util.spec_from_file_location("tracer", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    module, total = load(sys.argv[1]), 0
    for file in sorted(Path(sys.argv[2]).rglob("*.py")):
        count, problems = unsure(module, file)
        total += count
        print(*problems, sep="\n", end="\n" if problems else "")
    print(total)
