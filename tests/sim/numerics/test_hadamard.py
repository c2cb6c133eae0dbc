"""The block Hadamard rotation."""

import numpy as np
import pytest

from tilescore.sim.numerics.hadamard import hadamard_matrix, rotate


@pytest.mark.parametrize("size", [0, 3, 12])
def test_size_is_a_power_of_two(size):
    with pytest.raises(ValueError, match=f"power of two, got {size}"):
        hadamard_matrix(size)


def test_wrong_arguments():
    with pytest.raises(TypeError, match="float64"):
        rotate(np.ones((2, 32)), 16)
    with pytest.raises(ValueError, match="multiple of the block size 16, got 24"):
        rotate(np.ones((2, 24), np.float32), 16)


@pytest.mark.parametrize("size", [1, 2, 16, 32, 128])
def test_the_matrix_is_symmetric_and_orthogonal(size):
    matrix = hadamard_matrix(size).astype(np.float64)
    np.testing.assert_array_equal(matrix, matrix.T)
    np.testing.assert_allclose(matrix @ matrix, np.eye(size), atol=1e-6)


def test_rotating_both_operands_keeps_the_product(rng):
    a, b = rng.standard_normal((5, 128), np.float32), rng.standard_normal((7, 128), np.float32)
    rotated = rotate(a, 32).astype(np.float64) @ rotate(b, 32).T
    np.testing.assert_allclose(rotated, a.astype(np.float64) @ b.T, atol=1e-4)


def test_an_outlier_is_spread_over_its_block():
    x = np.zeros((1, 64), np.float32)
    x[0, 5] = 8.0
    spread = rotate(x, 16)
    np.testing.assert_array_equal(np.abs(spread), np.repeat([2.0, 0.0], [16, 48])[None])
