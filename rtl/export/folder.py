"""A folder with everything an FPGA engineer needs of a tile: Verilog, registers, packaging, a smoke test.

The content depends on the configuration and on the version of tilescore only; two exports are equal byte for byte.
"""

import os
import re
import shutil
import string
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..axi.channels import BUS_LATENCY, check_bus
from ..axi.top import TileAxi
from ..spec.config import TileConfig
from ..spec.errors import ConfigError
from ..spec.ledger import COUNTER_NAMES
from ..spec.registers import REGISTERS, mask, reset_value
from ..spec.self_test import SelfTest
from ..spec.tile_file import tile_toml
from ..spec.version import version
from . import constraints
from .register_text import c_header, counter_table, markdown, python_constants
from .self_test_text import c_data, verilog_checks, verilog_memory
from .source_map import source_map
from .verilog import convert_with_cells, without_empty_vectors
from .verilog_text import document_top, merge_equal_modules, plain_map, plain_names
from .vivado import port_texts

PREFIX = "tilescore"
"""First word of every module, file and C name of an export that is given no other."""

TOP = f"{PREFIX}_axi"
"""Name of the top module of such an export."""

_HERE = Path(__file__).parent


@dataclass(frozen=True, eq=False)
class Export:
    """What the files are made of: a configuration, the first word of their names, a self-test of such a tile."""

    config: TileConfig
    name: str
    self_test: SelfTest

    @cached_property
    def verilog(self) -> tuple[str, Mapping[str, type]]:
        """`axi_verilog` and the class of each of its modules."""
        return _axi_design(self.config, self.name)


