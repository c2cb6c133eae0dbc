"""The router's logits: operands split into E4M3 terms, all products in one exact accumulator.

One E4M3 term keeps 4 significant bits. That is enough for experts and not for a choice: 4 to 30 % of the tokens then go
to another set of experts than in float64 (`benchmarks/router.md`). So both operands are sums of *terms*, each the
E4M3 rounding of what the terms before it left over:

    r = RNE32(x / scale);  t0 = q(r);  t1 = q(r - t0);  t2 = q(r - t0 - t1)

(the differences are exact in FP32: `r` has 24 bits and each term removes its leading ones). All terms of a tensor have
the tensor's one scale, that of a single term. So every product of terms is an integer on the accumulator's grid of
2**-18, their sum is exact, and the logit is rounded once, whatever the schedule. Terms with finer scales of their own
need one accumulator and one rounding per scale and a sum in the vector unit; they gain nothing with two terms, since
E4M3 is a floating-point format: the second term's smallest step, 2**-9, is 2**-18 of the largest value, and with
two terms the error of that largest value itself, up to 1/2 of the second term's step of 1, is what dominates:
sqrt(k) * 2**-9 / sqrt(12) of k small values equals it only beyond k = 10**5. With three terms the shared scale costs a
factor of 4 in the error of a logit (1.2e-4 against 3e-5 of its spread), still 7 times less than two terms.

Products of terms i and j with i + j > `ORDER` are left out: they are below what the last kept term rounds away. Two
terms need all four (without the product of both second terms, up to 1.3 % of tokens flip instead of 0.9 %), three
terms six of nine.
"""

from functools import cache

import numpy as np

from ..rtl.spec.element_values import decode_e4m3_float
from ..sim.numerics.arithmetic import round_acc_to_fp32
from .tensors import LayerTensors, per_tensor_scale, quantize_per_tensor

_EXACT_CHUNK = 1 << 15
"""Elements of k that float64 sums exactly: in units of 2**-9, terms and sums of them are below 2**18, so that up to
three products are below 2**38."""

ORDER = 2
"""Largest sum of the numbers of two terms that are multiplied."""


def term_products(terms: int) -> list[tuple[int, int]]:
    """Pairs (term of x, term of the router) that the logits sum."""
    return [(i, j) for j in range(terms) for i in range(terms) if i + j <= ORDER]


@cache
def _e4m3_values() -> np.ndarray:
    return decode_e4m3_float(np.arange(256, dtype=np.uint8)).astype(np.float32)


def split_terms(x: np.ndarray, scale: float, terms: int) -> list[np.ndarray]:
    """E4M3 codes, uint8 of the shape of ``x`` (float32): x ~ scale * sum of the terms' values."""
    codes = [quantize_per_tensor(x, np.float32(scale))[0]]
    if terms > 1:
        rest = x / np.float32(scale)
        for _ in range(terms - 1):
            rest = rest - _e4m3_values()[codes[-1]]
            codes.append(quantize_per_tensor(rest, np.float32(1))[0])
    return codes


def input_scales(tensors: LayerTensors) -> tuple[float, float]:
    """E4M3 scales of x and the router, as the router multiplies them."""
    x, router = (float(per_tensor_scale(float(np.abs(a).max(initial=0.0)))) for a in (tensors.x, tensors.router))
    return x, router


def term_values(x: np.ndarray, scale: float, terms: int) -> list[np.ndarray]:
    """`split_terms` as the codes' values, float64."""
    return [_e4m3_values()[codes].astype(np.float64) for codes in split_terms(x, scale, terms)]


def kept_products(x: list[np.ndarray], router: list[np.ndarray], unit: float = 1.0) -> np.ndarray:
    """(rows, experts) float64: the sum of `term_products` of values, both times ``unit``."""
    total = np.zeros((len(x[0]), len(router[0])))
    for j, right in enumerate(router):
        left = sum(x[i] for i, other in term_products(len(x)) if other == j)
        total += (left * unit) @ (right * unit).T
    return total


def accumulated_logits(tensors: LayerTensors, terms: int) -> np.ndarray:
    """(rows, experts) float32: what the tile's drain makes of the router's accumulators, without the scales."""
    total = np.zeros((len(tensors.x), len(tensors.router)), np.int64)
    for start in range(0, tensors.x.shape[1], _EXACT_CHUNK):
        part = slice(start, start + _EXACT_CHUNK)
        x, router = (term_values(a[:, part], scale, terms)
                     for a, scale in zip((tensors.x, tensors.router), input_scales(tensors), strict=True))
        total += kept_products(x, router, 2.0**9).astype(np.int64)
    return round_acc_to_fp32(total, -18, 0)


def tile_logits(tensors: LayerTensors, terms: int) -> np.ndarray:
    """(rows, experts) float64: the router's logits exactly as the tile's drain rounds them, dequantized."""
    x_scale, router_scale = input_scales(tensors)
    return accumulated_logits(tensors, terms).astype(np.float64) * (x_scale * router_scale)
