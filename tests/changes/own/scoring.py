"""Of the change `SCORING`: experts by their squared sigmoids, against torch."""

from pathlib import Path

import numpy as np
import pytest

import tilescore
from tilescore.compiler.compile import compile_layer
from tilescore.compiler.feed_forward import MoELayer
from tilescore.compiler.layers import Workload
from tilescore.compiler.report import rel_rms_error
from tilescore.compiler.scoring import Scoring
from tilescore.rtl.spec.config import load_tile
from tilescore.tests.compiler.play import play

torch = pytest.importorskip("torch")


def test_against_torch() -> None:
    assert Path(tilescore.__file__).parent == Path.cwd()
    layer = MoELayer(hidden=48, experts=6, top_k=2, intermediate=32, norm_topk=False,
                     scoring=Scoring(score="squared_sigmoid", scale=1.5))
    compiled = compile_layer(Workload(layer=layer, tokens=7), load_tile("nano"))
    tensors, expected = compiled.tensors, compiled.expected
    x, router = (torch.tensor(np.asarray(getattr(tensors, name))).double() for name in ("x", "router"))
    experts = [tensors.expert(e) for e in range(6)]
    gate, up, down = (torch.tensor(np.stack([getattr(e, name) for e in experts])).double()
                      for name in ("gate", "up", "down"))
    scores, chosen = torch.topk(torch.sigmoid(x @ router.T) ** 2, 2)
    theirs = torch.zeros_like(x)
    for token in range(len(x)):
        for weight, expert in zip(scores[token], chosen[token], strict=True):
            own = torch.nn.functional.silu(x[token] @ gate[expert].T) * (x[token] @ up[expert].T)
            theirs[token] += 1.5 * weight * (own @ down[expert].T)
    assert rel_rms_error(expected, theirs.numpy()) < 1e-12
    assert 1e-4 < rel_rms_error(play(compiled.program), theirs.numpy()) < 0.1
