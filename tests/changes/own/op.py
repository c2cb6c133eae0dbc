"""Of the change `OP`: x + gain * W norm(x), of ops alone, against torch."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tilescore
from tilescore.compiler.graph.calibrate import calibrate
from tilescore.compiler.graph.evaluate import Walk
from tilescore.compiler.graph.ir import GraphBuilder, Role
from tilescore.compiler.graph.ops.add import Add
from tilescore.compiler.graph.ops.layer_scale import LayerScale
from tilescore.compiler.graph.ops.linear import Linear
from tilescore.compiler.graph.ops.rms_norm import RmsNorm
from tilescore.compiler.lowering.plan import plan
from tilescore.compiler.report import rel_rms_error
from tilescore.rtl.spec.config import load_tile
from tilescore.tests.compiler.play import play

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("tile", ["nano", "edge"])
def test_against_torch(tile: str) -> None:
    assert Path(tilescore.__file__).parent == Path.cwd()
    g = GraphBuilder()
    x = g.value("x", (9, 40), Role.INPUT)
    shapes = {"n": (40,), "w": (40, 40), "gain": (40,)}
    weights = {name: g.value(name, shape, Role.WEIGHT) for name, shape in shapes.items()}
    normed = g.node("norm", RmsNorm(eps=1e-5), x, weights["n"], output="a")
    made = g.node("gemm", Linear(), normed, weights["w"], output="b")
    scaled = g.node("scaled", LayerScale(), made, weights["gain"], output="c")
    g.node("residual", Add(), x, scaled, output="out", role=Role.OUTPUT)
    graph, rng = g.graph(), np.random.default_rng(3)
    tensors: Any = SimpleNamespace(**{name: rng.standard_normal(value.shape).astype(np.float32)
                                      for name, value in graph.given().items()})
    trace = Walk(graph=graph, tensors=tensors).run()
    rows, n, w, gain = (torch.tensor(getattr(tensors, name)).double() for name in ("x", "n", "w", "gain"))
    normed_rows = n * rows * torch.rsqrt(rows.square().mean(1, keepdim=True) + 1e-5)
    theirs = (rows + gain * (normed_rows @ w.T)).numpy()
    assert rel_rms_error(trace.out, theirs) < 1e-6  # squares of its float32 inputs are float32
    steps = plan(graph, load_tile(tile))
    program = steps.program(steps.schedule(), calibrate(trace.ranges), tensors)
    assert 1e-4 < rel_rms_error(play(program), theirs) < 0.1
