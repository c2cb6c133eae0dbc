"""What checkpoints call the weights of a graph.

A weight has one or several places where it may stand; the weights of one node stand in the same one, that is, their
lists of places go together. Families, and the tools that convert between them, differ most in how they name and store
experts. All layouts of ``SPLIT`` and ``STACKED`` are looked for under ``mlp`` and ``block_sparse_moe``:

- a matrix per expert and projection (Qwen3, OLMoE: ``gate_proj``, ``up_proj``, ``down_proj``; Mixtral: ``w1``, ``w3``,
  ``w2``), or gate above up in one matrix per expert;
- all experts in one tensor, as the model multiplies by it, (E, d, 2f) with (E, f, d), gate before up (Llama 4, under
  ``feed_forward``);
- all experts in one tensor: gate above up ``(E, 2f, d)`` with down ``(E, d, f)`` (Granite: ``input_linear``,
  ``output_linear``; transformers 5 in memory: ``gate_up_proj``, ``down_proj``), or a tensor per projection.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

BLOCKS = ("mlp.", "block_sparse_moe.", "feed_forward.")
ROUTER_NAMES = ("gate.weight", "router.layer.weight", "router.weight")


@dataclass(frozen=True)
class Place:
    """A tensor of a checkpoint, or the ``part``-th of ``parts`` equal parts of its rows, or ``share`` parts from that
    on; groups: of each of so many runs of its rows. ``{}`` in its name is the number of an expert; without, a weight of
    experts has them as its first axis. transposed: as it is stored, rows and columns are exchanged. interleaved: the
    parts' rows take turns, and do not lie one above the other."""

    name: str
    part: int = 0
    parts: int = 1
    share: int = 1
    groups: int = 1
    transposed: bool = False
    interleaved: bool = False
    outer: bool = False
    """Is it part of no decoder layer?"""

    def bias(self) -> Place:
        """Where the bias stands of a weight that stands here."""
        return replace(self, name=self.name.removesuffix("weight") + "bias", transposed=False)

    @property
    def split(self) -> bool:
        """Has each expert a tensor of its own?"""
        return "{}" in self.name


class ExpertLayout(NamedTuple):
    """Names of the matrices of expert ``{}``, or of all experts. ``gate`` equal to ``up``: both in one, gate first."""

    gate: str
    up: str
    down: str


SPLIT = (
    ExpertLayout("experts.{}.gate_proj.weight", "experts.{}.up_proj.weight", "experts.{}.down_proj.weight"),
    ExpertLayout("experts.{}.w1.weight", "experts.{}.w3.weight", "experts.{}.w2.weight"),
    ExpertLayout("experts.{}.gate_up_proj.weight", "experts.{}.gate_up_proj.weight", "experts.{}.down_proj.weight"),
    ExpertLayout("experts.{}.input_linear.weight", "experts.{}.input_linear.weight", "experts.{}.output_linear.weight"),
    ExpertLayout("input_linear.{}.weight", "input_linear.{}.weight", "output_linear.{}.weight"),
)
STACKED = (
    ExpertLayout("experts.gate_up_proj", "experts.gate_up_proj", "experts.down_proj"),
    ExpertLayout("experts.gate_up_proj.weight", "experts.gate_up_proj.weight", "experts.down_proj.weight"),
    ExpertLayout("input_linear.weight", "input_linear.weight", "output_linear.weight"),
    ExpertLayout("experts.gate_proj.weight", "experts.up_proj.weight", "experts.down_proj.weight"),
    ExpertLayout("switch_mlp.gate_proj.weight", "switch_mlp.up_proj.weight", "switch_mlp.down_proj.weight"),
)


def module(name: str, part: str = "weight") -> tuple[Place, ...]:
    """The weight, or another part, of a module that all families name alike."""
    return (Place(f"{name}.{part}"),)


def outer_module(*names: str) -> tuple[Place, ...]:
    """The weight of a module beside the decoder layers, which has one of these names."""
    return tuple(Place(f"{name}.weight", outer=True) for name in names)


def projection(name: str, heads: int, kv_heads: int) -> tuple[Place, ...]:
    """Of q, k or v: a tensor of its own, a part of one that has q, k and v one above the other (Phi-3), or, with the
    queries of each head of keys, its keys and its values in turn (InternLM2)."""
    group, whole = heads // kv_heads, heads + 2 * kv_heads
    first, share = {"q": (0, heads), "k": (heads, kv_heads), "v": (heads + kv_heads, kv_heads)}[name]
    inner, of_group = {"q": (0, group), "k": (group, 1), "v": (group + 1, 1)}[name]
    return (Place(f"self_attn.{name}_proj.weight"), Place("self_attn.qkv_proj.weight", first, whole, share),
            Place("attention.wqkv.weight", inner, group + 2, of_group, kv_heads))


