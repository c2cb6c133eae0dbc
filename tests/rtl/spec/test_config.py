"""`TileConfig`: presets, derived sizes, TOML files, and one clear error for each way to be wrong."""

from __future__ import annotations

import dataclasses
import json
import re
from fractions import Fraction

import pytest

from tilescore.rtl.spec.config import PRESETS, TileConfig, load_tile
from tilescore.rtl.spec.errors import ConfigError


@pytest.fixture
def tile() -> TileConfig:
    """A tile of this test's own, so that presets may change."""
    return TileConfig(name="mine", rows=4, cols=4, lanes=8, a_buffer_bytes=8192, a_banks=4, b_buffer_bytes=8192,
                      b_banks=4, acc_banks=16, acc_bank_rows=16, stat_banks=8, stat_bank_rows=8, index_entries=128,
                      imem_page=32, bus_bytes=16, dram_latency=20)


def test_presets_are_ordered_by_size() -> None:
    rates = [load_tile(name).macs_per_cycle for name in PRESETS]
    assert rates == sorted(rates) == [128, 2048, 16384]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_carry_their_name_and_round_trip(name: str) -> None:
    tile = load_tile(name)
    assert tile.name == name
    assert TileConfig.from_dict(tile.to_dict(), source="test") == tile


@pytest.mark.parametrize("name", PRESETS)
def test_addresses_have_room_for_every_bank(name: str) -> None:
    tile = load_tile(name)
    assert tile.a_bank_groups <= 1 << tile.a_offset_bits and tile.a_banks <= 1 << tile.a_addr_bits - tile.a_offset_bits
    assert tile.b_bank_groups <= 1 << tile.b_offset_bits and tile.b_banks <= 1 << tile.b_addr_bits - tile.b_offset_bits
    banks = tile.acc_banks + tile.stat_banks
    assert banks <= 1 << tile.acc_addr_bits - tile.acc_offset_bits
    assert max(tile.acc_bank_depth(bank) for bank in range(banks)) <= 1 << tile.acc_offset_bits


def test_sizes(tile: TileConfig) -> None:
    # 8192 bytes / (4 slices * 4 banks * 8 lanes) = 64 groups.
    assert (tile.a_bank_groups, tile.a_offset_bits, tile.a_addr_bits) == (64, 6, 8)
    assert (tile.acc_planes, tile.acc_plane_banks, tile.acc_word_bits) == (2, 8, 34)
    assert tile.acc_addr(3, 5) == 3 << 4 | 5
    assert tile.page_bytes == 1024


def test_a_depth_that_is_no_power_of_two_has_its_own_bank_field(tile: TileConfig) -> None:
    odd = dataclasses.replace(tile, a_buffer_bytes=4 * 4 * 16 * 5, acc_bank_rows=11)
    assert odd.a_bank_groups == 10 and odd.a_offset_bits == 4
    assert odd.acc_addr(1, 0) == 16


@pytest.mark.parametrize("bits, planes, word", [(64, 2, 34), (80, 3, 34), (96, 3, 34)])
def test_accumulator_planes(tile: TileConfig, bits: int, planes: int, word: int) -> None:
    wide = dataclasses.replace(tile, acc_bits=bits, acc_banks=12)
    assert (wide.acc_planes, wide.acc_word_bits) == (planes, word)
    assert planes * 32 >= bits and planes * (word - 32) >= 4


def test_digest_ignores_name_and_clock_only(tile: TileConfig) -> None:
    assert dataclasses.replace(tile, name="other", clock_mhz=5.0).digest == tile.digest
    assert dataclasses.replace(tile, queue_depth=9).digest != tile.digest


@pytest.mark.parametrize(("value", "rate", "kept"), [
    (0, 16, 0), (16, 16, 16), (12.8, Fraction(64, 5), 12.8), ("64/5", Fraction(64, 5), 12.8),
    ("32/3", Fraction(32, 3), "32/3"), (Fraction(47, 6), Fraction(47, 6), "47/6"), ("1.5/1", Fraction(3, 2), 1.5),
])
def test_the_rate_of_the_dram_is_exact(tile: TileConfig, value, rate: Fraction, kept: object) -> None:
    """However it is written; one as fast as its port is the same machine."""
    slow = dataclasses.replace(tile, dram_bytes_per_cycle=value)
    assert (slow.dram_rate, slow.beat_cycles, slow.dram_bytes_per_cycle) == (rate, 16 / Fraction(rate), kept)
    assert TileConfig.from_dict(json.loads(json.dumps(slow.to_dict())), source="test") == slow
    assert (slow.digest == tile.digest) == (rate == 16)
    assert dataclasses.replace(tile, dram_shared=True).digest != tile.digest


