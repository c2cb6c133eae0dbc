"""A random program and its times, which every drawing is of."""

from __future__ import annotations

import numpy as np
import pytest

from tilescore.rtl.spec.config import load_tile
from tilescore.sim.program import Program
from tilescore.sim.timing import Timing, time_program
from tilescore.testing.random_program import random_program


@pytest.fixture
def program(rng: np.random.Generator) -> Program:
    return random_program(load_tile("nano"), rng, 60)


@pytest.fixture
def timing(program: Program) -> Timing:
    return time_program(program)
