"""The online softmax's statements, executed in numpy: block by block they are a softmax."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tilescore.compiler.kernels import softmax
from tilescore.compiler.tiles.evaluate import Written, execute
from tilescore.compiler.tiles.expr import Codes, Elem, Leaf
from tilescore.rtl.spec.isa import Quant
from tilescore.sim.numerics.element_codes import decode

ROWS, SCALE = 7, 0.3
CODES = Codes(addr=0, pitch=0, quant=Quant.E4M3)
MAXIMA = [Elem(10, "m"), Elem(11, "m'")]
PLACES = softmax.Places(scores=Elem(0, "S"), rowmax=Elem(1), old=MAXIMA[0], new=MAXIMA[1], factor=Elem(12), p=CODES,
                        sums=Elem(14), total=Elem(13), part=Elem(3, "PV"), out=Elem(2, "O"), inverse=Elem(15),
                        result=CODES, gains=Elem(4))


class Memory(dict):
    """Values by address: (rows, columns) of tiles, (rows, 1) of statistics."""

    def read(self, leaf: Leaf) -> np.ndarray:
        return self[leaf.addr]  # type: ignore[union-attr]

    def run(self, statements: softmax.Statements) -> Written | None:
        """What the last statement wrote."""
        written = None
        for _, statement in statements:
            written = execute(statement, self.read)
            if isinstance(statement.to, Elem):
                self[statement.to.addr] = written.values
            if statement.reduce is not None:
                assert written.reduced is not None
                self[statement.reduce.addr] = written.reduced[:, None]
        return written


@pytest.mark.parametrize("blocks", [[24], [8, 8, 8], [5, 12, 3, 4]])
@pytest.mark.parametrize("sink", [None, -3.0, 1.5, 40.0])
@pytest.mark.parametrize("cap", [None, 2.0, 50.0])
def test_blocks_of_scores_make_a_softmax(blocks: list[int], sink: float | None, cap: float | None,
                                         rng: np.random.Generator) -> None:
    """Of capped scores too, some of which are masked: the first block of a row, and the last keys of all."""
    scores = (rng.standard_normal((ROWS, 24)) * 8).astype(np.float32)
    values, memory, first = rng.standard_normal((24, 6)).astype(np.float32), Memory(), 0
    rule = softmax.OnlineSoftmax(scale=SCALE, result_scale=1.0, sink=sink is not None, cap=cap)
    at, shift = PLACES, 0.0 if cap is None else cap * np.log2(np.e)
    if cap is not None:
        scores[0, :blocks[0] if len(blocks) > 1 else 0] = scores[1:, -2:] = -np.inf
    if sink is not None:
        memory[MAXIMA[1].addr] = np.full((ROWS, 1), sink + shift, np.float32)
    for number, count in enumerate(blocks):
        part = slice(first, first + count)
        first += count
        at = replace(PLACES, old=MAXIMA[(number + 1) % 2], new=MAXIMA[number % 2])
        memory[at.scores.addr] = scores[:, part]
        memory[at.rowmax.addr] = scores[:, part].max(axis=1, keepdims=True)
        made = memory.run(rule.probabilities(at, number == 0, cap is not None))
        assert made is not None and made.codes is not None
        memory[at.part.addr] = decode(made.codes, "e4m3") @ values[part]
        memory.run(rule.sums(at, number == 0))
        memory.run(rule.merge(at, number == 0))
    found = memory.run(rule.end(at))
    assert found is not None
    exact = scores.astype(np.float64) * SCALE
    p = np.exp2(exact if cap is None else shift * np.tanh(exact / shift)) * np.isfinite(scores)
    total = p.sum(axis=1, keepdims=True) + (0 if sink is None else 2.0**sink)
    assert np.abs(found.values - p / total @ values).max() < 2.0**-4 * np.abs(values).max()
    sums = memory[at.total.addr] / softmax.P_GAIN * np.exp2(memory[at.new.addr].astype(np.float64) - shift)
    assert np.abs(sums / total - 1).max() < 2.0**-4
