"""The time contract: durations by hand, and the properties that the levels and the verifier rely on.

That the RTL keeps these durations is tested with the units and with the random programs.
"""

from __future__ import annotations

import pytest

pytest.importorskip("hypothesis", reason="Hypothesis is a test extra")
from hypothesis import given
from hypothesis import strategies as st

from tilescore.rtl.plan import duration, matmul_slot
from tilescore.rtl.spec.config import PRESETS, load_tile
from tilescore.rtl.spec.isa import Gather, Load, Matmul, Scatter, Store, Vector

TILES = {name: load_tile(name) for name in PRESETS}

rows = st.integers(1, 40)
row_bytes = st.integers(1, 300)
dma = {"rows": rows, "row_bytes": row_bytes}
by_unit = {
    "load": st.one_of(st.builds(Load, **dma), st.builds(Gather, **dma)),
    "store": st.one_of(st.builds(Store, **dma), st.builds(Scatter, **dma)),
    "matrix": st.builds(Matmul, k_steps=st.integers(1, 40), m_rows=rows, n_tiles=st.integers(1, 4)),
    "vector": st.builds(Vector, rows=rows, tiles=st.integers(1, 4)),
}


@pytest.mark.parametrize(("instruction", "beats"), [
    (Load(rows=1, row_bytes=1), 1), (Load(rows=1, row_bytes=16), 1), (Load(rows=1, row_bytes=17), 2),
    (Store(rows=3, row_bytes=33), 9), (Scatter(rows=4, row_bytes=4), 4),
])
def test_a_dma_occupies_its_port_one_cycle_per_beat(instruction, beats: int) -> None:
    """Every row starts a beat; nano has 16-byte beats."""
    assert duration(instruction, TILES["nano"]).occupancy == beats


def test_a_gather_pays_for_its_addresses_once() -> None:
    few, many = (duration(Gather(rows=n, row_bytes=16), TILES["nano"]).occupancy for n in (1, 9))
    assert few > 1 and many - few == 8


@pytest.mark.parametrize(("k_steps", "slot"), [(1, 4), (4, 4), (5, 5), (100, 100)])
def test_a_result_tile_takes_its_k_steps_or_its_drain(k_steps: int, slot: int) -> None:
    assert matmul_slot(k_steps, TILES["nano"]) == slot


def test_matmul_occupancy_counts_panels_and_column_tiles() -> None:
    # 9 rows are 3 panels of 4; 2 column tiles; 7 k steps each.
    assert duration(Matmul(k_steps=7, m_rows=9, n_tiles=2), TILES["nano"]).occupancy == 3 * 2 * 7


def test_vector_occupancy_is_a_cycle_per_row_and_tile() -> None:
    assert duration(Vector(rows=5, tiles=3), TILES["nano"]).occupancy == 15


@pytest.mark.parametrize("tile", PRESETS)
@pytest.mark.parametrize("unit", by_unit)
@given(data=st.data())
def test_tokens_come_in_queue_order(tile: str, unit: str, data) -> None:
    """A later instruction never overtakes: the n-th token of a semaphore is the n-th instruction's.

    wr is never before rd, so that a wr token covers an rd token too.
    """
    first, second = (duration(data.draw(by_unit[unit]), TILES[tile]) for _ in range(2))
    for d in (first, second):
        assert d.occupancy >= 1 and d.wr >= d.rd >= 1
    assert first.rd < first.occupancy + second.rd
    assert first.wr < first.occupancy + second.wr


@pytest.mark.parametrize("unit", by_unit)
@given(data=st.data())
def test_addresses_and_data_do_not_matter(unit: str, data) -> None:
    instruction = data.draw(by_unit[unit])
    before = duration(instruction, TILES["nano"])
    for field in ("addr", "dram_addr", "a_addr", "acc_addr", "x_addr", "dst_addr", "y", "mask_base", "mask_low_base",
                  "wait_rd"):
        if hasattr(instruction, field):
            setattr(instruction, field, 3)
    assert duration(instruction, TILES["nano"]) == before
