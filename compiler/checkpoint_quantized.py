"""A checkpoint some of whose weights are quantized, seen as if they were not: one tensor by the name of the weight.

What stands in files, and what it means to the tile (`formats of the tile`: `rtl.spec.tensor_formats`):

- **FP8**, ``w`` F8_E4M3 with ``w_scale_inv`` or ``w_scale``, factors that codes are multiplied by: a number per block
  of 128 x 128 is *deepseek* (F32, BF16) or *deepseek-ue8m0* (F8_E8M0); one number is *e4m3*. One per row is no format
  of the tile, so such a weight is read as values and quantized anew.
- **NVFP4**, two codes per byte, the even k in the low nibble, an F8_E4M3 scale per 16 and a factor per tensor.
  modelopt: ``w`` U8, ``w_scale``, ``w_scale_2``. compressed-tensors: ``w_packed``, ``w_scale``, ``w_global_scale``, by
  which is divided; the tile multiplies by its FP32 reciprocal, which is the one thing that is converted.
- **MXFP4**, E8M0 scales per 32: gpt-oss's ``w_blocks (E, n, k / 32, 16)`` and ``w_scales (E, n, k / 32)``, rows along
  k, though the same tensor in BF16 is (E, k, n); compressed-tensors: ``w_packed`` with ``w_scale`` alone; or ``w`` U8.

Scales of activations (``input_scale``) are not used: they are calibrated on the layer's input. Experts of one tensor
for all are read as gpt-oss has them only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from ..rtl.spec.errors import WorkloadError
from ..rtl.spec.isa import Scale
from ..rtl.spec.tensor_formats import TENSOR_FORMATS, TensorFormat
from ..sim.numerics.block_scales import e8m0_to_deltas, fp32_to_relative
from .checkpoint_files import Checkpoint
from .quantize import DEEPSEEK_ROWS
from .stored_weight import StoredWeight

_UNUSED = ("input_scale", "input_global_scale")
_PARTS = ("_blocks", "_scales", "_packed", "_scale_inv", "_global_scale", "_scale_2", "_scale")


@dataclass(frozen=True, kw_only=True)
class _Names:
    """Tensors of one weight, and how they are read; scale, factor: None where there is none."""

    codes: str
    scale: str
    factor: str | None = None
    read: Callable[[QuantizedCheckpoint, str, _Names, tuple[int, ...], int | None], StoredWeight | np.ndarray]


class QuantizedCheckpoint:
    """A `checkpoint.TensorSource`; `stored` gives weights as they are."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.path, self._files = checkpoint.path, checkpoint
        self.prefix = checkpoint.prefix

    @cache  # noqa: B019
    def _names(self, name: str) -> _Names | None:
        """How a weight is quantized; None for one that is not. The file with it is opened, no other."""
        def has(end: str) -> str | None:
            return name + end if name + end in self._files else None

        if (blocks := has("_blocks")) and (scales := has("_scales")):
            return _Names(codes=blocks, scale=scales, read=QuantizedCheckpoint._gpt_oss)
        packed, scale = has("_packed"), has("_scale") or has("_scale_inv")
        if packed and scale:
            factor = has("_global_scale")
            return _Names(codes=packed, scale=scale, factor=factor, read=QuantizedCheckpoint._fp4)
        dtype = self._files.dtype(name) if name in self._files and scale else None
        if dtype == "F8_E4M3" and scale:
            return _Names(codes=name, scale=scale, read=QuantizedCheckpoint._fp8)
        if dtype == "U8" and scale:
            return _Names(codes=name, scale=scale, factor=has("_scale_2"), read=QuantizedCheckpoint._fp4)
        return None

    def _weight_of(self, stored: str) -> str:
        """The weight that a tensor belongs to; itself where it is one, or belongs to none."""
        for end in (*_PARTS, *_UNUSED):
            if stored.endswith(end):
                name = stored.removesuffix(end) + ("weight" if end in _UNUSED else "")
                names = self._names(name)
                if names and (end in _UNUSED or stored in (names.codes, names.scale, names.factor)):
                    return name
        return stored

    def __contains__(self, name: str) -> bool:
        return self._names(name) is not None or (name in self._files and self._weight_of(name) == name)

    def under(self, prefix: str) -> list[str]:
        """Names of the tensors that start with ``prefix``."""
        return list(dict.fromkeys(map(self._weight_of, self._files.under(prefix))))

    def outer(self, name: str) -> str:
        """As ``Checkpoint.outer``."""
        full = self._files.outer(name)
        return full if full in self else self._weight_of(self._files.outer(f"{name}_packed"))

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Of the values."""
        names = self._names(name)
        if names is None:
            return self._files.shape(name)
        stored = self._files.shape(names.codes)
        if stored is None or names.read is QuantizedCheckpoint._fp8:
            return stored
        if names.read is QuantizedCheckpoint._gpt_oss:
            return (stored[0], 32 * stored[2], stored[1]) if len(stored) == 4 else stored
        return (*stored[:-1], 2 * stored[-1])

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise as ``read`` would for a missing tensor or another shape, without reading more than one expert."""
        if (names := self._names(name)) is None:
            self._files.check(name, shape)
        else:
            self._made(name, names, shape, 0 if len(shape) == 3 else None)

    def read(self, name: str, shape: tuple[int, ...], *, index: int | None = None) -> np.ndarray:
        """Values, float32, in the layout of ``shape``; ``index``: only that slice of the first axis. Raises
        WorkloadError naming tensor and value."""
        if (names := self._names(name)) is None:
            return self._files.read(name, shape, index=index)
        made = self._made(name, names, shape, index)
        values = made.values() if isinstance(made, StoredWeight) else made
        turned = names.read is QuantizedCheckpoint._gpt_oss
        return np.ascontiguousarray(values.T) if turned else values

    def stored(self, name: str, shape: tuple[int, ...], *, index: int | None = None) -> StoredWeight | None:
        """The weight with rows along k, whatever the layout of ``shape``; None where it is in no format of the tile."""
        names = self._names(name)
        made = self._made(name, names, shape, index) if names else None
        return made if isinstance(made, StoredWeight) else None

    def _made(self, name: str, names: _Names, shape: tuple[int, ...], index: int | None) -> StoredWeight | np.ndarray:
        if self.shape(name) != shape:
            raise WorkloadError(f"{self.path}: {names.codes}: shape of its values: expected {shape}, got "
                                f"{self.shape(name)}")
        return names.read(self, name, names, shape, index)

    # ---- layouts: each gives the weight, or values where the tile has no such format ----------------------------

    def _fp8(self, name: str, names: _Names, shape: tuple[int, ...], index: int | None) -> StoredWeight | np.ndarray:
        rows, k = self._matrix(name, shape, index)
        codes, found = self._files.codes(name, (rows, k), ("F8_E4M3",)), self._files.shape(names.scale) or ()
        self._finite(name, (codes & 0x7F) == 0x7F)
        squares = (-(-rows // DEEPSEEK_ROWS), -(-k // DEEPSEEK_ROWS))
        if np.prod(found, dtype=int) == 1:
            factor = float(self._floats(names.scale, found).reshape(()))
            return self._weight(names.scale, "e4m3", k, codes, np.zeros((rows, 0), np.uint8), factor)
        if found == squares:
            if self._files.dtype(names.scale) == "F8_E8M0":
                return self._relative(names.scale, "deepseek-ue8m0", k, codes, self._files.codes(
                    names.scale, squares, ("F8_E8M0",)), DEEPSEEK_ROWS)
            return self._relative(names.scale, "deepseek", k, codes, self._floats(names.scale, squares), DEEPSEEK_ROWS)
        if found not in ((rows, 1), (rows,)):
            raise WorkloadError(f"{self.path}: {names.scale}: shape: expected one number, {squares} or {(rows, 1)}, "
                                f"got {found}")
        unit = self._weight(names.scale, "e4m3", k, codes, np.zeros((rows, 0), np.uint8), 1.0)
        return unit.values() * self._floats(names.scale, found).reshape(rows, 1)

    def _fp4(self, name: str, names: _Names, shape: tuple[int, ...], index: int | None) -> StoredWeight:
        rows, k = self._matrix(name, shape, index)
        codes = self._files.codes(names.codes, (rows, k // 2), ("U8",))
        if names.factor is None:
            scales = self._files.codes(names.scale, (rows, -(-k // 32)), ("U8", "F8_E8M0"))
            return self._relative(names.scale, "mxfp4", k, codes, scales)
        scales = self._files.codes(names.scale, (rows, -(-k // 16)), ("F8_E4M3",))
        self._finite(names.scale, (scales & 0x7F) == 0x7F)
        if (scales & 0x80).any() and (scales[scales & 0x80 > 0] != 0x80).any():
            raise WorkloadError(f"{self.path}: {names.scale}: expected no negative scale")
        given = float(self._floats(names.factor, self._files.shape(names.factor) or ()).reshape(-1)[0])
        inverse = names.factor.endswith("global_scale")
        return self._weight(names.factor, "nvfp4", k, codes, scales,
                            float(np.float32(1) / np.float32(given)) if inverse and given else given)

    def _gpt_oss(self, name: str, names: _Names, shape: tuple[int, ...], index: int | None) -> StoredWeight:
        experts, k, rows = shape
        codes = self._files.codes(names.codes, (experts, rows, k // 32, 16), ("U8",), index=index or 0)
        scales = self._files.codes(names.scale, (experts, rows, k // 32), ("U8", "F8_E8M0"), index=index or 0)
        return self._relative(names.scale, "mxfp4", k, codes.reshape(rows, -1), scales)

    # ---- parts --------------------------------------------------------------------------------------------------

    def _matrix(self, name: str, shape: tuple[int, ...], index: int | None) -> tuple[int, int]:
        if len(shape) != 2 or index is not None:
            raise WorkloadError(f"{self.path}: {name}: a quantized tensor of shape {shape} is not read; expected a "
                                "matrix, or experts in the layout of gpt-oss")
        return shape[0], shape[1]

    def _floats(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Factors, which are positive."""
        values = self._files.read(name, shape)
        if (values <= 0).any():
            raise WorkloadError(f"{self.path}: {name}: expected positive numbers, got {values.min()}")
        return values

    def _finite(self, name: str, nan: np.ndarray) -> None:
        if nan.any():
            position = tuple(int(i) for i in np.unravel_index(int(np.argmax(nan)), nan.shape))
            raise WorkloadError(f"{self.path}: {name}: element {position}: expected a finite number, got nan")

    def _weight(self, where: str, kind: str, k: int, codes: np.ndarray, scales: np.ndarray,
                factor: float) -> StoredWeight:
        if not 0 < factor < float("inf"):
            raise WorkloadError(f"{self.path}: {where}: expected a positive finite number, got {factor}")
        return StoredWeight(format=TENSOR_FORMATS[kind], k=k, codes=codes, scales=scales, factor=factor)

    def _relative(self, where: str, kind: str, k: int, codes: np.ndarray, scales: np.ndarray,
                  repeat: int = 1) -> StoredWeight:
        """Absolute block scales (rows, blocks), E8M0 bytes or floats, relative to the largest; repeat: rows of codes
        that share one of scales."""
        tensor_format: TensorFormat = TENSOR_FORMATS[kind]
        if tensor_format.scale == Scale.E8M0:
            self._finite(where, scales == 0xFF)
        flat = np.ascontiguousarray(scales).reshape(1, -1)
        anchors, relative = (e8m0_to_deltas if tensor_format.scale == Scale.E8M0 else fp32_to_relative)(flat)
        by_row = np.repeat(relative.reshape(len(scales), -1), repeat, axis=0)[:len(codes)]
        return self._weight(where, kind, k, codes, by_row, float(anchors[0]))

