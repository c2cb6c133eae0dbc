"""A folder with everything an FPGA engineer needs of a tile: Verilog, registers, packaging, a smoke test.

The content depends on the configuration and on the version of tilescore only; two exports are equal byte for byte.
"""

import os
import re
import shutil
import string
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..axi.channels import BUS_LATENCY, check_parameters, default_outstanding
from ..axi.top import MAX_BURST, TileAxi
from ..spec.config import TileConfig
from ..spec.encoding import encode_program
from ..spec.errors import ConfigError
from ..spec.isa import Halt, Load, Space, Store, Unit
from ..spec.ledger import COUNTER_NAMES
from ..spec.registers import REGISTERS, mask, reset_value
from ..spec.tile_file import tile_toml
from ..spec.version import version
from .register_text import c_header, counter_table, markdown, python_constants
from .verilog import convert_with_cells, without_empty_vectors
from .verilog_text import document_top, merge_equal_modules, plain_names
from .vivado import port_texts

PREFIX = "tilescore"
"""First word of every module, file and C name of an export that is given no other."""

TOP = f"{PREFIX}_axi"
"""Name of the top module of such an export."""

SMOKE_BEATS = 3
"""Bus beats that the smoke test copies: more than one, so that they form a burst."""

_HERE = Path(__file__).parent


def export_tile(config: TileConfig, folder: str | Path, *, name: str = PREFIX, force: bool = False) -> Path:
    """Write the files of ``config`` into ``folder`` and return it.

    ``name`` takes the place of `PREFIX`, so that several exports fit one design: a letter, then letters, digits and _.
    ``folder`` must not exist, be empty, or with ``force`` hold an earlier export and nothing else; then it is
    replaced as a whole. Everything is written beside it first, so that nothing is half written whatever fails.

    Raises `ConfigError` for a folder with other contents, one that cannot be written, a name that is no identifier,
    and a configuration that cannot be built.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,63}", name):
        raise ConfigError(f"export name {name!r}: expected a Verilog identifier: a letter, then at most 63 letters, "
                          "digits or _")
    check_parameters(config, MAX_BURST, default_outstanding(config))
    folder = Path(folder)
    _check_folder(folder, force)
    try:
        parent = Path(os.path.abspath(folder)).parent
        parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=parent))
        try:
            _write(config, name, temporary)
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


def _write(config: TileConfig, name: str, folder: Path) -> None:
    """All of `FILES`, with the permissions of ordinary files."""
    for file, content in FILES.items():
        (folder / file_name(file, name)).write_text(content(config, name), encoding="utf-8", newline="\n")
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
    text = re.sub(rf"\b{PREFIX}_(?=\w)", f"{name}_", _converted(config))
    return f"// tilescore tile {config.name} with AXI ports, {_shape(config)}\n{text}"


def _converted(config: TileConfig) -> str:
    """The Verilog with the names of an export that is given no other."""
    top = TileAxi(config)
    ports = port_texts(top)
    text = without_empty_vectors(plain_names(convert_with_cells(top, TOP)))
    return document_top(merge_equal_modules(text, TOP), TOP, ports)


def _shape(config: TileConfig) -> str:
    return f"{config.rows} x {config.cols} x {config.lanes}, configuration {config.digest}"


class _Template(string.Template):
    delimiter = "@@"


def _template(file: str) -> Callable[[TileConfig, str], str]:
    """files/<file>.in, filled in."""
    def fill(config: TileConfig, name: str) -> str:
        raw = (_HERE / "files" / f"{file}.in").read_text(encoding="utf-8")
        return _Template(raw).substitute(_values(config, name))
    return fill


def _values(config: TileConfig, name: str) -> dict[str, object]:
    beats, source, target = _smoke_memory(config)
    values: dict[str, object] = {
        "NAME": config.name, "PREFIX": name, "CORE": re.sub(r"[^A-Za-z0-9_-]", "_", f"{name}_axi_{config.name}"),
        "VERSION": version(), "DIGEST": config.digest, "ROWS": config.rows,
        "COLS": config.cols, "LANES": config.lanes, "WIDTH": 8 * config.bus_bytes, "MAX_BURST": MAX_BURST,
        "OUTSTANDING": default_outstanding(config), "BUS_LATENCY": BUS_LATENCY,
        "IDEAL_LATENCY": config.dram_latency - BUS_LATENCY, "BUS_BYTES": config.bus_bytes,
        "MEMORY_BEATS": target + SMOKE_BEATS, "SOURCE_BEAT": source, "TARGET_BEAT": target, "BEATS": SMOKE_BEATS,
        "MEMORY": "\n".join(f"    memory[{n}] = {8 * config.bus_bytes}'h{value:x};" for n, value in beats.items()),
        "DONE": f"{mask('STATUS', 'DONE'):x}", "COUNTER": COUNTER_NAMES.index("dram_write_beats")}
    for register in REGISTERS:
        values[f"AT_{register.name}"] = f"{register.offset:03x}"
        values[f"{register.name}_VALUE"] = f"{reset_value(register, config):08x}"
    return values


def _smoke_memory(config: TileConfig) -> tuple[dict[int, int], int, int]:
    """Beats of the memory that are not zero, first beat of the data, first beat of their copy."""
    bus = config.bus_bytes
    source, target = config.page_bytes, config.page_bytes + SMOKE_BEATS * bus
    common = {"space": Space.ACC, "rows": SMOKE_BEATS, "row_bytes": bus, "row_stride": bus}
    program = encode_program([
        Load(**common, dram_addr=source, signal_wr=1 << Unit.STORE),
        Store(**common, dram_addr=target, wait_wr=1 << Unit.LOAD), Halt()]).tobytes()
    memory = program.ljust(source, b"\0") + bytes(range(1, SMOKE_BEATS * bus + 1))
    beats = {n // bus: int.from_bytes(memory[n:n + bus], "little") for n in range(0, len(memory), bus)}
    return {n: value for n, value in beats.items() if value}, source // bus, target // bus


def _registers_page(config: TileConfig, name: str) -> str:
    return (f"# Registers of tile {config.name}, configuration {config.digest}\n\n{markdown(config)}\n"
            f"## Counters\n\nBy the number that COUNTER_SELECT takes.\n\n{counter_table()}")


def _waivers(config: TileConfig, name: str) -> str:
    waivers = (_HERE / "tilescore.vlt").read_text(encoding="utf-8")
    return (waivers.rstrip() + "\n// - a port is named `interrupt`, which the generated C++ has to rename.\n"
            "lint_off -rule SYMRSVDWORD\n")


FILES: dict[str, Callable[[TileConfig, str], str]] = {
    f"{TOP}.v": axi_verilog,
    f"{TOP}.vlt": _waivers,
    f"{TOP}.core": _template(f"{TOP}.core"),
    f"{PREFIX}_smoke_tb.v": _template(f"{PREFIX}_smoke_tb.v"),
    f"{PREFIX}_litex.py": _template(f"{PREFIX}_litex.py"),
    "registers.md": _registers_page,
    f"{PREFIX}_registers.h": c_header,
    f"{PREFIX}_registers.py": lambda config, name: python_constants(config),
    "tile.toml": lambda config, name: tile_toml(config),
    "README.md": _template("README.md"),
}
"""What an export named `PREFIX` holds, and what writes each file of a configuration and a name."""
