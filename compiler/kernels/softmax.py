"""The online softmax as data: statements at each point of the loop over blocks of keys (`flash.py`).

Everything is in units of log2: with ``scale`` = scale_q * scale_k * softmax_scale * log2(e), per block of scores S

    m'  = max(m, scale * rowmax(S))      rowmax comes free from the drain
    a   = exp2(m - m')
    P   = code(256 * exp2(scale * S - m'))   256 uses the codes' range; it cancels in the end
    l   = l * a + rowsum(P)              the sum of what P's codes mean, exact
    O   = O * a + P V

and at the end O / l. The first block starts m, l and O: it has no a. With a *sink*, a score that belongs to no key, m
is the sink and l 256 before it, so that it has an a too. Under a mask that hides whole blocks from a row before the
first it sees, m is at least `LEAST` after the first: the row's P, l and O are 0 until then, and its a is 0 when m rises
to its first score, so that its bits are those of a pass that starts there.

With a *cap*, scores are ``cap * tanh(s / cap)`` = ``2 cap * sigmoid(2 s / cap) - cap``, of which the constant cancels;
so m and the exponents are those of the first term, with t = sigmoid(...) in the place of S. It makes a masked score,
which is -inf, a finite one. So the factor of P is not 256 where something is masked, but 512 * sigmoid(S / 2**100),
which is 256 or 0. m is finite whatever a row sees.

Statistics are one value per row: `Elem`
over the words that hold them where they are computed, `Row` where each serves a whole row.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from ...rtl.spec.isa import Reduce
from ..tiles.expr import Assign, Codes, Elem, Reduction, Row, exp2, maximum, reciprocal, sigmoid

P_GAIN = 256.0
"""P <= 1 is stored as 256 * P: up to E4M3's 448, clear of its subnormals (FlashAttention-4 scales by 2**8 too)."""


LEAST = -float.fromhex("0x1.fffffep127")
"""The lowest finite FP32 value."""


TINY = 2.0**-100
"""Times a finite score it is nothing to a sigmoid."""


class Over(enum.Enum):
    """What a statement runs over."""

    ROWS = "one value per row"
    SCORES = "a block of scores"
    OUTPUTS = "the outputs"
    STORED = "the outputs in whole blocks"


Statements = list[tuple[Over, Assign]]


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where the values of one step lie. old, new: m before and after; sums: of this block's P; part: this block's P V,
    ``out`` itself where nothing need be added; gains: the factors of P under a cap."""

    scores: Elem
    rowmax: Elem
    old: Elem
    new: Elem
    factor: Elem
    p: Codes
    sums: Elem
    total: Elem
    part: Elem
    out: Elem
    inverse: Elem
    result: Codes
    gains: Elem | None = None


def capped_scale(cap: float) -> float:
    """What t is multiplied with, in units of log2."""
    return 2 * cap * math.log2(math.e)


@dataclass(frozen=True, kw_only=True)
class OnlineSoftmax:
    """scale: of scores; result_scale: what makes codes of O / l; sink: m before the first block is that of each row,
    in units of log2; unseen: there may be rows that see no key of the first block; cap: of scores."""

    scale: float
    result_scale: float
    sink: bool = False
    unseen: bool = False
    cap: float | None = None

    def probabilities(self, at: Places, first: bool, masked: bool) -> Statements:
        """m', a and P, and the sums of P's rows. first: of the sub-tile's blocks; masked: are some scores?"""
        alone, made = first and not self.sink, self._capped(at, masked)
        scale, largest = (self.scale, at.rowmax * self.scale) if self.cap is None else (capped_scale(self.cap), at.new)
        if not alone:
            largest = maximum(largest, at.old)
        elif self.unseen and self.cap is None:
            largest = maximum(largest, LEAST)
        if largest is not at.new:
            made.append((Over.ROWS, Assign(to=at.new, value=largest, label="running max")))
        if not alone:
            made.append((Over.ROWS, Assign(to=at.factor, value=exp2(at.old - at.new), label="rescale factor")))
        sums, p = at.total if alone else at.sums, exp2(at.scores * scale - Row(at.new.addr))
        gains = at.gains if masked else None
        return [*made, (Over.SCORES, Assign(to=at.p, value=p if gains is None else p * gains,
                                            scale=P_GAIN if gains is None else None,
                                            reduce=Reduction(Reduce.SUM, sums.addr), label="P"))]

    def _capped(self, at: Places, masked: bool) -> Statements:
        """t in the place of S, its largest, and the factors of P."""
        if self.cap is None:
            return []
        inner = 2 * self.scale * math.log(2) / self.cap
        made: Statements = [(Over.ROWS, Assign(to=at.new, value=sigmoid(at.rowmax * inner), label="capped max",
                                               scale=capped_scale(self.cap)))]
        if masked:
            assert at.gains is not None, "a cap has a region for factors"
            made.append((Over.SCORES, Assign(to=at.gains, value=sigmoid(at.scores * TINY), scale=2 * P_GAIN,
                                             label="gains")))
        return [*made, (Over.SCORES, Assign(to=at.scores, value=sigmoid(at.scores * inner), label="cap"))]

    def sums(self, at: Places, first: bool) -> Statements:
        """l, after another step's work: the sums of P are ready late."""
        if first and not self.sink:
            return []
        value = at.factor * P_GAIN + at.sums if first else at.total * at.factor + at.sums
        return [(Over.ROWS, Assign(to=at.total, value=value, label="running sum"))]

    def merge(self, at: Places, first: bool) -> Statements:
        """O"""
        if not first:
            return [(Over.OUTPUTS, Assign(to=at.out, value=at.out * Row(at.factor.addr) + at.part, label="merge"))]
        return [] if at.part == at.out else [(Over.OUTPUTS, Assign(to=at.out, value=at.part, label="start output"))]

    def end(self, at: Places) -> Statements:
        """O / l, as codes."""
        return [(Over.ROWS, Assign(to=at.inverse, value=reciprocal(at.total), label="1 / sum")),
                (Over.STORED, Assign(to=at.result, value=at.out * Row(at.inverse.addr), scale=self.result_scale,
                                     label="normalize output"))]
