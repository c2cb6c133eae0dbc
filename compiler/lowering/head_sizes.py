"""Heads: how many columns and elements each takes on a tile and in DRAM.

q and k are rotated in pairs of features, i and i + head_dim/2, which the vector unit finds in two ways: in different
column tiles at the same lane, or in one tile with x's halves swapped. A head of any other size is computed with zeros
behind each half: rows of zeros in the weights make them, and they change neither scores nor norms. They are not stored:
q, the key cache and the value cache hold ``head_dim`` features per head.

Where other pairs are rotated (neighbours, or a part of the head), rows of the weights are put into an order in which
the two features of a pair are half a head apart. Scores do not depend on an order that q and k share; q and the key
cache hold it.
"""

import numpy as np

from ...rtl.spec.config import TileConfig
from ..formats import LayerFormat
from ..graph.ops.rotary import Rotary
from ..tiles.buffers import align


def rotated_head(head_dim: int, config: TileConfig, *, alone: bool) -> int:
    """Columns of one head of q or k in the result of its projection, ``head_dim`` or more.

    A power of two, so that heads share a column tile, or two halves of whole column tiles and whole groups of lanes.
    ``alone``: no two heads share a tile, as a norm needs, because a VECTOR sums whole ones.
    """
    cols, lanes = config.cols, config.lanes
    width = 1 << (head_dim - 1).bit_length()
    if alone:
        width = max(width, cols)
    return width if lanes <= cols and width <= cols else 2 * align(head_dim // 2, max(cols, lanes))


def head_order(rotary: Rotary | None, head_dim: int) -> np.ndarray:
    """(head_dim,): features in the order in which they lie on the tile, those of a pair half a head apart."""
    return np.arange(head_dim) if rotary is None else np.concatenate(rotary.pairs(head_dim))


def spread_heads(rows: np.ndarray, order: np.ndarray, width: int) -> np.ndarray:
    """(heads * head_dim, n) as (heads * width, n): each head in ``order``, with zeros behind each of its halves."""
    head_dim = len(order)
    heads, half = len(rows) // head_dim, head_dim // 2
    halves = rows.reshape(heads, head_dim, rows.shape[1])[:, order].reshape(heads, 2, half, rows.shape[1])
    return np.pad(halves, ((0, 0), (0, 0), (0, width // 2 - half), (0, 0))).reshape(heads * width, rows.shape[1])


def blocked_head(head_dim: int, formats: LayerFormat) -> int:
    """``head_dim`` in whole blocks of the activations and weights: no block holds values of two heads."""
    return align(head_dim, max(formats.activations.block, formats.weights.block, 1))


def mixed_head(head_dim: int, bus_bytes: int, formats: LayerFormat) -> int:
    """Elements from one head to the next in a row of ``mixed``, the core's output.

    Heads are stored one by one: codes and block scales of each are whole bus beats, or a power of two of them fills
    one. Codes of one scale per tensor start on beats. No narrower bus needs more elements.
    """
    x = formats.activations
    pitch = blocked_head(head_dim, formats)
    if not x.scaled:
        return align(pitch, bus_bytes)
    while any(size % bus_bytes and bus_bytes % size for size in (x.bytes_of(pitch), x.scale_bytes_of(pitch))):
        pitch += max(x.block, formats.weights.block)
    return pitch
