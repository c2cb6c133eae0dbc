"""Scaled rotary frequencies: by hand where the numbers are round, and against ``transformers`` for every kind."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tilescore.compiler.layers import AttentionLayer
from tilescore.compiler.rotary import KINDS, RopeScaling
from tilescore.compiler.rotary_frequencies import frequencies
from tilescore.rtl.spec.errors import WorkloadError

LLAMA3 = {"kind": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}
YARN = {"kind": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
LONGROPE = {"kind": "longrope", "factor": 32.0, "original_max_position_embeddings": 4096,
            "short_factor": tuple(1 + i / 16 for i in range(32)), "long_factor": tuple(2.0 + i for i in range(32))}
DYNAMIC = {"kind": "dynamic", "factor": 2.0, "max_position_embeddings": 2048}
LINEAR = {"kind": "linear", "factor": 4.0}
HEAD_DIM, THETA = 64, 1e6

EXAMPLES: dict[str, tuple[dict[str, Any], int]] = {
    "linear": (LINEAR, 100),
    "dynamic within the context": (DYNAMIC, 2048),
    "dynamic beyond it": (DYNAMIC, 5001),
    "dynamic of another factor": (DYNAMIC | {"factor": 7.5, "max_position_embeddings": 64}, 65),
    "llama 3.1": (LLAMA3, 100),
    "llama 3.2": (LLAMA3 | {"factor": 32.0}, 100),
    "llama3 without a blend": (LLAMA3 | {"high_freq_factor": 1.0}, 9000),
    "llama3 with other bounds": (LLAMA3 | {"low_freq_factor": 2, "high_freq_factor": 32}, 9000),
    "yarn": (YARN, 100),
    "yarn not truncated": (YARN | {"truncate": False}, 100),
    "yarn with betas": (YARN | {"beta_fast": 20, "beta_slow": 0.5}, 100),
    "yarn with attention factor": (YARN | {"attention_factor": 0.75}, 100),
    "yarn with mscale": (YARN | {"mscale": 1.0, "mscale_all_dim": 0.5}, 100),
    "yarn with mscale alone": (YARN | {"mscale": 0.7}, 100),
    "yarn with mscale_all_dim 0": (YARN | {"mscale": 0.7, "mscale_all_dim": 0}, 100),
    "yarn that does not stretch": (YARN | {"factor": 1.0}, 100),
    "yarn of a short context": (YARN | {"original_max_position_embeddings": 8}, 100),
    "longrope short": (LONGROPE, 4096),
    "longrope long": (LONGROPE, 4097),
    "longrope with attention factor": (LONGROPE | {"attention_factor": 1.5}, 10),
    "longrope that does not stretch": (LONGROPE | {"factor": 0.5}, 10),
}


def make(values: dict[str, Any]) -> RopeScaling:
    return RopeScaling(**values)


# ---- values ----


def test_plain_frequencies() -> None:
    assert frequencies(1e4, 4, 1) == pytest.approx([1, 0.01])


def test_linear_divides_every_frequency() -> None:
    assert frequencies(1e4, 4, 1, make(LINEAR)) == pytest.approx([0.25, 0.0025])


def test_dynamic_stretches_the_base_with_the_length() -> None:
    """At twice the context and factor 2 the base grows by 2 * 2 - 1 = 3, to the power 4 / (4 - 2)."""
    scaling = make(DYNAMIC)
    assert frequencies(1e4, 4, 2048, scaling) == pytest.approx([1, 0.01])
    assert frequencies(1e4, 4, 4096, scaling) == pytest.approx([1, 0.01 / 3])
    assert frequencies(1e4, 4, 1, scaling) == pytest.approx([1, 0.01])


def test_llama3_keeps_the_fast_and_divides_the_slow() -> None:
    """8192 tokens hold 8192 / 2 pi = 1304 turns at frequency 1 and 8192 * 1e-4 / 2 pi = 0.13 at 1e-4."""
    found = frequencies(1e8, 4, 1, make(LLAMA3))
    assert found == pytest.approx([1, 1e-4 / 8])


def test_longrope_chooses_by_the_length() -> None:
    scaling = make(LONGROPE | {"short_factor": [1, 2], "long_factor": [4, 5]})
    assert frequencies(1e4, 4, 4096, scaling) == pytest.approx([1, 0.005])
    assert frequencies(1e4, 4, 4097, scaling) == pytest.approx([1 / 4, 0.002])
    assert scaling.attention_scaling == pytest.approx(math.sqrt(1 + 5 / 12))  # log 32 / log 4096 = 5 / 12


def test_yarn_scales_the_tables() -> None:
    assert make(YARN | {"factor": math.e}).attention_scaling == pytest.approx(1.1)
    assert make(LLAMA3).attention_scaling == 1
    layer = AttentionLayer(hidden=8, heads=1, kv_heads=1, head_dim=64, rope_scaling=make(YARN))
    assert layer.rope_scaling is not None
    assert layer.rope_scaling.attention_scaling == pytest.approx(0.1 * math.log(4) + 1)


def test_cut_keeps_the_first_features() -> None:
    scaling = make(LONGROPE).cut(16)
    assert scaling.long_factor == LONGROPE["long_factor"][:8]
    AttentionLayer(hidden=8, heads=1, kv_heads=1, head_dim=16, rope_scaling=scaling)
    assert make(YARN).cut(16) == make(YARN)


# ---- refusals ----

WRONG: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"kind": "ntk"}, ("expected one of linear, dynamic, yarn, longrope, llama3", "'ntk'")),
    ({"kind": "linear"}, ("factor: missing",)),
    (LINEAR | {"factor": 0}, ("factor: expected a positive finite number", "0")),
    (LINEAR | {"factor": "4"}, ("factor", "'4'")),
    (LINEAR | {"factor": True}, ("factor", "True")),
    (LINEAR | {"beta_fast": 1.0}, ("beta_fast: not a field of linear scaling", "allowed: factor")),
    (DYNAMIC | {"max_position_embeddings": 2048.0}, ("max_position_embeddings: expected an integer",)),
    (YARN | {"original_max_position_embeddings": 1}, ("original_max_position_embeddings", "above 1")),
    (YARN | {"truncate": 1}, ("truncate: expected true or false",)),
    (YARN | {"beta_fast": 0.5}, ("beta_fast: expected at least beta_slow = 1",)),
    (YARN | {"attention_factor": -1.0}, ("attention_factor", "-1")),
    (LLAMA3 | {"high_freq_factor": 0.5}, ("high_freq_factor: expected at least low_freq_factor = 1",)),
    (LONGROPE | {"short_factor": [1, "2"]}, ("short_factor: expected a list of positive",)),
    (LONGROPE | {"long_factor": 3}, ("long_factor: expected a list of positive",)),
    ({"kind": "llama3", "factor": -1}, ("low_freq_factor: missing", "high_freq_factor: missing", "factor: expected")),
]


@pytest.mark.parametrize(("values", "texts"), WRONG, ids=lambda value: str(value)[:60])
def test_wrong_scaling(values: dict[str, Any], texts: tuple[str, ...]) -> None:
    with pytest.raises(WorkloadError) as error:
        make(values)
    assert all(text in str(error.value) for text in texts) and "\n" not in str(error.value)


@pytest.mark.parametrize(("layer", "text"), [
    ({"rope_scaling": make(LONGROPE), "head_dim": 62}, "short_factor: expected head_dim / 2 = 31 numbers, got 32"),
    ({"rope_scaling": make(DYNAMIC), "head_dim": 2}, "dynamic scaling needs more than 2, got 2"),
    ({"rope_scaling": make(YARN), "rope_theta": 1.0}, "rope_theta: yarn scaling needs more than 1, got 1"),
    ({"rope_scaling": {"kind": "yarn"}}, "rope_scaling: expected a RopeScaling or None"),
])  # fmt: skip
def test_scaling_that_does_not_fit_the_layer(layer: dict[str, Any], text: str) -> None:
    with pytest.raises(WorkloadError, match="attention layer of custom") as error:
        AttentionLayer(**{"hidden": 8, "heads": 1, "kv_heads": 1, "head_dim": 16} | layer)
    assert text in str(error.value)


# ---- transformers ----


def test_every_kind_has_an_example() -> None:
    assert {values["kind"] for values, _ in EXAMPLES.values()} == set(KINDS)


@pytest.mark.parametrize("example", EXAMPLES)
def test_frequencies_equal_transformers(example: str) -> None:
    """Its float32 chain of a power, divisions and blends loses a few times 2**-24."""
    pytest.importorskip("torch", reason="needs the oracle extra (torch, transformers)")
    rope = pytest.importorskip("transformers.modeling_rope_utils", reason="needs the oracle extra")
    from transformers import LlamaConfig

    values, length = EXAMPLES[example]
    parameters = {"rope_type": values["kind"], "rope_theta": THETA} | {
        key: list(value) if isinstance(value, tuple) else value for key, value in values.items() if key != "kind"}
    trained = parameters.pop("max_position_embeddings", 1 << 17)
    config = LlamaConfig(hidden_size=4 * HEAD_DIM, num_attention_heads=4, head_dim=HEAD_DIM,
                         max_position_embeddings=trained, rope_parameters=parameters)
    theirs, scale = rope.ROPE_INIT_FUNCTIONS[values["kind"]](config, device="cpu", seq_len=length)
    scaling = make(values)
    assert np.allclose(frequencies(THETA, HEAD_DIM, length, scaling), theirs.double().numpy(), rtol=1e-6, atol=0)
    assert scaling.attention_scaling == pytest.approx(scale, rel=1e-12)
