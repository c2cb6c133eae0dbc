"""The online softmax's statements, executed in numpy: block by block they are a softmax."""

from __future__ import annotations

import numpy as np
import pytest

from tilescore.compiler.attention import softmax
from tilescore.compiler.tiles.evaluate import Written, execute
from tilescore.compiler.tiles.expr import Assign, Codes, Elem, Leaf, Row
from tilescore.rtl.spec.isa import Quant
from tilescore.sim.numerics.element_codes import decode

ROWS, SCALE = 7, 0.3
SCORES, ROWMAX, OUT, PART = (Elem(address, name) for address, name in enumerate(("S", "rowmax", "O", "PV")))
MAXIMA, ALPHA, TOTAL, SUMS, INVERSE = [Elem(10, "m"), Elem(11, "m'")], Elem(12), Elem(13), Elem(14), Elem(15)
CODES = Codes(addr=0, pitch=0, quant=Quant.E4M3)


class Memory(dict):
    """Values by address: (rows, columns) of tiles, (rows, 1) of statistics."""

    def read(self, leaf: Leaf) -> np.ndarray:
        return self[leaf.addr]  # type: ignore[union-attr]

    def run(self, statement: Assign) -> Written:
        written = execute(statement, self.read)
        if isinstance(statement.to, Elem):
            self[statement.to.addr] = written.values
        if statement.reduce is not None:
            assert written.reduced is not None
            self[statement.reduce.addr] = written.reduced[:, None]
        return written


@pytest.mark.parametrize("blocks", [[24], [8, 8, 8], [5, 12, 3, 4]])
def test_blocks_of_scores_make_a_softmax(blocks: list[int], rng: np.random.Generator) -> None:
    scores = (rng.standard_normal((ROWS, 24)) * 8).astype(np.float32)
    values, memory, first = rng.standard_normal((24, 6)).astype(np.float32), Memory(), 0
    for number, count in enumerate(blocks):
        part = slice(first, first + count)
        first += count
        memory[SCORES.addr] = scores[:, part]
        memory[ROWMAX.addr] = scores[:, part].max(axis=1, keepdims=True)
        old, new = MAXIMA[(number + 1) % 2], MAXIMA[number % 2]
        memory.run(softmax.new_maximum(new, ROWMAX, SCALE, old if number else None))
        if number:
            memory.run(softmax.rescale(ALPHA, old, new))
        codes = memory.run(softmax.probabilities(CODES, SCORES, SCALE, Row(new.addr),
                                                 SUMS.addr if number else TOTAL.addr)).codes
        assert codes is not None
        memory[PART.addr] = decode(codes, "e4m3") @ values[part]
        if number:
            memory.run(softmax.running_sum(TOTAL, ALPHA, SUMS))
            memory.run(softmax.merge(OUT, Row(ALPHA.addr), PART))
        else:
            memory.run(softmax.start(OUT, PART))
    memory.run(softmax.inverse_sum(INVERSE, TOTAL))
    found = memory.run(softmax.normalized(CODES, OUT, Row(INVERSE.addr), 1.0)).values
    p = np.exp2(scores.astype(np.float64) * SCALE)
    exact = p / p.sum(axis=1, keepdims=True) @ values
    assert np.abs(found - exact).max() < 2.0**-4 * np.abs(values).max()
    assert np.abs(memory[TOTAL.addr][:, 0] / softmax.P_GAIN * np.exp2(memory[new.addr][:, 0]) / p.sum(axis=1) - 1
                  ).max() < 2.0**-4
