"""Static scales of a layer from the ranges of its operands.

Activations have the largest magnitude of the float64 layer on the same input; without tensors (timing only) every
factor is 1: no cycle depends on a value.
"""

from collections.abc import Hashable, Iterator, Mapping

from ..numerics import DEFAULT, Numerics
from ..quantize import made_factor, tensor_factor
from ..tensors import per_tensor_scale
from .evaluate import Range
from .ir import Slot
from .slots import slot_format

Key = Hashable


class Scales(Mapping[Key, float]):
    """Per-tensor factors (value = code * block scale * factor) by operand (`evaluate.Key`), and, of operands that stay
    FP32, the largest magnitude. ``Scales()`` has 1 for all."""

    def __init__(self, factors: Mapping[Key, float] | None = None):
        self._factors = factors

    def __getitem__(self, key: Key) -> float:
        return 1.0 if self._factors is None else self._factors[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._factors or ())

    def __len__(self) -> int:
        return len(self._factors or ())


def calibrate(ranges: Mapping[Key, Range], numerics: Numerics = DEFAULT) -> Scales:
    """The factors of every operand."""
    return Scales({key: _factor(found, numerics) for key, found in ranges.items()})


def _factor(found: Range, numerics: Numerics) -> float:
    if found.slot is Slot.TERMS:
        return float(per_tensor_scale(found.amax))
    tensor_format = slot_format(found.slot, numerics.formats)
    if tensor_format is None:
        return found.amax or 1.0
    if found.stored is not None and found.stored.format == tensor_format:
        return found.stored.factor
    return (made_factor if found.made else tensor_factor)(tensor_format, found.amax, numerics.scale_rule)