OUTPUT = (Place("self_attn.o_proj.weight"), Place("attention.wo.weight"))


_PRE = {"input_norm": module("input_layernorm") + module("attention_norm"),
        "post_norm": module("post_attention_layernorm") + module("ffn_norm")}
_POST = {"attention_norm": module("post_attention_layernorm"),
         "feed_forward_norm": module("post_feedforward_layernorm")}
_SANDWICH = {
    "input_norm": module("input_layernorm"),
    "attention_norm": module("post_self_attn_layernorm") + module("post_attention_layernorm"),
    "post_norm": module("pre_feedforward_layernorm") + module("post_attention_layernorm"),
    "feed_forward_norm": module("post_feedforward_layernorm") + module("post_mlp_layernorm"),
}
BLOCK_NORMS = {"pre": _PRE, "post": _POST, "sandwich": _SANDWICH, "parallel": {"input_norm": _PRE["input_norm"]}}
"""The norms of a decoder layer by its block: before and behind attention (``input_norm``, ``attention_norm``), before
and behind the feed-forward layer (``post_norm``, ``feed_forward_norm``). GLM-4 says ``post_attention_layernorm`` of the
one before the feed-forward layer, Gemma of the one behind attention."""

_GPT = {"up": "mlp.c_fc.weight", "down": "mlp.c_proj.weight"}
_FUSED = {"gate": Place("mlp.gate_up_proj.weight", 0, 2), "up": Place("mlp.gate_up_proj.weight", 1, 2),
          "down": Place("mlp.down_proj.weight")}
MLP = {name: (Place(f"mlp.{name}_proj.weight"), _FUSED[name], Place(_GPT.get(name, f"mlp.{name}_proj.weight")),
              Place(f"feed_forward.{name}_proj.weight"), Place(f"feed_forward.{short}.weight"))
       for name, short in (("gate", "w1"), ("up", "w3"), ("down", "w2"))}
ROUTER = tuple(Place(block + name) for block in BLOCKS for name in ROUTER_NAMES)
ROUTER_BIAS = tuple(Place(block + name.replace("weight", "bias")) for block in BLOCKS for name in ROUTER_NAMES)
CORRECTION = tuple(Place(block + name) for block in BLOCKS
                   for name in ("gate.e_score_correction_bias", "e_score_correction_bias"))
SHARED_GATE = tuple(Place(f"{block}shared_expert_gate.weight") for block in BLOCKS)
_SHARED_BLOCKS = ("mlp.shared_experts.", "mlp.shared_expert.", "feed_forward.shared_expert.")
SHARED = {f"shared_{name}": (*(Place(f"{block}{name}_proj.weight") for block in _SHARED_BLOCKS), merged)
    for name, merged in (("gate", Place("shared_mlp.input_linear.weight", 0, 2)),
                         ("up", Place("shared_mlp.input_linear.weight", 1, 2)),
                         ("down", Place("shared_mlp.output_linear.weight")))}


def _gate_up_down(layout: ExpertLayout, block: str, **how: bool) -> tuple[Place, Place, Place]:
    gate, up, down = (block + name for name in layout)
    parts, down_place = 2 if gate == up else 1, Place(down, transposed=how.get("transposed", False))
    return Place(gate, 0, parts, **how), Place(up, parts - 1, parts, **how), down_place


_LAYOUTS = [_gate_up_down(layout, block) for block in BLOCKS for layout in (*SPLIT, *STACKED)]
_LAYOUTS += [_gate_up_down(STACKED[0], "feed_forward.", transposed=True)]
EXPERTS = dict(zip(ExpertLayout._fields, zip(*_LAYOUTS, strict=True), strict=True))
"""Of gate, up and down."""

GPT_OSS = {"gate": (Place("mlp.experts.gate_up_proj", 0, 2, transposed=True, interleaved=True),),
           "up": (Place("mlp.experts.gate_up_proj", 1, 2, transposed=True, interleaved=True),),
           "down": (Place("mlp.experts.down_proj", transposed=True),)}
"""Of experts with biases: all in one tensor, as the model multiplies by it, gate and up in turn."""
GPT_OSS_BIASES = {name: tuple(replace(place, name=f"{place.name}_bias", transposed=False) for place in places)
                  for name, places in GPT_OSS.items()}
