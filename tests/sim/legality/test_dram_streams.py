"""Bytes of DRAM that a DMA instruction touches, and the rules for them."""

from __future__ import annotations

import dataclasses
import re

import pytest

from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.errors import ProgramError
from tilescore.rtl.spec.isa import Gather, Load, Scatter, Store
from tilescore.sim.legality.dram_streams import check_dram_fields, dram_streams
from tilescore.sim.lib.strided import Strided

TILE = dataclasses.replace(load_tile("nano"), scales=("e8m0", "fp32"))
G1, G4 = 1, 3


def regions(instruction) -> list[Strided | None]:
    return [stream.region for stream in dram_streams(instruction, TILE)]


def test_loads_read_whole_beats_and_stores_write_bytes() -> None:
    assert regions(Load(rows=4, row_bytes=17, row_stride=64)) == [Strided(0, 32, 64, 4)]
    assert regions(Store(dram_addr=3, rows=2, row_bytes=5, row_stride=16)) == [Strided(3, 5, 16, 2)]


def test_scale_bytes_are_a_second_stream() -> None:
    fields = {"rows": 9, "row_bytes": 64, "row_stride": 64, "scale": G4, "scale_addr": 1024}
    data = Strided(0, 64, 64, 9)
    assert regions(Load(**fields, scale_stride=0)) == [data, Strided(1024, 16)]
    assert regions(Load(**fields, scale_stride=4)) == [data, Strided(1024, 48)]
    assert regions(Load(**fields, scale_stride=32)) == [data, Strided(1024, 16, 32, 9)]
    assert regions(Store(**fields, scale_stride=4)) == [data, Strided(1024, 2, 4, 9)]
    ends = [stream.end for stream in dram_streams(Store(**fields, scale_stride=4), TILE)]
    assert ends == [9 * 64, 1024 + 8 * 4 + 2]


def test_indexed_rows_have_no_region() -> None:
    assert regions(Scatter(rows=1, row_bytes=1)) == [None]
    gather = Gather(rows=5, row_bytes=32, scale=G4, scale_addr=160, scale_stride=16)
    assert regions(gather) == [None, None]
    assert [stream.end for stream in dram_streams(gather, TILE)] == [32, 161]


LEGAL = [
    Load(rows=4, row_bytes=32, scale=G4), Load(rows=4, row_bytes=32, scale=G4, scale_stride=1),
    Load(rows=4, row_bytes=512, scale=G4, scale_stride=16), Load(rows=4, row_bytes=544, scale=G4, scale_stride=4080),
    Gather(rows=4, row_bytes=32, scale=G4, scale_stride=16),
    Store(rows=4, row_bytes=64, row_stride=64, scale=G4, scale_addr=1025, scale_stride=4),
    Store(rows=4, row_bytes=64, row_stride=64, scale=G4, scale_addr=1038, scale_stride=48),
    Scatter(rows=4, row_bytes=32, row_stride=64, scale=G4, scale_addr=1025, scale_stride=1),
]


@pytest.mark.parametrize("instruction", LEGAL)
def test_legal_fields(instruction) -> None:
    check_dram_fields(instruction, TILE)


WRONG = [
    (Load(rows=1, row_bytes=16, scale_stride=16), "scale_addr and scale_stride must be 0 without scales, got 0 "
                                                     "and 16"),
    (Load(rows=1, row_bytes=32, scale=G4, scale_addr=8), "scale_addr must be a multiple of bus_bytes (16), got 8"),
    (Load(rows=1, row_bytes=32, scale=G4, scale_addr=1 << 40), "scale_addr = 1099511627776, allowed 0..1099511627775"),
    (Load(rows=1, row_bytes=544, scale=G4), "scale_stride must be 0 for at most 16 scale bytes, a divisor of bus_bytes "
                                            "(16), or a multiple of it, got 0 for rows of 17 scale bytes"),
    (Load(rows=1, row_bytes=32, scale=G4, scale_stride=24), "scale_stride must be 0 for at most 16 scale bytes"),
    (Load(rows=2, row_bytes=64, scale=G4, scale_stride=1), "scale_stride: rows of 2 scale bytes overlap in DRAM, 1"),
    (Load(rows=1, row_bytes=544, scale=G4, scale_stride=16), "scale_stride: rows of 17 scale bytes overlap"),
    (Gather(rows=1, row_bytes=32, scale=G4), "scale_stride must be a multiple of bus_bytes (16), got 0"),
    (Gather(rows=1, row_bytes=32, scale=G4, scale_stride=8), "scale_stride must be a multiple of bus_bytes (16), got"),
    (Store(rows=1, row_bytes=32, scale=G4), "scale_stride must be a divisor of bus_bytes (16) or a multiple, got 0"),
    (Store(rows=2, row_bytes=64, row_stride=64, scale=G4, scale_addr=1027, scale_stride=4),
     "scale_addr: rows of 2 scale bytes, 4 apart, that start at byte 3 of a beat must not cross a multiple of 4 bytes"),
    (Store(rows=2, row_bytes=64, row_stride=64, scale=G4, scale_addr=1039, scale_stride=16),
     "scale_addr: rows of 2 scale bytes, 16 apart, that start at byte 15 of a beat must not cross a multiple of 16"),
    (Store(rows=2, row_bytes=64, row_stride=64, scale=G4, scale_addr=64, scale_stride=2),
     "scale_addr: the scale bytes 64..67 lie among the rows, bytes 0..127"),
]


@pytest.mark.parametrize(("instruction", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_broken_rules_are_named(instruction, message: str) -> None:
    with pytest.raises(ProgramError, match=re.escape(message)):
        check_dram_fields(instruction, TILE)


def test_rows_and_scale_bytes_may_alternate() -> None:
    """Rows of 64 bytes and their 2 scale bytes, 80 apart: the strided sets do not meet."""
    check_dram_fields(Store(rows=3, row_bytes=64, row_stride=80, scale=G4, scale_addr=64, scale_stride=80), TILE)
