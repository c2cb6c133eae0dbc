"""Rotary frequencies of an attention layer, plain or scaled (`rotary` has the kinds and their sources)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .rotary import BETA_FAST, BETA_SLOW, RopeScaling


def frequencies(theta: float, head_dim: int, length: int, scaling: RopeScaling | None = None) -> np.ndarray:
    """``(head_dim / 2,)`` float64: radians per position of each pair, for sequences of ``length`` tokens."""
    exponents = np.arange(0, head_dim, 2) / head_dim
    plain = theta ** -exponents
    if scaling is None:
        return plain
    given = scaling.given()
    if scaling.kind == "linear":
        return plain / given["factor"]
    if scaling.kind == "dynamic":
        trained, factor = given["max_position_embeddings"], given["factor"]
        stretch = factor * max(length, trained) / trained - (factor - 1)
        return (theta * stretch ** (head_dim / (head_dim - 2))) ** -exponents
    if scaling.kind == "longrope":
        long = length > given["original_max_position_embeddings"]
        return plain / np.asarray(given["long_factor" if long else "short_factor"], np.float64)
    if scaling.kind == "llama3":
        return _llama3(plain, given)
    return _yarn(plain, theta, head_dim, given)


def _llama3(plain: np.ndarray, given: dict[str, Any]) -> np.ndarray:
    """Wavelengths above original / low are divided by the factor, below original / high kept, between blended."""
    rotations = given["original_max_position_embeddings"] * plain / (2 * math.pi)
    low, high = given["low_freq_factor"], given["high_freq_factor"]
    kept = np.clip((rotations - low) / (high - low), 0, 1) if high > low else (rotations >= low).astype(np.float64)
    return plain * (kept + (1 - kept) / given["factor"])


def _yarn(plain: np.ndarray, theta: float, head_dim: int, given: dict[str, Any]) -> np.ndarray:
    """Pairs below ``low`` are kept, above ``high`` divided by the factor, blended linearly in between."""
    def pair_with(rotations: float) -> float:
        turns = given["original_max_position_embeddings"] / (rotations * 2 * math.pi)
        return head_dim * math.log(turns) / (2 * math.log(theta))

    low, high = pair_with(given.get("beta_fast", BETA_FAST)), pair_with(given.get("beta_slow", BETA_SLOW))
    if given.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001  # as transformers: a step, not a division by zero
    divided = np.clip((np.arange(head_dim // 2) - low) / (high - low), 0, 1)
    return plain * (1 - divided + divided / given["factor"])
