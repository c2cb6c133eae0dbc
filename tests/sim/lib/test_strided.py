"""Strided address sets against sets written out."""

from __future__ import annotations

import pytest

pytest.importorskip("hypothesis", reason="Hypothesis is a test extra")
from hypothesis import example, given
from hypothesis import strategies as st

from tilescore.sim.lib.strided import Strided, overlaps

runs = st.builds(Strided, addr=st.integers(0, 60), length=st.integers(1, 12), pitch=st.integers(0, 20),
                 blocks=st.integers(1, 6))


def addresses(run: Strided) -> set[int]:
    return {run.addr + block * run.pitch + i for block in range(run.blocks) for i in range(run.length)}


@given(runs)
def test_end_and_simplified_keep_the_set(run: Strided) -> None:
    assert run.end == max(addresses(run)) + 1
    assert addresses(run.simplified()) == addresses(run)


@given(runs, runs)
@example(Strided(0, 4, 16, 4), Strided(4, 4, 16, 4))
@example(Strided(0, 4, 16, 4), Strided(3, 4, 16, 4))
@example(Strided(0, 4, 16, 4), Strided(20, 2, 8, 2))
def test_overlap_is_exact(p: Strided, q: Strided) -> None:
    assert overlaps(p, q) == overlaps(q, p) == bool(addresses(p) & addresses(q))


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 9), st.integers(1, 9), st.integers(1, 30))
def test_overlap_of_equal_pitches_is_exact(a: int, b: int, p_len: int, q_len: int, pitch: int) -> None:
    p, q = Strided(a, p_len, pitch, 7), Strided(b, q_len, pitch, 5)
    assert overlaps(p, q) == bool(addresses(p) & addresses(q))


def test_many_blocks_of_different_pitches_are_taken_to_overlap() -> None:
    p, q = Strided(0, 1, 2, 1000), Strided(1, 1, 4, 500)
    assert overlaps(p, q) and not addresses(p) & addresses(q)