def export_tile(config: TileConfig, folder: str | Path, self_test: SelfTest, *, name: str = PREFIX,
                force: bool = False) -> Path:
    """Write the files of ``config`` into ``folder`` and return it.

    ``self_test`` is of this configuration.

    ``name`` takes the place of `PREFIX`, so that several exports fit one design: a letter, then letters, digits and _.
    ``folder`` must not exist, be empty, or with ``force`` hold an earlier export and nothing else; then it is
    replaced as a whole. Everything is written beside it first, so that nothing is half written whatever fails.

    Raises `ConfigError` for a folder with other contents, one that cannot be written, a name that is no identifier,
    and a configuration that cannot be built.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,63}", name):
        raise ConfigError(f"export name {name!r}: expected a Verilog identifier: a letter, then at most 63 letters, "
                          "digits or _")
    check_bus(config)
    folder = Path(folder)
    _check_folder(folder, force)
    try:
        parent = Path(os.path.abspath(folder)).parent
        parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=parent))
        try:
            _write(Export(config, name, self_test), temporary)
            _put_in_place(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise ConfigError(f"export folder {folder}: cannot be written: {error.strerror or error}") from None
    return folder


def _check_folder(folder: Path, force: bool) -> None:
    try:
        if not folder.exists() and not folder.is_symlink():
            return
        if not folder.is_dir():
            raise ConfigError(f"export folder {folder}: exists and is not a folder")
        found = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise ConfigError(f"export folder {folder}: cannot be read: {error.strerror or error}") from None
    if found and not force:
        raise ConfigError(f"export folder {folder}: is not empty (it holds {found[0]}); choose another one, or "
                          "--force to replace an earlier export")
    if foreign := _not_of_an_export(found):
        raise ConfigError(f"export folder {folder}: holds {foreign[0]}, which is not part of an export; "
                          "--force replaces exports only")


def _not_of_an_export(found: list[str]) -> list[str]:
    """Names that no export, or not the same export as the others, would give a file."""
    named = [name.removeprefix(PREFIX) for name in FILES if name.startswith(PREFIX)]
    prefixes = {name.removesuffix(end) for name in found for end in named if name.endswith(end)}
    first = min(prefixes, default=PREFIX)
    return [name for name in found if name not in {file_name(file, first) for file in FILES}]


def file_name(file: str, name: str) -> str:
    """What the export ``name`` calls a file of `FILES`."""
    return f"{name}{file.removeprefix(PREFIX)}" if file.startswith(PREFIX) else file


def _write(export: Export, folder: Path) -> None:
    """All of `FILES`, with the permissions of ordinary files."""
    for file, content in FILES.items():
        (folder / file_name(file, export.name)).write_text(content(export), encoding="utf-8", newline="\n")
    umask = os.umask(0)
    os.umask(umask)
    folder.chmod(0o777 & ~umask)


def _put_in_place(temporary: Path, folder: Path) -> None:
    """Rename ``temporary`` to ``folder``; what was there is removed after that, or back when it fails."""
    target = folder.resolve()
    if not target.exists():
        os.rename(temporary, target)
        return
    old = temporary.with_name(f"{temporary.name}.old")
    os.rename(target, old)
    try:
        os.rename(temporary, target)
    except OSError:
        os.rename(old, target)
        raise
    shutil.rmtree(old)


def axi_verilog(config: TileConfig, name: str = PREFIX) -> str:
    """Verilog-2005 of `TileAxi`: plain names, one module per distinct component, top module ``<name>_axi`` first."""
    return _axi_design(config, name)[0]


def _axi_design(config: TileConfig, name: str) -> tuple[str, dict[str, type]]:
    """`axi_verilog` and the class of each of its modules."""
    text, classes = _converted(config)

    def named(text: str) -> str:
        return re.sub(rf"\b{PREFIX}_(?=\w)", f"{name}_", text)

    header = f"// tilescore tile {config.name} with AXI ports, {_shape(config)}\n"
    return header + named(text), {named(module): cls for module, cls in classes.items()}


def _converted(config: TileConfig) -> tuple[str, dict[str, type]]:
    """The same with the names of an export that is given no other, and without the first line."""
    top = TileAxi(config)
    ports = port_texts(top)
    raw, classes = convert_with_cells(top, TOP)
    plain = plain_map(raw)
    text, became = merge_equal_modules(without_empty_vectors(plain_names(raw)), TOP)
    # A submodule with the name of a signal beside it has got a number: "tile$306".
    found = {module: classes.get(re.sub(r"\$\d+(?=\.|$)", "", name))
             for name, module in {**{name: name for name in classes}, **plain}.items()}
    return document_top(text, TOP, ports), {became[module]: cls for module, cls in found.items()
                                            if cls is not None and module in became}


def _shape(config: TileConfig) -> str:
    return f"{config.rows} x {config.cols} x {config.lanes}, configuration {config.digest}"


class _Template(string.Template):
    delimiter = "@@"


def _template(file: str) -> Callable[[Export], str]:
    """files/<file>.in, filled in."""
    def fill(export: Export) -> str:
        raw = (_HERE / "files" / f"{file}.in").read_text(encoding="utf-8")
        return _Template(raw).substitute(_values(export))
    return fill


def _values(export: Export) -> dict[str, object]:
    config, name, test = export.config, export.name, export.self_test
    bus, counted = config.bus_bytes, config.counters == "all"
    values: dict[str, object] = {
        "NAME": config.name, "PREFIX": name, "UPPER": name.upper(),
        "CORE": re.sub(r"[^A-Za-z0-9_-]", "_", f"{name}_axi_{config.name}"),
        "VERSION": version(), "DIGEST": config.digest, "ROWS": config.rows,
        "COLS": config.cols, "LANES": config.lanes, "WIDTH": 8 * bus, "MAX_BURST": config.max_burst,
        "OUTSTANDING": config.outstanding_bursts, "COUNTERS": config.counters, "RECORDER_DEPTH": config.recorder_depth,
        "BUS_LATENCY": BUS_LATENCY, "IDEAL_LATENCY": config.dram_latency - BUS_LATENCY, "BUS_BYTES": bus,
        "MEMORY_BYTES": len(test.memory), "MEMORY_BEATS": -(-len(test.memory) // bus),
        "PROGRAM_ADDR": test.program_addr, "FLAGS": test.flags,
        "MEMORY": verilog_memory(test, bus), "CHECKS": verilog_checks(test, bus), "C_DATA": c_data(test, name),
        "DONE": f"{mask('STATUS', 'DONE'):x}", "COUNTER": COUNTER_NAMES.index("dram_write_beats"),
        "WRITE_BEATS": test.write_beats if counted else 0}
    for register in REGISTERS:
        values[f"AT_{register.name}"] = f"{register.offset:03x}"
        values[f"{register.name}_VALUE"] = f"{reset_value(register, config):08x}"
    return values


def _registers_page(export: Export) -> str:
    config = export.config
    return (f"# Registers of tile {config.name}, configuration {config.digest}\n\n{markdown(config)}\n"
            f"## Counters\n\nBy the number that COUNTER_SELECT takes.\n\n{counter_table()}")


def _waivers(export: Export) -> str:
    waivers = (_HERE / "tilescore.vlt").read_text(encoding="utf-8")
    return (waivers.rstrip() + "\n// - a port is named `interrupt`, which the generated C++ has to rename.\n"
            "lint_off -rule SYMRSVDWORD\n")


FILES: dict[str, Callable[[Export], str]] = {
    f"{TOP}.v": lambda export: export.verilog[0],
    f"{TOP}_map.json": lambda export: source_map(export.verilog[1]),
    f"{TOP}.vlt": _waivers,
    f"{TOP}.core": _template(f"{TOP}.core"),
    f"{TOP}.xdc": lambda export: constraints.xdc(export.config),
    f"{TOP}.lpf": lambda export: constraints.lpf(export.config),
    f"{TOP}.sdc": lambda export: constraints.sdc(export.config),
    f"{PREFIX}_smoke_tb.v": _template(f"{PREFIX}_smoke_tb.v"),
    f"{PREFIX}_selftest.c": _template(f"{PREFIX}_selftest.c"),
    f"{PREFIX}_selftest.h": _template(f"{PREFIX}_selftest.h"),
    f"{PREFIX}_litex.py": _template(f"{PREFIX}_litex.py"),
    "registers.md": _registers_page,
    f"{PREFIX}_registers.h": lambda export: c_header(export.config, export.name),
    f"{PREFIX}_registers.py": lambda export: python_constants(export.config),
    "tile.toml": lambda export: tile_toml(export.config),
    "README.md": _template("README.md"),
}
"""What an export named `PREFIX` holds, and what writes each file."""
