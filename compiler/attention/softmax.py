"""The online softmax as statements, block of keys by block.

Everything is in units of log2: with ``scale`` = scale_q * scale_k * softmax_scale * log2(e), per block of scores S

    m'  = max(m, scale * rowmax(S))      rowmax comes free from the drain
    a   = exp2(m - m')
    P   = code(256 * exp2(scale * S - m'))   256 uses the codes' range; it cancels in the end
    l   = l * a + rowsum(P)              the sum of what P's codes mean, exact
    O   = O * a + P V

and at the end O / l. The first block starts m, l and O: it has no a. Statistics are one value per row: `Elem` over the
words that hold them where they are computed, `Row` where each serves a whole row.
"""

from __future__ import annotations

from ...rtl.spec.isa import Reduce
from ..tiles.expr import Assign, Codes, Elem, Reduction, Row, exp2, maximum, reciprocal

P_GAIN = 256.0
"""P <= 1 is stored as 256 * P: up to E4M3's 448, clear of its subnormals (FlashAttention-4 scales by 2**8 too)."""


def new_maximum(to: Elem, rowmax: Elem, scale: float, old: Elem | None) -> Assign:
    """m', from ``old``, which is None for the first block."""
    largest = rowmax * scale
    return Assign(to=to, value=largest if old is None else maximum(largest, old), label="running max")


def rescale(to: Elem, old: Elem, new: Elem) -> Assign:
    """a"""
    return Assign(to=to, value=exp2(old - new), label="rescale factor")


def probabilities(to: Codes, scores: Elem, scale: float, largest: Row, sums: int) -> Assign:
    """P and the sums of its rows, at statistics address ``sums``."""
    return Assign(to=to, value=exp2(scores * scale - largest), scale=P_GAIN, reduce=Reduction(Reduce.SUM, sums),
                  label="P")


def running_sum(total: Elem, factor: Elem, sums: Elem) -> Assign:
    """l"""
    return Assign(to=total, value=total * factor + sums, label="running sum")


def merge(out: Elem, factor: Row, part: Elem) -> Assign:
    """O"""
    return Assign(to=out, value=out * factor + part, label="merge")


def start(out: Elem, part: Elem) -> Assign:
    """O of the first block, where its product lies elsewhere."""
    return Assign(to=out, value=part, label="start output")


def inverse_sum(to: Elem, total: Elem) -> Assign:
    """1 / l"""
    return Assign(to=to, value=reciprocal(total), label="1 / sum")


def normalized(to: Codes, out: Elem, inverse: Row, scale: float) -> Assign:
    """O / l, times what makes codes of it."""
    return Assign(to=to, value=out * inverse, scale=scale, label="normalize output")
