"""Scoring a language model: windows, losses, continuations, and the tile's layers in the chain."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tilescore.__main__ import main
from tilescore.compiler.gguf_file import GgufFile
from tilescore.compiler.lm.network import Network, float64
from tilescore.compiler.lm.score import Mean, continued, losses, nats, windows
from tilescore.compiler.lm.text import default_text
from tilescore.compiler.lm.tile import TileCompute
from tilescore.compiler.lm.tokenizer import Tokenizer
from tilescore.compiler.numerics import Numerics
from tilescore.compiler.tensors import LayerTensors
from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.errors import ConfigError, WorkloadError
from tilescore.sim.energy import load_table
from tilescore.testing.quantized_layer import QuantizedCompute
from tilescore.tests.compiler.lm import tiny_gguf

TEXT = "that is the text, 12 words with this\n" * 2


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf.write(tmp_path_factory.mktemp("lm") / "tiny.gguf")


@pytest.fixture(scope="module")
def network(path: Path) -> Network:
    return Network(GgufFile(path))


def test_tokens(path: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer(GgufFile(path))
    ids = tokenizer.encode("the 42\n")
    assert [tiny_gguf.tokens()[i] for i in ids] == ["th", "e", "Ġ", "4", "2", "Ċ"]
    assert tokenizer.decode(ids) == "the 42\n"
    with pytest.raises(WorkloadError, match="expected at least one token, got none"):
        tokenizer.encode("")
    with pytest.raises(ConfigError, match=r"tokenizer.ggml.pre: expected one of smollm, gpt-2, got 'llama-bpe'"):
        Tokenizer(GgufFile(tiny_gguf.write(tmp_path / "other.gguf", pre="llama-bpe")))


def test_windows() -> None:
    ids, targets = windows(range(10), 8, 4)
    assert ids.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]] and targets.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    with pytest.raises(WorkloadError, match="--tokens 10: the text has 10 tokens; expected at most 9"):
        windows(range(10), 10, 5)
    with pytest.raises(WorkloadError, match="--tokens 8: expected a multiple of the window, 3"):
        windows(range(10), 8, 3)


def test_losses_and_errors() -> None:
    logits = np.log(np.array([[1.0, 3.0], [1.0, 1.0]]))
    assert nats(logits, np.array([1, 0])) == pytest.approx([np.log(4 / 3), np.log(2)])
    assert Mean.of(np.array([1.0, 2.0, 3.0, 4.0])).standard_error == pytest.approx((5 / 3 / 4) ** 0.5)


@pytest.mark.slow
def test_the_chain_equals_transformers(path: Path, network: Network) -> None:
    torch = pytest.importorskip("torch", reason="needs the extra oracle (torch)")
    transformers = pytest.importorskip("transformers", reason="needs the extra oracle (transformers)")
    file = GgufFile(path)
    config = transformers.LlamaConfig(**{key: value for key, value in file.raw.items() if key != "model_type"})
    model = transformers.LlamaForCausalLM(config).double().eval()
    state = {name: torch.tensor(file.read(name, file.shape(name)), dtype=torch.float64)
             for name in file.under("")}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert set(missing) <= {"lm_head.weight"} and not unexpected
    ids = np.arange(24).reshape(2, 12) * 7 % 257
    with torch.no_grad():
        theirs = model(torch.tensor(ids)).logits.numpy()
    ours = [network.logits(rows, float64) for rows in network.hidden(ids, float64)]
    assert np.allclose(ours, theirs, rtol=0, atol=1e-5)  # theirs rotates in float32


def test_the_tile_is_as_good_as_the_quantized_float64_model(network: Network) -> None:
    ids, targets = windows(np.arange(65) * 7 % 257, 64, 16)
    exact = losses(network, ids, targets, float64, batch=4)
    tile = TileCompute(config=load_tile("edge"), numerics=Numerics(), table=load_table("7nm"))
    played = losses(network, ids, targets, tile, batch=4)
    assert tile.total_cycles() > 0 and 0 < tile.joules("low") < tile.joules() < tile.joules("high")
    assert {name: len(runs) for name, runs in tile.cycles.items()} == {
        "embedding": 1, "layer 0": 1, "layer 1": 1, "head": 4}
    quantized = losses(network, ids, targets, QuantizedCompute(numerics=Numerics(), scales=tile.scales), batch=4)
    lost, apart = np.abs(exact - quantized).mean(), np.abs(played - quantized).mean()
    assert 0 < apart < lost / 3, "the tile's losses are those of the formats, not of something else"
    difference = Mean.of(played - quantized)
    assert abs(difference.mean) < max(0.01, 3 * difference.standard_error)


def test_continuations_are_greedy(network: Network) -> None:
    prompts, made = ([5, 6, 7], [100, 3, 9, 20]), []
    for prompt in prompts:  # one token after another
        text = list(prompt)
        for _ in range(4):
            text.append(int(network.logits(network.hidden(np.array([text]), float64)[0], float64)[-1].argmax()))
        made.append(text[len(prompt):])
    passes = []

    def counted(name: str, tensors: LayerTensors, x: np.ndarray | None) -> np.ndarray:
        passes.append(name)
        return float64(name, tensors, x)

    assert continued(network, prompts, 4, float64) == made
    assert continued(network, prompts, 4, counted, made) == made and passes.count("head") == 1
    wrong = [[*draft[:2], (draft[2] + 1) % 257, draft[3]] for draft in made]
    assert continued(network, prompts, 4, float64, wrong) == made
    assert continued(network, prompts, 0, float64) == [[], []]


def test_the_command(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    command = ["lm", "--gguf", str(path), "--text", str(tmp_path / "text.txt"), "--tokens", "32", "--window", "16",
               "--generate", "2", "--tile", "edge", "--format", "e4m3,mxfp8"]
    assert main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [one["format"] for one in report["formats"]] == ["e4m3", "mxfp8"]
    assert report["tokens"] == 32 and len(report["float64"]["continuations"]) == 3
    for one in report["formats"]:
        assert one["perplexity"]["mean"] == pytest.approx(np.exp(one["nats"]["mean"]))
        assert one["nats_lost"]["mean"] == pytest.approx(one["nats"]["mean"] - report["float64"]["nats"]["mean"])
        assert one["joules_per_token"] > 0 and len(one["continuations"][2]["tokens"]) == 2
    assert main([*command[:-1], "e5m2"]) == 2
    assert "format e5m2:e5m2:e5m2: tile edge does not build" in capsys.readouterr().err


def test_the_default_text_is_there() -> None:
    text = default_text()
    assert len(text.content) > 200_000 and len(text.sha256) == 64 and "pydoc_data.topics" in text.source
