"""The table itself, and the texts derived from it."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from tilescore.rtl.export.register_text import c_header, counter_table, markdown, python_constants
from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.errors import ConfigError
from tilescore.rtl.spec.ledger import COUNTER_NAMES
from tilescore.rtl.spec.registers import (
    ERROR_MASK,
    REGISTERS,
    WINDOW_BYTES,
    WRITABLE,
    field_of,
    mask,
    offset,
    register,
    reset_value,
)

NANO = load_tile("nano")


def test_table_is_consistent() -> None:
    """Offsets are distinct words of the window, fields do not overlap, resets fit their fields, names are distinct."""
    offsets = [r.offset for r in REGISTERS]
    assert offsets == sorted(set(offsets)) and all(o % 4 == 0 and 0 <= o < WINDOW_BYTES for o in offsets)
    assert len({r.name for r in REGISTERS}) == len(REGISTERS)
    signals = [r.signal(f) for r in REGISTERS for f in r.fields]
    assert len(set(signals)) == len(signals)
    for r in REGISTERS:
        used = 0
        for f in r.fields:
            bits = ((1 << f.bits) - 1) << f.low
            assert not used & bits and bits < 1 << 32, (r.name, f.name)
            used |= bits
        assert not r.reset & ~used and (not r.reset or r.access in WRITABLE)
        assert 0 <= reset_value(r, NANO) < 1 << 32
        assert len(r.fields) == 1 or all(f.name for f in r.fields)


def test_lookups() -> None:
    assert offset("CONTROL") == register("CONTROL").offset == 0x10
    assert mask("CONTROL", "START", "CLEAR_ERROR") == 0b101
    assert field_of("TRACE_DATA", "TIME").bits == 26
    assert ERROR_MASK == 0x3F00
    with pytest.raises(ConfigError, match="no register is named 'NOTHING'; allowed: ID, VERSION"):
        offset("NOTHING")
    with pytest.raises(ConfigError, match="register CONTROL has no field 'STOP'; allowed: START"):
        mask("CONTROL", "STOP")


def test_markdown_names_everything() -> None:
    text = markdown(NANO)
    for r in REGISTERS:
        assert f"| 0x{r.offset:02X} | `{r.name}` |" in text
        for f in r.fields:
            assert not f.name or (f"| `{r.name}` |" in text and f"| `{f.name}` | {f.meaning} |" in text)
    assert f"0x{int(NANO.digest, 16) & 0xFFFFFFFF:08X}" in text
    assert "by tile" in markdown() and NANO.digest[:8].upper() not in markdown()
    assert all(f"| {n} | `{name}` |" in counter_table() for n, name in enumerate(COUNTER_NAMES))


def test_python_constants() -> None:
    names: dict = {}
    exec(python_constants(NANO), names)
    for r in REGISTERS:
        assert names[r.name] == r.offset
    assert names["STATUS_ILLEGAL"] == 1 << 9
    assert names["TRACE_DATA_TIME"] >> names["TRACE_DATA_TIME_SHIFT"] == (1 << 26) - 1
    assert names["DIGEST_HI_VALUE"] << 32 | names["DIGEST_LO_VALUE"] == int(NANO.digest, 16)
    assert names["COUNTER_DRAM_READ_BEATS"] == COUNTER_NAMES.index("dram_read_beats")
    assert names["COUNTER_LOAD_WAIT_MATRIX"] == COUNTER_NAMES.index("load.wait_matrix")


def test_c_header_has_the_same_constants(tmp_path) -> None:
    """The values a C compiler sees; without one, the values in the text."""
    names: dict = {}
    exec(python_constants(NANO), names)
    constants = {name: value for name, value in names.items() if name.isupper()}
    text = c_header(NANO)
    defined = dict(re.findall(r"#define TILESCORE_(\w+) (0x\w+)u ", text))
    assert {name: int(value, 16) for name, value in defined.items()} == constants
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    (tmp_path / "registers.h").write_text(text)
    checks = "".join(f'_Static_assert(TILESCORE_{name} == {value}u, "{name}");\n'
                     for name, value in constants.items())
    (tmp_path / "check.c").write_text('#include "registers.h"\n' + checks)
    done = subprocess.run([compiler, "-std=c11", "-Wall", "-Werror", "-fsyntax-only", "check.c"], cwd=tmp_path,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
