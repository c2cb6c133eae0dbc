"""Verilog of a tile: one self-contained text, the same on every machine and in every run.

The text holds the top module ``tile`` with its submodules, named by their place in the tile, and one module for each
cell (`lib/cells.py`), ``tilescore_pe`` and so on. It has no absolute paths and no dates. Amaranth's built-in
Yosys is used even when another one is on PATH, because their texts differ.
"""

import os
import platform
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from amaranth._toolchain.yosys import find_yosys
from amaranth.back import rtlil, verilog  # pyright: ignore[reportAttributeAccessIssue]
from amaranth.hdl import Elaboratable, Fragment
from amaranth.lib import wiring

from ..lib.cells import CellLibrary
from ..matrix.pe import PE_KEY
from ..spec.config import TileConfig
from ..spec.errors import ToolError
from ..tile import Tile

TOP = "tile"
"""Name of the top module. Its ports are ``clk``, ``rst`` and the members of `Tile`."""

_OPTIONS = {"emit_src": False, "strip_internal_attrs": True}


def tile_verilog(config: TileConfig) -> str:
    """Verilog-2005 of ``Tile(config)``, with a header that names the tile and its digest."""
    header = (f"// tilescore tile {config.name!r}: {config.rows} x {config.cols} x {config.lanes}, "
              f"configuration {config.digest}\n")
    return header + without_empty_vectors(_plain_module_names(convert_with_cells(Tile(config), TOP)[0]))


def convert_with_cells(top: wiring.Component, name: str) -> tuple[str, dict[str, type]]:
    """What Yosys writes for ``top`` as module ``name``, its submodules and the cells in it; the class of each module.

    Raises `ToolError` where Amaranth loses names of signals, which makes another text.
    """
    library = CellLibrary()
    classes: dict[str, type] = {}

    def convert(component: wiring.Component, *, name: str, platform: CellLibrary) -> str:
        return verilog.convert(_Recorded(component, name, classes), name=name, platform=platform, **_OPTIONS)

    with _builtin_yosys():
        text = "\n".join([convert(top, name=name, platform=library), *library.converted(convert)])
    lost = re.search(r"\$(?:signal|like|memory)\b", text)
    if lost:
        raise ToolError(f"Python {platform.python_version()}: the installed Amaranth cannot read names of signals from "
                        f"its bytecode, one became {lost[0]}; use a Python that this Amaranth supports")
    return text, classes


class _Recorded(Elaboratable):
    """``component``, to be converted as module ``name``; notes the class of each module in ``classes``."""

    def __init__(self, component: wiring.Component, name: str, classes: dict[str, type]) -> None:
        self._component, self._name, self._classes = component, name, classes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._component, name)

    def elaborate(self, platform: Any) -> Any:
        fragment = Fragment.get(self._component, platform)
        self._classes.update(_classes(fragment, self._name))
        return fragment


def _classes(fragment: Any, name: str) -> Iterator[tuple[str, type]]:
    """(name of its module, class) of every component in an elaborated design."""
    for origin in getattr(fragment, "origins", None) or ():
        if not type(origin).__module__.startswith("amaranth.hdl."):
            yield name, type(origin)
            break
    for part, part_name, _ in getattr(fragment, "subfragments", ()):
        yield from _classes(part, f"{name}.{part_name}")


def tile_netlist(config: TileConfig, *, dot_at_once: bool = False) -> str:
    """Verilog of the same tile as a flat netlist, for simulators: expressions, registers with enables, memories.

    Cells are modules of their own, and so is the array, which holds nothing but processing elements. Optimized by
    Yosys: registers that never change are gone, and those that keep their value unless something happens say so.
    dot_at_once: with `arith.dot_at_once` in the processing elements.
    """
    return netlist(Tile(config), TOP, dot_at_once=dot_at_once)


_NETLIST_PASSES = """
attrmap -remove generator -remove top -remove src -remove amaranth.hierarchy -remove amaranth.decoding
attrmap -modattr -remove generator -remove top -remove src -remove amaranth.hierarchy -remove amaranth.decoding
hierarchy -top {top}
proc -norom
opt_expr
opt_clean
flatten
opt_expr
opt_merge
opt_muxtree
opt_reduce
opt_merge
opt_dff -nosdff
opt_clean -purge
opt_expr
opt_clean -purge
memory_collect
write_verilog -noattr
"""
"""Without wreduce, which takes long and narrows what simulators compute in words anyway."""


def netlist(top: wiring.Component, name: str, *, cells: bool = True, dot_at_once: bool = False) -> str:
    """See `tile_netlist`; without ``cells`` nothing is a module of its own."""
    library = CellLibrary(dot_at_once=dot_at_once)
    texts = [rtlil.convert(top, name=name, platform=library if cells else None, emit_src=False)]
    texts += library.rtlil(emit_src=False)
    script = [f"read_rtlil <<rtlil\n{_keep_cells(text, library.keys)}\nrtlil\n" for text in texts]
    with _builtin_yosys():
        yosys = find_yosys(lambda version: version >= (0, 40))
        return yosys.run(["-q", "-"], "".join(script) + _NETLIST_PASSES.format(top=name), ignore_warnings=True)


def _keep_cells(text: str, keys: Collection[str]) -> str:
    """RTLIL with the cells ``keys``, and the modules that place processing elements, marked as not to be flattened."""
    def mark(found: re.Match) -> str:
        kept = found[2] in keys or f"  cell \\{PE_KEY} " in found[0]
        return ("attribute \\keep_hierarchy 1\n" if kept else "") + found[0]

    return re.sub(r"^(module \\(\S+)\n).*?^end\n", mark, text.replace("attribute \\top 1\n", ""),
                  flags=re.MULTILINE | re.DOTALL)


def _plain_module_names(text: str) -> str:
    r"""Name ``tile_matrix_array`` what Amaranth names ``\tile.matrix.array``; some tools dislike escaped names."""
    names = re.findall(r"^module \\(\S+) ", text, re.MULTILINE)
    plain = {name: re.sub(r"\W", "_", name) for name in names}
    taken = set(re.findall(r"^module (\w+)\(", text, re.MULTILINE))
    if len(taken | set(plain.values())) != len(taken) + len(names):
        raise AssertionError("two modules of the tile have the same name without dots")
    return re.sub(r"\\(\S+) ", lambda found: plain.get(found[1], found[0]), text)


def without_empty_vectors(text: str) -> str:
    """Drop declarations ``wire [-1:0] x;``, which stand for signals of no bits but mean two bits in Verilog."""
    modules = text.split("\nendmodule\n")
    for number, module in enumerate(modules):
        for declaration, name in re.findall(r"^( *(?:wire|reg) \[-1:0\] (\S+) ?;\n)", module, re.MULTILINE):
            module = module.replace(declaration, "")
            if re.search(rf"(?<![\w$\\.]){re.escape(name)}(?![\w$.])", module):
                raise AssertionError(f"the signal {name}, which has no bits, is used")
        modules[number] = module
    return "\nendmodule\n".join(modules)


@contextmanager
def _builtin_yosys() -> Iterator[None]:
    before = os.environ.get("AMARANTH_USE_YOSYS")
    os.environ["AMARANTH_USE_YOSYS"] = "builtin"
    try:
        yield
    finally:
        if before is None:
            del os.environ["AMARANTH_USE_YOSYS"]
        else:
            os.environ["AMARANTH_USE_YOSYS"] = before
