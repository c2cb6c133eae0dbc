"""The attention temperature of Llama 4: queries of late tokens are longer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ....rtl.spec.errors import WorkloadError
from ...layers import Temperature, Workload
from ..ir import Op, Shape, Slot

if TYPE_CHECKING:
    from ..evaluate import Walk


@dataclass(frozen=True, kw_only=True)
class ScaleTokens(Op):
    """(rows, heads, d), each row times the factor of its position in the sequence (`layers.Temperature`)."""

    workload: Workload
    temperature: Temperature

    slots = (Slot.FP32,)

    def shape(self, x: Shape) -> Shape:
        if len(x) != 3 or x[0] != self.workload.rows:
            raise WorkloadError(f"temperature: expected ({self.workload.rows}, heads, d), got {x}")
        return x

    def evaluate(self, walk: Walk, x: np.ndarray) -> np.ndarray:
        return x * self.rows()[:, None, None]

    def rows(self) -> np.ndarray:
        """The factor of every row: new token i of each sequence stands at context + i."""
        workload, how = self.workload, self.temperature
        positions = np.arange(workload.cached, workload.keys, dtype=np.float64)
        return np.tile(np.log1p(np.floor((positions + 1) / how.floor)) * how.scale + 1, workload.batch)
