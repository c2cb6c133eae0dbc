"""Layers computed by the tile: each compiled, its program played at the reference level, and timed.

A program's bits are those of the hardware, and the same on every tile and with every schedule (docs/numerics.md); which
tile it is decides cycles and energy. Activation scales are static within a program: those of the float64 layer on the
same input. Programs of equal shape differ in data and constants alone, so the first of each is verified.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from ...rtl.spec.config import TileConfig
from ...sim.energy import EnergyReport, EnergyTable
from ...sim.legality.verifier import verify
from ...sim.simulate import simulate
from ..compile import compile_layer
from ..graph.calibrate import Scales
from ..layers import Workload
from ..numerics import Numerics
from ..tensors import LayerTensors


@dataclass(kw_only=True, eq=False)
class TileCompute:
    """A `network.Compute`. cycles, energy, scales: of every program so far its static factors, by
    layer."""

    config: TileConfig
    numerics: Numerics
    table: EnergyTable
    cycles: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    energy: dict[str, list[EnergyReport]] = field(default_factory=lambda: defaultdict(list))
    scales: dict[str, list[Scales]] = field(default_factory=lambda: defaultdict(list))
    _verified: set[Workload] = field(default_factory=set)

    def __call__(self, name: str, tensors: LayerTensors, x: np.ndarray | None) -> np.ndarray:
        """Raises as `compile_layer` and `verify`."""
        compiled = compile_layer(tensors.workload, self.config, tensors=tensors, numerics=self.numerics)
        if tensors.workload not in self._verified:
            verify(compiled.program)
            self._verified.add(tensors.workload)
        result = simulate(compiled.program, ("reference", "timing"), energy_table=self.table)
        assert result.outputs is not None and compiled.scales is not None
        self.cycles[name].append(result.cycles)
        self.energy[name].append(result.energy)
        self.scales[name].append(compiled.scales)
        return result.outputs["out"].reshape(tensors.workload.rows, -1)

    def total_cycles(self) -> int:
        return sum(map(sum, self.cycles.values()))

    def joules(self, end: str = "total") -> float:
        """``total``, or an end of the table's range: ``low``, ``high``."""
        return math.fsum(getattr(one, f"{end}_pj") for layer in self.energy.values() for one in layer) * 1e-12
