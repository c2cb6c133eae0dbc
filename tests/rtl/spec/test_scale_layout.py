"""Scale bytes and beats of a row, against their definitions."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from tilescore.rtl.plan import duration
from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.events import event_counts
from tilescore.rtl.spec.isa import Gather, Load, ScaleLayout, Scatter, Space, Store
from tilescore.rtl.spec.scale_layout import built_layouts, scale_beats, scale_groups, scale_row_bytes

# 16-byte beats of two groups.
TILE = dataclasses.replace(load_tile("nano"), formats=("e4m3", "e2m1"), scales=("e4m3", "e8m0", "fp32"))
G1, G2, G4, G16, FP32 = list(ScaleLayout)[1:]


def test_a_tile_builds_the_layouts_of_its_scales() -> None:
    def built(*scales: str) -> tuple[ScaleLayout, ...]:
        return built_layouts(dataclasses.replace(TILE, scales=scales))

    assert built() == ()
    assert built("fp32") == (FP32,)
    assert built("e4m3") == built("e8m0") == (G1, G2, G4, G16)
    assert built("e8m0", "fp32") == (G1, G2, G4, G16, FP32)


@pytest.mark.parametrize(("layout", "row_bytes", "size"), [
    (ScaleLayout.NONE, 256, 0), (G1, 8, 1), (G1, 256, 32), (G2, 16, 1), (G2, 256, 16), (G4, 96, 3), (G16, 256, 2),
    (FP32, 128, 4), (FP32, 384, 12)])
def test_scale_bytes_of_a_row(layout: ScaleLayout, row_bytes: int, size: int) -> None:
    assert scale_row_bytes(Load(scale=layout, row_bytes=row_bytes), TILE) == size


def test_groups_with_a_scale_byte() -> None:
    assert scale_groups(G1, 5).tolist() == [0, 1, 2, 3, 4]
    assert scale_groups(G2, 3).tolist() == [0, 2, 4]
    assert scale_groups(G4, 3).tolist() == [0, 4, 8]
    assert scale_groups(G16, 2).tolist() == [0, 16]
    assert scale_groups(FP32, 8).tolist() == [0, 1, 2, 3, 16, 17, 18, 19]


@pytest.mark.parametrize(("instruction", "beats"), [
    (Load(rows=9, row_bytes=32), 0),
    (Load(rows=9, row_bytes=32, scale=G4, scale_stride=0), 1),
    (Load(rows=9, row_bytes=32, scale=G4, scale_stride=1), 1),
    (Load(rows=17, row_bytes=32, scale=G4, scale_stride=1), 2),
    (Load(rows=9, row_bytes=32, scale=G4, scale_stride=4), 3),
    (Load(rows=9, row_bytes=32, scale=G4, scale_stride=16), 9),
    (Load(rows=9, row_bytes=32, scale=G4, scale_stride=48), 9),
    (Load(rows=2, row_bytes=8 * 33, scale=G1, scale_stride=48), 6),
    (Gather(rows=2, row_bytes=8 * 33, scale=G1, scale_stride=48), 6),
    (Store(rows=9, row_bytes=32, scale=G4, scale_stride=4), 9),
    (Scatter(rows=2, row_bytes=8 * 33, scale=G1, scale_stride=48), 6),
])
def test_scale_beats(instruction, beats: int) -> None:
    """They occupy the port, are counted apart and are DRAM beats."""
    assert scale_beats(instruction, TILE) == beats
    plain = dataclasses.replace(instruction, scale=ScaleLayout.NONE)
    more, less = duration(instruction, TILE), duration(plain, TILE)
    assert (more.occupancy - less.occupancy, more.rd - less.rd, more.wr - less.wr) == (beats, beats, beats)
    counts, before = event_counts(instruction, TILE), event_counts(plain, TILE)
    port = "dram_read_beats" if instruction.spec.name in ("LOAD", "GATHER") else "dram_write_beats"
    assert counts == before | {"scale_beats": beats, port: before[port] + beats}


def test_beats_of_a_load_by_walking_its_rows(rng: np.random.Generator) -> None:
    """A beat is read when the next row's bytes are not in the one read last."""
    for _ in range(300):
        rows, layout = int(rng.integers(1, 40)), ScaleLayout(int(rng.integers(1, 6)))
        block = {G1: 8, G2: 16, G4: 32}.get(layout, 128)
        load = Load(space=Space.B, rows=rows, row_bytes=block * int(rng.integers(1, 40)), scale=layout)
        size = scale_row_bytes(load, TILE)
        strides = [s for s in (1, 2, 4, 8) if s >= size] + [-(-size // 16) * 16] + ([0] if size <= 16 else [])
        load.scale_stride = int(rng.choice(strides))
        needed = [(row * load.scale_stride + byte) // 16 for row in range(rows) for byte in range(size)]
        assert scale_beats(load, TILE) == 1 + sum(a != b for a, b in pairwise(needed))
