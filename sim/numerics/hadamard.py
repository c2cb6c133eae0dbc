"""Block Hadamard rotation of tensors, an option of the reference path: it spreads outliers over a block.

Rotating both operands of a matmul along k with the same blocks leaves the product as it is, but for rounding, because
the normalised Hadamard matrix is orthogonal (and symmetric: a second rotation undoes the first). Published results:
it helps MXFP4 and does not help NVFP4 (arXiv 2509.23202), and rotations larger than the block hurt MXFP4
(arXiv 2511.04214). The tile has no hardware for it.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray


@cache
def hadamard_matrix(size: int) -> NDArray[np.float32]:
    """(size, size) float32, Sylvester's order, times size**-0.5. Raises ValueError unless size is a power of two."""
    if size < 1 or size & (size - 1):
        raise ValueError(f"size must be a power of two, got {size}")
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return (matrix * size**-0.5).astype(np.float32)


def rotate(x: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """x (..., k) with every block of ``size`` elements along k rotated. Raises ValueError unless size divides k."""
    if x.dtype != np.float32:
        raise TypeError(f"expected an array of float32, not {x.dtype}")
    matrix = hadamard_matrix(size)
    if x.shape[-1] % size:
        raise ValueError(f"k must be a multiple of the block size {size}, got {x.shape[-1]}")
    return (x.reshape(-1, size) @ matrix).reshape(x.shape)