WRONG = [
    ({"rows": 3}, "rows must be 4..256, got 3"),
    ({"rows": 6}, "rows must be a power of two, got 6"),
    ({"cols": 512}, "cols must be 4..256, got 512"),
    ({"lanes": 1}, "lanes must be 2..64, got 1"),
    ({"rows": 4.0}, "rows must be an integer, got 4.0"),
    ({"rows": True}, "rows must be an integer, got True"),
    ({"bus_bytes": 24}, "bus_bytes must be a power of two, got 24"),
    ({"bus_bytes": 4}, "bus_bytes must be between lanes (8) and 4*cols (16), got 4"),
    ({"bus_bytes": 32}, "bus_bytes must be between lanes (8) and 4*cols (16), got 32"),
    ({"dram_bytes_per_cycle": 16.5}, "dram_bytes_per_cycle must be at most bus_bytes (16), got 16.5"),
    ({"dram_bytes_per_cycle": "15/16"}, "dram_bytes_per_cycle must be 0, or a rational 1..2048 with"),
    ({"dram_bytes_per_cycle": 3.141592653589793}, "dram_bytes_per_cycle must be 0, or a rational 1..2048 with a denom"),
    ({"dram_bytes_per_cycle": -4}, "dram_bytes_per_cycle must be 0, or a rational 1..2048 with"),
    ({"dram_bytes_per_cycle": True}, "dram_bytes_per_cycle must be 0, or a rational 1..2048 with"),
    ({"dram_shared": 1}, "dram_shared must be true or false, got 1"),
    ({"acc_bits": 48}, "acc_bits must be one of 64, 80, 96, got 48"),
    ({"acc_bits": 80}, "acc_banks must be a multiple of 3 (32-bit planes of a 80-bit accumulator), got 16"),
    ({"formats": ()}, "formats must name at least one of e4m3"),
    ({"formats": ("e5m9",)}, "formats: unknown value 'e5m9'; allowed: e4m3"),
    ({"scales": ("e4m3",)}, "scales: e4m3 needs one of the formats e2m1, e4m3xe2m1, got e4m3"),
    ({"scales": ("fp32",), "formats": ("e2m1",)}, "scales: fp32 needs one of the formats e4m3, got e2m1"),
    ({"scales": ("e5m3",)}, "scales: unknown value 'e5m3'; allowed: e4m3, e8m0, fp32"),
    ({"scales": ("e8m0",), "lanes": 4}, "scales need lanes = 8, got 4"),
    ({"formats": ("e4m3", "e5m2")}, "format e5m2 needs acc_bits of at least 80, got 64"),
    ({"formats": ("e4m3xe5m2",), "multiplier": "dsp"}, "multiplier dsp does not build e4m3xe5m2: an E5M2 value"),
    ({"multiplier": "lut"}, "multiplier must be one of fabric, dsp, got 'lut'"),
    ({"a_buffer_bytes": 1000}, "a_buffer_bytes must be a positive multiple of 256"),
    ({"b_buffer_bytes": 8200}, "b_buffer_bytes must be a positive multiple of 256"),
    ({"a_banks": 33}, "a_banks must be 1..32, got 33"),
    ({"acc_bank_rows": 2}, "acc_bank_rows must be 4..1024, got 2"),
    ({"index_entries": 6}, "index_entries must be a multiple of 4 (indices per bus beat), got 6"),
    ({"imem_page": 48}, "imem_page must be a power of two, got 48"),
    ({"imem_page": 4}, "imem_page must be 8..4096, got 4"),
    ({"queue_depth": 1}, "queue_depth must be 2..64, got 1"),
    ({"dram_latency": 0}, "dram_latency must be 1..4096, got 0"),
    ({"dma_outstanding": 0}, "dma_outstanding must be 1..64, got 0"),
    ({"clock_mhz": 0}, "clock_mhz must be in (0, 10000], got 0"),
    ({"a_buffer_bytes": 1 << 26, "a_banks": 1}, "operand slices are too deep"),
    ({"acc_banks": 64, "acc_bank_rows": 1024}, "accumulator buffer is too deep"),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[str(change) for change, _ in WRONG])
def test_wrong_values_are_named(tile: TileConfig, change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"tile mine: {message}")):
        dataclasses.replace(tile, **change)


def test_a_file_is_read(tmp_path, tile: TileConfig) -> None:
    lines = [f"{key} = {json.dumps(value)}" for key, value in tile.to_dict().items() if key != "name"]
    path = tmp_path / "mine.toml"
    path.write_text('name = "other"\n' + "\n".join(lines))
    assert load_tile(path) == dataclasses.replace(tile, name="other")


@pytest.mark.parametrize(("text", "message"), [
    ("rows = ", "not valid TOML"),
    ('name = "x"\nspeed = 4', "unknown key 'speed'; allowed: name, rows"),
    ('name = "x"', "missing keys 'rows', 'cols'"),
    ("name = 3", "missing keys 'rows', 'cols', 'lanes', 'a_buffer_bytes'"),
    ('name = "x"\nrow = 4\ncol = 4', "unknown key 'row'; did you mean rows?; unknown key 'col'; did you mean cols"),
])
def test_wrong_files_are_named(tmp_path, text: str, message: str) -> None:
    path = tmp_path / "tile.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(f"tile file {path}: {message}")):
        load_tile(path)


def test_a_wrong_value_in_a_file_names_the_file(tmp_path, tile: TileConfig) -> None:
    path = tmp_path / "tile.toml"
    values = {**tile.to_dict(), "rows": 5}
    path.write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items()))
    with pytest.raises(ConfigError, match=re.escape(f"tile file {path}: tile mine: rows must be a power of two")):
        load_tile(path)


def test_a_file_that_is_not_text_is_named(tmp_path) -> None:
    path = tmp_path / "tile.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read as text"):
        load_tile(path)


def test_an_unknown_name_lists_the_presets() -> None:
    with pytest.raises(ConfigError, match=re.escape("tile 'big': neither a preset (nano, edge, server) nor a file")):
        load_tile("big")
