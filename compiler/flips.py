"""Tokens that the tile's router sends to other experts than float64 logits would, and what that costs.

A *flip* is a token whose set of experts differs; the order of the set does not count, nor do the weights. Flips are a
choice between near ties, not a rounding of the result, so errors are reported without them (the float64 layer with the
tile's choice) and with them (the float64 layer with its own).
"""

import numpy as np

from .graph.evaluate import float64_layer
from .layers import Workload
from .tensors import LayerTensors


def float64_logits(tensors: LayerTensors) -> np.ndarray:
    """The router's logits, ``(rows, experts)`` float64."""
    return tensors.x.astype(np.float64) @ tensors.router.astype(np.float64).T


def flipped_tokens(own: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """(rows,) bool: where two choices (rows, k) are different sets."""
    return (np.sort(own, axis=1) != np.sort(chosen, axis=1)).any(axis=1)


def margins(logits: np.ndarray, top_k: int) -> np.ndarray:
    """(rows,) float64: the last chosen logit less the first that is not chosen; infinite if all are chosen."""
    if top_k == logits.shape[1]:
        return np.full(len(logits), np.inf)
    ordered = -np.sort(-logits, axis=1)
    return ordered[:, top_k - 1] - ordered[:, top_k]


def float64_routed(tensors: LayerTensors, out: np.ndarray, flipped: np.ndarray) -> np.ndarray:
    """The float64 layer with its own routing, (rows, hidden); ``out`` is the layer with the tile's, ``flipped`` the
    tokens in which they differ. Only those are computed."""
    if not flipped.any():
        return out
    few = Workload(layer=tensors.workload.layer, tokens=int(flipped.sum()))
    routed = out.copy()
    routed[flipped] = float64_layer(tensors.replace(few, x=tensors.x[flipped])).out
    return routed
