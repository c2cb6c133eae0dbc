"""Of the change `ACTIVATION`: a feed-forward layer with x sigmoid(1.702 x), against transformers."""

from pathlib import Path

import numpy as np
import pytest

import tilescore
from tilescore.compiler.compile import compile_layer
from tilescore.compiler.feed_forward import MlpLayer
from tilescore.compiler.graph.evaluate import float64_layer
from tilescore.compiler.layers import Workload
from tilescore.compiler.report import rel_rms_error
from tilescore.rtl.spec.config import load_tile
from tilescore.tests.compiler.play import play

torch = pytest.importorskip("torch")
activations = pytest.importorskip("transformers.activations")


def test_against_transformers() -> None:
    assert Path(tilescore.__file__).parent == Path.cwd()
    layer = MlpLayer(hidden=48, intermediate=80, activation="quick_gelu", gated=False)
    compiled = compile_layer(Workload(layer=layer, tokens=5), load_tile("nano"))
    tensors = compiled.tensors
    x, up, down = (torch.tensor(np.asarray(getattr(tensors, name))).double() for name in ("x", "up", "down"))
    theirs = (activations.ACT2FN["quick_gelu"](x @ up.T) @ down.T).numpy()
    assert rel_rms_error(float64_layer(tensors).out, theirs) < 1e-12
    assert 1e-4 < rel_rms_error(play(compiled.program), theirs) < 0.1
