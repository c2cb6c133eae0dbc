"""SmolLM2-135M itself, where it is installed: tokens, float64 perplexity, and one of its layers on the hardware."""

from __future__ import annotations

import numpy as np
import pytest

from tilescore.compiler.compile import compile_layer
from tilescore.compiler.gguf_file import GgufFile
from tilescore.compiler.lm.network import Network, float64
from tilescore.compiler.lm.score import continued
from tilescore.compiler.lm.text import HOW_TO_GET, bundled_model
from tilescore.compiler.lm.tile import TileCompute
from tilescore.compiler.lm.tokenizer import Tokenizer
from tilescore.compiler.numerics import Numerics
from tilescore.compiler.tensors import LayerTensors
from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.errors import ToolError
from tilescore.sim.energy import load_table
from tilescore.sim.simulate import simulate


@pytest.fixture(scope="module")
def file() -> GgufFile:
    try:
        return GgufFile(bundled_model())
    except ToolError as error:
        pytest.skip(f"{error} ({HOW_TO_GET})")


def test_its_tokens(file: GgufFile) -> None:
    tokenizer = Tokenizer(file)
    ids = tokenizer.encode("The capital of France is")
    assert ids == [504, 3575, 282, 4649, 314]
    assert tokenizer.decode([*ids, *tokenizer.encode(" 1984\n")]) == "The capital of France is 1984\n"


@pytest.mark.slow
def test_it_knows_the_capital_of_france(file: GgufFile) -> None:
    tokenizer = Tokenizer(file)
    made = continued(Network(file), [tokenizer.encode("The capital of France is")], 2, float64)
    assert tokenizer.decode(made[0]) == " Paris."


@pytest.mark.sampled
def test_a_layer_on_the_hardware_gives_the_same_bits(file: GgufFile) -> None:
    """The layer as `tilescore lm` plays it on `server`, and on the RTL of `nano`."""
    ids = np.array([Tokenizer(file).encode("The capital")])
    held: dict[str, tuple[LayerTensors, np.ndarray]] = {}
    tile = TileCompute(config=load_tile("server"), numerics=Numerics(), table=load_table("7nm"))

    class Enough(Exception):
        pass

    def first(name: str, tensors: LayerTensors, x: np.ndarray | None) -> np.ndarray:
        made = tile(name, tensors, x)
        if name == "layer 0":
            held[name] = tensors, made
            raise Enough
        return made

    with pytest.raises(Enough):
        Network(file).hidden(ids, first)
    tensors, played = held["layer 0"]
    compiled = compile_layer(tensors.workload, load_tile("nano"), tensors=tensors)
    result = simulate(compiled.program, ("reference", "timing", "rtl"))  # raises where two of them differ
    assert result.outputs is not None and np.array_equal(result.outputs["out"].reshape(played.shape), played)
