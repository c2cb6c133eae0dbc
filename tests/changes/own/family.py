"""Of the change `FAMILY`: decoder layers of Arcee's models, against transformers, from a checkpoint to the tile."""

import json
from pathlib import Path

import numpy as np
import pytest

import tilescore
from tilescore.compiler.checkpoint import from_safetensors
from tilescore.compiler.compile import compile_layer
from tilescore.compiler.graph.evaluate import float64_layer
from tilescore.compiler.layer_readers import decoder_layer
from tilescore.compiler.layers import Workload
from tilescore.compiler.models import load_model
from tilescore.compiler.report import rel_rms_error
from tilescore.rtl.spec.config import load_tile
from tilescore.tests.compiler.play import play

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CONFIG = {"model_type": "arcee", "hidden_size": 48, "intermediate_size": 80, "num_attention_heads": 4,
          "num_key_value_heads": 2, "head_dim": 16, "num_hidden_layers": 1, "vocab_size": 32, "hidden_act": "relu2",
          "attention_bias": False, "mlp_bias": False, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
          "max_position_embeddings": 128, "tie_word_embeddings": False}


def test_against_transformers(tmp_path: Path) -> None:
    assert Path(tilescore.__file__).parent == Path.cwd()
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.from_pretrained(tmp_path), dtype=torch.float32, attn_implementation="sdpa")
    model.save_pretrained(tmp_path / "saved")
    model = model.double().eval()
    layer = decoder_layer(load_model(tmp_path / "saved"))
    workload = Workload(layer=layer, tokens=7)
    tensors = from_safetensors(tmp_path / "saved", workload, seed=1)
    x = torch.tensor(np.asarray(tensors.x)).double()[None]
    mask = torch.full((7, 7), -torch.inf, dtype=torch.float64).triu(1)[None, None]
    with torch.no_grad():
        tables = model.model.rotary_emb(x, torch.arange(7)[None])
        theirs = model.model.layers[0](x, attention_mask=mask, position_embeddings=tables)
    theirs = (theirs[0] if isinstance(theirs, tuple) else theirs).reshape(7, -1).numpy()
    assert rel_rms_error(float64_layer(tensors).out, theirs) < 1e-5  # its norms and rotary tables are float32
    compiled = compile_layer(workload, load_tile("nano"), tensors=tensors)
    assert rel_rms_error(play(compiled.program), theirs) < 0.1
