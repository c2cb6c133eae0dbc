"""Changed tiles: keys and values as in a tile file, errors that name the option, the name that shows it."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from tilescore.rtl.spec.config import PRESETS, TileConfig, load_tile
from tilescore.rtl.spec.errors import ConfigError
from tilescore.rtl.spec.tile_settings import change_tile, settings_text

EDGE = load_tile("edge")


@pytest.mark.parametrize("settings, changes", [
    (["formats=e4m3+e5m2,scales=e8m0,acc_bits=80,acc_banks=33"],
     {"formats": ("e4m3", "e5m2"), "scales": ("e8m0",), "acc_bits": 80, "acc_banks": 33}),
    (["formats=e4m3+e5m2", "scales=e8m0", "acc_bits=80,acc_banks=33"],
     {"formats": ("e4m3", "e5m2"), "scales": ("e8m0",), "acc_bits": 80, "acc_banks": 33}),
    (["scales="], {"scales": ()}),
    (["bus_bytes=64"], {"bus_bytes": 64}),
    (["dram_bytes_per_cycle=64/3", "dram_shared=true"], {"dram_bytes_per_cycle": "64/3", "dram_shared": True}),
    (["clock_mhz=812.5"], {"clock_mhz": 812.5}),
    ([" dram_latency = 7 , queue_depth = 3"], {"dram_latency": 7, "queue_depth": 3}),
])
def test_settings(settings: list[str], changes: dict) -> None:
    assert change_tile(EDGE, settings) == replace(EDGE, **changes, name="+".join(["edge", *changes]))


def test_the_name_may_be_set() -> None:
    assert change_tile(EDGE, ["name=mine,bus_bytes=64"]).name == "mine"


def test_values_that_change_nothing_leave_the_tile() -> None:
    assert change_tile(EDGE, []) is EDGE
    assert change_tile(EDGE, ["rows=16", "scales=e4m3+e8m0"]) == EDGE
    assert change_tile(EDGE, ["rows=16,bus_bytes=64"]).name == "edge+bus_bytes"


def test_the_digest_follows() -> None:
    changed = change_tile(EDGE, ["formats=e4m3,scales="])
    assert changed.digest == replace(EDGE, formats=("e4m3",), scales=()).digest != EDGE.digest
    assert change_tile(EDGE, ["clock_mhz=1"]).digest == EDGE.digest


@pytest.mark.parametrize("name", PRESETS)
def test_every_key_of_a_tile_can_be_set(name: str) -> None:
    """A tile is what its own values make of another one."""
    tile = load_tile(name)
    text = settings_text({field.name: getattr(tile, field.name) for field in fields(TileConfig)})
    for other in PRESETS:
        assert change_tile(load_tile(other), [text]) == tile


@pytest.mark.parametrize("settings, message", [
    (["rows"], r"--tile-set rows: expected KEY=VALUE\[,KEY=VALUE\.\.\.\] with lists as A\+B, got 'rows'"),
    (["rows=16,"], "--tile-set rows=16,: expected KEY=VALUE.*, got ''"),
    (["=4"], "--tile-set =4: expected KEY=VALUE"),
    (["foo=1"], "--tile-set foo=1: unknown key 'foo'; allowed: a_banks, a_buffer_bytes, "),
    (["dram_shared=1"], "--tile-set dram_shared=1: dram_shared: expected true or false, got '1'"),
    (["rows=16,rows=32"], "--tile-set rows=16,rows=32: rows is set twice"),
    (["rows=16", "rows=32"], "--tile-set rows=32: rows is set twice"),
    (["rows=many"], "--tile-set rows=many: rows: expected an integer of PEs, .* got 'many'"),
    (["rows=16.5"], "rows: expected an integer of PEs, .* got '16.5'"),
    (["clock_mhz=fast"], "clock_mhz: expected a number of MHz, .* got 'fast'"),
    (["clock_mhz=nan"], "clock_mhz: expected a number of MHz, .* got 'nan'"),
    (["rows=3"], r"--tile-set rows=3: tile edge\+rows: rows must be 4\.\.256, got 3"),
    (["formats=posit8"], r"formats: unknown value 'posit8'; allowed: e4m3, e5m2"),
    (["formats="], "formats must name at least one of e4m3"),
    (["formats=e4m3+e5m2"], "--tile-set formats=e4m3.e5m2: tile edge.formats: .*"),
    (["lanes=4"], "scales need lanes = 8, got 4"),
    (["multiplier=magic"], "multiplier must be one of fabric, dsp, got 'magic'"),
    (["name="], "--tile-set name=: name must be a printable string of 1 to 256 characters, got ''"),
    (["acc_bits=80"], "acc_banks must be a multiple of 3 .*, got 32"),
])
def test_wrong_settings(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        change_tile(EDGE, settings)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("--tile-set ")
