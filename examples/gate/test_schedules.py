"""Performance as a unit test: these layers may not become slower, by one cycle.

`tilescore_gate` comes with tilescore's pytest plug-in; there is nothing to import or configure. The baselines lie in
`tilescore_baselines/` beside this file; `pytest --tilescore-update` renews them, and review shows how they changed.
"""

from pathlib import Path

from tilescore import (
    AttentionLayer,
    CompiledLayer,
    MoELayer,
    Numerics,
    Workload,
    compile_layer,
    load_schedule,
    load_tile,
)

TILE = load_tile("nano")
HERE = Path(__file__).parent


def attention() -> CompiledLayer:
    """An attention layer with the schedule in `attention.toml`, if there is one, else the compiler's own."""
    layer = AttentionLayer(model="example", hidden=64, heads=4, kv_heads=2, head_dim=16)
    file = HERE / "attention.toml"
    return compile_layer(Workload(layer=layer, tokens=24), TILE, data=False, numerics=Numerics(softmax_block=16),
                         schedule=load_schedule(file) if file.exists() else None)


def test_attention_is_as_fast_as_it_was(tilescore_gate) -> None:
    tilescore_gate("attention", attention())


def test_experts_are_as_fast_as_they_were(tilescore_gate) -> None:
    layer = MoELayer(model="example", hidden=64, experts=4, top_k=2, intermediate=32, norm_topk=True)
    compiled = compile_layer(Workload(layer=layer, tokens=24), TILE, data=False)
    tilescore_gate("experts", compiled, limits="cycles:0%,energy:2%")
