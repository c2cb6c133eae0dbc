"""Masks: every answer is that of the definition, key by key."""

from __future__ import annotations

import numpy as np
import pytest

from tilescore.compiler.masks import KeyMask
from tilescore.rtl.spec.encoding import encode
from tilescore.rtl.spec.isa import Matmul

hypothesis = pytest.importorskip("hypothesis", reason="needs the test extra (hypothesis)")
st = hypothesis.strategies


def sees(mask: KeyMask, position: int, key: int) -> bool:
    """The definition."""
    if key >= mask.keys or (mask.causal and key > position):
        return False
    if mask.window is not None:
        return key > position - mask.window
    return mask.chunk is None or key // mask.chunk == position // mask.chunk


@st.composite
def requests(draw: st.DrawFn) -> tuple[KeyMask, int, int]:
    """A mask with new tokens ``first`` to ``first + count - 1``, the last of the sequence."""
    first, count = draw(st.integers(0, 9)), draw(st.integers(1, 9))
    kind, size = draw(st.sampled_from(["causal", "none", "window", "chunk"])), draw(st.integers(1, 20))
    reach = {kind: size} if kind in ("window", "chunk") else {}
    return KeyMask(keys=first + count, causal=kind != "none", **reach), first, count


@hypothesis.given(request=requests())
def test_pairs_and_seen_count_the_same_keys(request: tuple[KeyMask, int, int]) -> None:
    mask, first, count = request
    seen = mask.seen(first, count)
    assert seen.tolist() == [[sees(mask, first + i, key) for key in range(mask.keys)] for i in range(count)]
    assert mask.pairs(first, count) == seen.sum()
    assert [mask.visible(first + i) - mask.lowest(first + i) for i in range(count)] == seen.sum(axis=1).tolist()
    assert mask.bounded or (mask.lowest(first + count - 1) == 0)


@hypothesis.given(request=requests(), data=st.data())
def test_a_limit_leaves_what_rows_see_of_a_block(request: tuple[KeyMask, int, int], data: st.DataObject) -> None:
    """Rows of consecutive tokens, or of the one last token, against a block with padding behind it."""
    mask, first, tokens = request
    step = data.draw(st.sampled_from([0, 1]))
    row = data.draw(st.integers(0, tokens - 1)) if step else tokens - 1
    rows = data.draw(st.integers(1, tokens - row)) if step else data.draw(st.integers(1, 4))
    position = first + row
    rows = mask.together(position, rows) if step else rows
    visible = mask.visible(position + (rows - 1) * step)
    key = data.draw(st.integers(mask.lowest(position), visible - 1) | st.integers(0, visible - 1))
    count = data.draw(st.integers(1, visible - key))
    ends = key + count == visible
    columns = count + (data.draw(st.integers(0, 5)) if ends else 0)
    limit, low = mask.limit(position, step, key, count, columns), mask.lower_limit(position, step, rows, key)
    above = np.array([[column <= limit.base + limit.step * i for column in range(columns)] for i in range(rows)])
    below = np.array([[column >= low.base + low.step * i for column in range(columns)] for i in range(rows)])
    stays = above & below if low.needed else above
    wanted = [[column < count and sees(mask, position + step * i, key + column) for column in range(columns)]
              for i in range(rows)]
    assert stays.tolist() == wanted
    assert limit.needed == (not above.all())
    assert low.needed == (mask.lowest(position + (rows - 1) * step) > key)


def test_limits_far_behind_the_keys_fit_an_instruction() -> None:
    limit = KeyMask(keys=1 << 24, causal=True).limit((1 << 24) - 128, 1, 0, 256, 256)
    assert not limit.needed
    assert encode(Matmul(mask_base=limit.base, mask_step=limit.step))
