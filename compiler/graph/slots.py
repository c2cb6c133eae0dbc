"""Formats of slots: how operands are held with given `Numerics`."""

from ...rtl.spec.tensor_formats import TENSOR_FORMATS, TensorFormat
from ..formats import LayerFormat, query_format, value_weights
from .ir import Slot

SQUARE = (Slot.WEIGHTS, Slot.TURNED_WEIGHTS)
"""Slots whose DeepSeek blocks are squares."""


def slot_format(slot: Slot, formats: LayerFormat) -> TensorFormat | None:
    """The format of an operand, of one term for `Slot.TERMS`; None for FP32."""
    return {Slot.FP32: None, Slot.ACTIVATIONS: formats.activations, Slot.WEIGHTS: formats.weights,
            Slot.TURNED_WEIGHTS: value_weights(formats), Slot.QUERY: query_format(formats), Slot.KV: formats.kv,
            Slot.TERMS: TENSOR_FORMATS["e4m3"]}[slot]
