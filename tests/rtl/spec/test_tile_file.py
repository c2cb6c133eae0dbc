"""A tile as TOML that reads back, quantities with units, and one table of keys for checks, files and docs."""

from __future__ import annotations

import dataclasses
import re

import pytest

from tilescore.rtl.spec.config import PRESETS, TileConfig, load_tile
from tilescore.rtl.spec.errors import ConfigError
from tilescore.rtl.spec.tile_file import keys_table, tile_toml
from tilescore.rtl.spec.tile_keys import KEYS

NANO = load_tile("nano")


def test_the_keys_are_the_fields() -> None:
    assert list(KEYS) == [field.name for field in dataclasses.fields(TileConfig)]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_round_trip(name: str, tmp_path) -> None:
    tile = load_tile(name)
    path = tmp_path / "t.toml"
    path.write_text(tile_toml(tile), encoding="utf-8")
    assert load_tile(path) == tile


@pytest.mark.parametrize("changes", [
    {"name": 'quo"te \\ back'}, {"name": "naïve 名"}, {"name": "\x7f\x01"}, {"clock_mhz": 0.1}, {"clock_mhz": 5},
    {"formats": ("e4m3", "e2m1"), "scales": ("e8m0",)}, {"multiplier": "dsp"},
], ids=str)
def test_other_tiles_round_trip(changes: dict, tmp_path) -> None:
    tile = dataclasses.replace(NANO, **changes)
    path = tmp_path / "t.toml"
    path.write_text(tile_toml(tile), encoding="utf-8")
    if changes.get("name", "a").isprintable():
        assert load_tile(path) == tile
    else:
        assert tile_toml(tile).count("\n") == tile_toml(NANO).count("\n")


def test_every_key_has_its_meaning_range_and_default() -> None:
    text = tile_toml(NANO)
    comments = dict(re.findall(r"^# (.*)\n(\w+) =", text, re.MULTILINE))
    for about, name in comments.items():
        key = KEYS[name]
        assert key.meaning in about and (key.range == "any" or key.range in about)
    assert set(comments.values()) == set(KEYS)
    assert "default 8\nqueue_depth = 8" in text and "default" not in text.partition("\nrows =")[0]
    assert keys_table().count("\n") == len(KEYS) + 2


@pytest.mark.parametrize(("key", "text", "value"), [
    ("a_buffer_bytes", "64 KiB", 65536), ("a_buffer_bytes", "2MiB", 2 << 20), ("b_buffer_bytes", "4k", 4096),
    ("b_buffer_bytes", "1.5 KiB", 1536), ("b_buffer_bytes", "8192 B", 8192), ("bus_bytes", "16", 16),
    ("index_entries", "2k", 2048), ("imem_page", "0.25 K", 256), ("rows", " 16 ", 16), ("rows", "1_6", 16),
    ("clock_mhz", "500 MHz", 500.0), ("clock_mhz", "1.2 GHz", 1200.0), ("clock_mhz", "250", 250.0),
    ("clock_mhz", "100000 kHz", 100.0), ("formats", "e4m3, e2m1", ["e4m3", "e2m1"]), ("scales", "", []),
    ("multiplier", "dsp", "dsp"), ("name", "4k", "4k"), ("dram_bytes_per_cycle", "25.6 B/cycle", 25.6),
    ("dram_bytes_per_cycle", "64/3", "64/3"), ("dram_bytes_per_cycle", " 32 B ", 32), ("dram_shared", "true", True),
    ("dram_shared", "False", False),
])
def test_values_that_people_write(key: str, text: str, value: object) -> None:
    read = KEYS[key].from_text(text)
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(("key", "text"), [
    ("a_buffer_bytes", "64 KB"), ("a_buffer_bytes", "64 Kib"), ("a_buffer_bytes", "lots"), ("a_buffer_bytes", ""),
    ("a_buffer_bytes", "1.3"), ("a_buffer_bytes", "0.0001 KiB"), ("a_buffer_bytes", "64 MHz"), ("rows", "4 KiB"),
    ("rows", "0x10"), ("clock_mhz", "fast"), ("clock_mhz", "4k"), ("clock_mhz", "1e3"), ("imem_page", "--4"),
    ("dram_bytes_per_cycle", "64/0"), ("dram_bytes_per_cycle", "25.6 GB/s"),
])
def test_values_that_mean_nothing(key: str, text: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"got {text!r}")) as error:
        KEYS[key].from_text(text)
    assert str(error.value).startswith(f"{key}: expected ") and '"' in str(error.value)


def test_units_in_a_file(tmp_path) -> None:
    path = tmp_path / "t.toml"
    text = tile_toml(NANO)
    for key, value in (("a_buffer_bytes", "8 KiB"), ("clock_mhz", "0.1 GHz"), ("index_entries", "0.125k")):
        text = re.sub(rf"^{key} = .*$", f'{key} = "{value}"', text, flags=re.MULTILINE)
    path.write_text(text)
    assert load_tile(path) == NANO
    path.write_text(re.sub(r"^rows = .*$", 'rows = "4"', text, flags=re.MULTILINE))
    with pytest.raises(ConfigError, match="rows must be an integer, got '4'"):
        load_tile(path)
