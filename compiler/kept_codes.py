"""Codes of experts' weights, from the float64 layer to the program.

Experts are made one at a time, since all of them in float32 may be more than a machine holds, and making them takes
longer than anything else that is done to them. So they are quantized when the float64 layer has them at hand, and who
fills the program's DRAM takes the codes, a quarter of the size.
"""

from collections.abc import Hashable

import numpy as np

from ..rtl.spec.isa import ScaleRule
from ..rtl.spec.tensor_formats import TensorFormat
from .quantize import StoredTensor, store, tensor_factor
from .stored_weight import StoredWeight

_LIMIT = 1 << 30
"""Bytes of codes that are kept; experts beyond are made again."""


class KeptCodes:
    """Weights by operand (`evaluate.Key`), in the format and by the rule of one compilation. For several threads."""

    def __init__(self, tensor_format: TensorFormat, rule: ScaleRule):
        self._format, self._rule = tensor_format, rule
        self._kept: dict[Hashable, StoredTensor] = {}
        self._bytes = 0

    def keep(self, key: Hashable, weights: np.ndarray, amax: float, stored: StoredWeight | None = None) -> None:
        """Quantize (rows, k) float32 weights whose largest magnitude is ``amax``, if there is room. stored: the same in
        a checkpoint, which needs no keeping where it has the format."""
        if stored is not None and stored.format == self._format:
            return
        size = self._format.bytes_of(weights.size)
        if self._bytes + size <= _LIMIT:
            self._bytes += size
            self._kept[key] = store(weights, self._format, tensor_factor(self._format, amax, self._rule), self._rule,
                                    square=True)

    def take(self, key: Hashable) -> StoredTensor | None:
        """What was kept, once; None if it is not there."""
        return self._kept.pop(key, None)
