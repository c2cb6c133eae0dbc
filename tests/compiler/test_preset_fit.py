"""What `tilescore models` says compiles, compiles, and what it says does not is refused for the reason it gives."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tilescore.compiler.compile import compile_layer
from tilescore.compiler.feed_forward import MoELayer
from tilescore.compiler.layer_readers import LAYERS
from tilescore.compiler.layers import AttentionLayer, DecoderLayer, Layer, Workload
from tilescore.compiler.numerics import DEFAULT
from tilescore.compiler.preset_fit import preset_exceptions
from tilescore.rtl.spec.config import PRESETS, load_tile
from tilescore.rtl.spec.errors import DoesNotFit
from tilescore.tests.compiler.play import bundled_layers

NANO_HIDDEN = 2048
"""Wider decoders, heads and feed-forward layers take tens of millions of cycles on `nano`, and as long to compile."""

exceptions = functools.cache(preset_exceptions)


def every_row() -> Iterator[Any]:
    """Layer and preset; slow but for small layers: up to a million instructions on nano."""
    for layer in bundled_layers(*LAYERS):
        for preset in PRESETS:
            big = layer.kind in ("mlp", "decoder", "head") or (isinstance(layer, MoELayer) and layer.weights > 5e9)
            if big and preset == "nano" and layer.hidden > NANO_HIDDEN:
                continue
            small = layer.kind in ("norm", "embedding") or (
                not big and preset != "nano" and layer.hidden <= NANO_HIDDEN)
            yield pytest.param(layer, preset, id=f"{layer.model}-{layer.kind}-{preset}",
                               marks=[] if small else [pytest.mark.sampled])


def routed(layer: Layer) -> bool:
    return layer.kind == "moe" or (isinstance(layer, DecoderLayer) and layer.feed_forward.kind == "moe")


@pytest.mark.parametrize("layer, preset", list(every_row()))
def test_every_built_row_is_true(layer: Layer, preset: str) -> None:
    """A layer without an exception compiles; another is refused with the words of the exception."""
    reason = exceptions(layer).get(preset)
    if reason is None:
        assert compile_layer(Workload(layer=layer, tokens=16), load_tile(preset), data=False,
                             routing="balanced" if routed(layer) else None).program.instructions
        return
    with pytest.raises(DoesNotFit, match=re.escape(reason)):
        compile_layer(Workload(layer=layer, tokens=2 * DEFAULT.softmax_block), load_tile(preset), data=False,
                      routing="balanced" if routed(layer) else None)


def test_a_preset_without_room_is_named() -> None:
    layer = AttentionLayer(hidden=48, heads=2, kv_heads=1, head_dim=512)
    found = preset_exceptions(layer)
    assert list(found) == ["nano"] and "no tiling of" in found["nano"] and "fits tile nano" in found["nano"]
