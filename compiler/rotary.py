"""Scaling of rotary frequencies for contexts longer than the model was trained on: kinds, fields and their limits.

A rotary embedding turns pair i of a head at position p by ``p * frequency[i]``. The plain frequencies are
``theta ** (-2i / head_dim)``; each kind of scaling changes them, and two kinds also multiply the cosines and
sines (``attention_factor``, so that q.k grows by its square). The kinds and their formulas are those of
``transformers.modeling_rope_utils``:

==========  ==================================================================================================
linear      every frequency divided by ``factor`` (kaiokendev)
dynamic     a larger base for sequences longer than ``max_position_embeddings`` (NTK-aware, bloc97)
yarn        divided by ``factor`` below a ramp between two frequencies (arXiv 2309.00071), scaled tables
longrope    divided pair by pair by ``short_factor`` or ``long_factor`` (arXiv 2402.13753), scaled tables
llama3      divided by ``factor`` for long wavelengths only (Llama 3.1)
==========  ==================================================================================================

Two kinds depend on the length of the sequence. The length is that of the workload, context + tokens, for every
row: ``transformers`` takes the largest position of the forward pass plus one. It remembers the longest sequence
seen in dynamic scaling; a workload is one pass and has no past, and its cached keys are taken as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from ..rtl.spec.errors import WorkloadError

REQUIRED = {
    "linear": ("factor",),
    "dynamic": ("factor", "max_position_embeddings"),
    "yarn": ("factor", "original_max_position_embeddings"),
    "longrope": ("factor", "original_max_position_embeddings", "short_factor", "long_factor"),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
}
OPTIONAL = {
    "yarn": ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    "longrope": ("attention_factor",),
}
KINDS = tuple(REQUIRED)

BETA_FAST, BETA_SLOW = 32.0, 1.0
"""Rotations over the original context at which yarn's ramp starts and ends, unless given (the paper's values)."""

MAX_NUMBER = 1e30
"""Numbers beyond are treated as not finite; an integer of any length can stand in a file."""

_LENGTHS = ("max_position_embeddings", "original_max_position_embeddings")
_LISTS = ("short_factor", "long_factor")
_FROM_ZERO = ("mscale", "mscale_all_dim")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -MAX_NUMBER <= value <= MAX_NUMBER


def _problem(name: str, value: Any) -> str | None:
    """What is wrong with one field, or None."""
    if name in _LENGTHS:
        good, wanted = type(value) is int and value > 1, "an integer above 1"
    elif name in _LISTS:
        good = isinstance(value, list | tuple) and len(value) > 0 and all(_is_number(v) and v > 0 for v in value)
        wanted = "a list of positive finite numbers"
    elif name == "truncate":
        good, wanted = isinstance(value, bool), "true or false"
    elif name in _FROM_ZERO:
        good, wanted = _is_number(value) and value >= 0, "a finite number from 0"
    else:
        good, wanted = _is_number(value) and value > 0, "a positive finite number"
    return None if good else f"{name}: expected {wanted}, got {repr(value)[:60]}"


def scaling_problems(kind: str, values: Mapping[str, Any], head_dim: int | None = None,
                     theta: float | None = None) -> list[str]:
    """Everything wrong with the fields of a `RopeScaling` of ``kind``, each as "field: expected ..., got ...".

    ``values`` without its None entries; with ``head_dim`` and ``theta`` also what does not fit the layer.
    """
    allowed = REQUIRED[kind] + OPTIONAL.get(kind, ())
    problems = [f"{name}: missing, {kind} scaling needs it" for name in REQUIRED[kind] if name not in values]
    problems += [f"{name}: not a field of {kind} scaling (allowed: {', '.join(allowed)})"
                 for name in values if name not in allowed]
    problems += [found for name in values if name in allowed and (found := _problem(name, values[name]))]
    if problems:
        return problems
    low = values.get("low_freq_factor")
    if "high_freq_factor" in allowed and values["high_freq_factor"] < low:
        problems.append(f"high_freq_factor: expected at least low_freq_factor = {low}, got "
                        f"{values['high_freq_factor']}")
    slow, fast = values.get("beta_slow", BETA_SLOW), values.get("beta_fast", BETA_FAST)
    if "beta_fast" in allowed and fast < slow:
        problems.append(f"beta_fast: expected at least beta_slow = {slow}, got {fast}")
    if head_dim is not None:
        problems += [f"{name}: expected head_dim / 2 = {head_dim // 2} numbers, got {len(values[name])}"
                     for name in _LISTS if name in values and len(values[name]) != head_dim // 2]
        if kind == "dynamic" and head_dim <= 2:
            problems.append(f"head_dim: dynamic scaling needs more than 2, got {head_dim}")
    if kind == "yarn" and theta is not None and theta <= 1:
        problems.append(f"rope_theta: yarn scaling needs more than 1, got {theta:g}")
    return problems


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """One kind of scaling and its fields, by the names of Hugging Face configurations; None: not given.

    Lengths are tokens. Raises WorkloadError naming the field when one is missing, wrong, or of another kind.
    """

    kind: str
    factor: float | None = None
    max_position_embeddings: int | None = None
    original_max_position_embeddings: int | None = None
    attention_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool | None = None
    short_factor: tuple[float, ...] | None = None
    long_factor: tuple[float, ...] | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise WorkloadError(f"rope scaling: kind: expected one of {', '.join(KINDS)}, got {self.kind!r}")
        if problems := scaling_problems(self.kind, self.given()):
            raise WorkloadError(f"rope scaling: {'; '.join(problems)}")
        for name in _LISTS:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))

    def given(self) -> dict[str, Any]:
        """The fields that are not None, without the kind."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if name != "kind" and value is not None}

    def layer_problems(self, head_dim: int, theta: float) -> list[str]:
        """What does not fit a layer of this head_dim and rotary base."""
        return scaling_problems(self.kind, self.given(), head_dim, theta)

    def cut(self, head_dim: int) -> RopeScaling:
        """The same scaling for a head of its first ``head_dim`` features."""
        if self.kind != "longrope" or self.short_factor is None or self.long_factor is None:
            return self
        half = head_dim // 2
        return replace(self, short_factor=self.short_factor[:half], long_factor=self.long_factor[:half])

    @property
    def attention_scaling(self) -> float:
        """The factor on cosines and sines."""
        if self.kind not in OPTIONAL:
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        factor = self.factor or 1.0
        if factor <= 1:
            return 1.0
        if self.kind == "longrope":
            return math.sqrt(1 + math.log(factor) / math.log(self.original_max_position_embeddings or math.e))
        gain = 0.1 * math.log(factor)
        if self.mscale and self.mscale_all_dim:
            return (gain * self.mscale + 1) / (gain * self.mscale_all_dim + 1)
        return gain + 1
