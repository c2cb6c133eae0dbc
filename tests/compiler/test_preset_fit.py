"""What `tilescore models` says compiles, compiles, and what it says does not is refused for the reason it gives."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tilescore.compiler.compile import compile_layer
from tilescore.compiler.layers import AttentionLayer, Layer, Workload
from tilescore.compiler.models import attention_layer, list_models, load_model, moe_layer
from tilescore.compiler.numerics import DEFAULT
from tilescore.compiler.preset_fit import preset_exceptions
from tilescore.rtl.spec.config import PRESETS, load_tile
from tilescore.rtl.spec.errors import DoesNotFit, WorkloadError


def built_layers() -> dict[str, Layer]:
    found: dict[str, Layer] = {}
    for name in list_models():
        for make in (attention_layer, moe_layer):
            try:
                layer = make(load_model(name))
            except WorkloadError:
                continue
            found[f"{name}-{layer.kind}"] = layer
    return found


exceptions = functools.cache(preset_exceptions)


def every_row() -> Iterator[Any]:
    """Layer and preset; slow where the program is the longest: up to a million instructions on nano."""
    for name, layer in built_layers().items():
        for preset in PRESETS:
            slow = preset == "nano" or name == "qwen3-235b-a22b-moe"
            yield pytest.param(layer, preset, id=f"{name}-{preset}", marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize("layer, preset", list(every_row()))
def test_every_built_row_is_true(layer: Layer, preset: str) -> None:
    """A layer without an exception compiles; another is refused with the words of the exception."""
    reason = exceptions(layer).get(preset)
    if reason is None:
        assert compile_layer(Workload(layer=layer, tokens=16), load_tile(preset), data=False,
                             routing="balanced" if layer.kind == "moe" else None).program.instructions
        return
    with pytest.raises(DoesNotFit, match=re.escape(reason)):
        compile_layer(Workload(layer=layer, tokens=2 * DEFAULT.softmax_block), load_tile(preset), data=False,
                      routing="balanced" if layer.kind == "moe" else None)


def test_a_preset_without_room_is_named() -> None:
    layer = AttentionLayer(hidden=48, heads=2, kv_heads=1, head_dim=512)
    found = preset_exceptions(layer)
    assert list(found) == ["nano"] and "no tiling of" in found["nano"] and "fits tile nano" in found["nano"]
