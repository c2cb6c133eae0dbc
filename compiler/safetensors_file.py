"""A reader of safetensors files in plain numpy: a JSON header, then raw little-endian tensors, mapped not
read.

Layout (huggingface/safetensors, "Format"): 8 bytes of header length N, N bytes of JSON
``{name: {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {...}}``, then the data that the
offsets count from. The ``safetensors`` package is not used: the core depends on numpy alone, and numpy has no
bfloat16.

A file is checked when it is opened (truncation, sizes, overlapping ranges) and each tensor when it is read
(shape, dtype, NaN and Inf); every failure is a WorkloadError that names file, tensor, value and what was
expected.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..rtl.spec.errors import WorkloadError

ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
"""The dtypes that can be read. All three are exact in float32."""

KNOWN_ITEM_BYTES = ITEM_BYTES | {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "I16": 2, "U16": 2, "I32": 4, "U32": 4, "F64": 8, "I64": 8, "U64": 8,
}  # fmt: skip
"""Whole-byte dtypes of the format: sizes of these are checked too, since other tensors may share the file."""

MAX_HEADER_BYTES = 100_000_000
"""The limit of the reference implementation."""


class TensorEntry(NamedTuple):
    """One header entry: dtype name, shape, and the byte range counted from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def _entry(where: str, item: Any) -> TensorEntry:
    try:
        dtype, shape, (begin, end) = item["dtype"], tuple(item["shape"]), item["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise WorkloadError(
            f"{where}: expected dtype, shape and two data_offsets, got {str(item)[:80]}"
        ) from None
    numbers = (*shape, begin, end)
    if not isinstance(dtype, str) or not all(type(n) is int and n >= 0 for n in numbers) or begin > end:
        raise WorkloadError(
            f"{where}: expected non-negative integers in shape and data_offsets, got {str(item)[:80]}"
        )
    if dtype in KNOWN_ITEM_BYTES:
        expected = KNOWN_ITEM_BYTES[dtype]
        for size in shape:
            expected *= size
        if end - begin != expected:
            raise WorkloadError(f"{where}: expected {expected} bytes for {dtype} {shape}, got {end - begin}")
    return TensorEntry(dtype, shape, begin, end)


_BEGINNINGS = (
    (b"GGUF", "a GGUF file"),
    (b"\x93NUMPY", "a NumPy array (.npy)"),
    (b"\x89HDF", "an HDF5 file"),
    (b"version https://git-lfs", "a Git LFS pointer, the file itself was not fetched"),
    (b"{", "a JSON file"),
    (b"\xef\xbb\xbf{", "a JSON file"),
    (b"\x80", "a pickle, as old PyTorch checkpoints (.bin, .pt) are"),
)


def _kind_of(path: Path) -> str | None:
    """What a file that is no safetensors file is, by its content."""
    try:
        with path.open("rb") as stream:
            begin = stream.read(32)
        if not begin:
            return "an empty file"
        if begin.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(path) as archive:
                members = archive.namelist()
            if any(name.endswith("data.pkl") for name in members):
                return "a PyTorch checkpoint (.bin, .pt)"
            arrays = any(name.endswith(".npy") for name in members)
            return "a NumPy archive (.npz)" if arrays else "a ZIP archive"
    except (OSError, zipfile.BadZipFile):
        return None
    return next((kind for start, kind in _BEGINNINGS if begin.startswith(start)), None)


class SafetensorsFile:
    """One open safetensors file. ``names`` lists its tensors; ``read`` gives one as float32."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            size = self.path.stat().st_size
            with self.path.open("rb") as stream:
                self._data_start = 8 + int.from_bytes(stream.read(8), "little")
                if size < 8 or self._data_start > size or self._data_start - 8 > MAX_HEADER_BYTES:
                    raise self._not_safetensors(
                        f"truncated or not a safetensors file: expected a header of "
                        f"{max(self._data_start - 8, 0)} bytes, the file has {size}"
                    )
                header = stream.read(self._data_start - 8)
        except OSError as error:
            raise WorkloadError(f"{self.path}: cannot be read: {error.strerror}") from None
        self.entries = self._parse(header)
        self._check_ranges(size - self._data_start)
        self._bytes = np.memmap(self.path, dtype=np.uint8, mode="r")

    def _parse(self, header: bytes) -> dict[str, TensorEntry]:
        try:
            content = json.loads(header)
        except (ValueError, RecursionError):
            raise self._not_safetensors("not a safetensors file: the header is not valid JSON") from None
        if not isinstance(content, dict):
            raise self._not_safetensors("not a safetensors file: expected an object in the header")
        content.pop("__metadata__", None)
        return {name: _entry(f"{self.path}: {name}", item) for name, item in content.items()}

    def _not_safetensors(self, problem: str) -> WorkloadError:
        """The error for a file that does not begin as one should, by the kind that it is, if that is known."""
        kind = _kind_of(self.path)
        return WorkloadError(f"{self.path}: {f'not a safetensors file but {kind}' if kind else problem}")

    def _check_ranges(self, data_bytes: int) -> None:
        position = 0
        for name, entry in sorted(self.entries.items(), key=lambda pair: pair[1][2:]):
            if entry.end > data_bytes:
                problem = f"expected {entry.end} bytes of data, the file has {data_bytes}"
                raise WorkloadError(f"{self.path}: {name}: truncated: {problem}")
            if entry.begin < position:
                raise WorkloadError(
                    f"{self.path}: {name}: overlaps the tensor before it at byte {entry.begin}"
                )
            position = entry.end

    @property
    def names(self) -> tuple[str, ...]:
        """Tensor names in header order."""
        return tuple(self.entries)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Of a tensor, None for one that is not there."""
        return self.entries[name].shape if name in self.entries else None

    def check(self, name: str, shape: tuple[int, ...], dtypes: Sequence[str] = tuple(ITEM_BYTES)) -> TensorEntry:
        """The header entry of a tensor of ``shape`` and of one of ``dtypes``, by default those that are read as values;
        WorkloadError if missing or of another shape or dtype."""
        where = f"{self.path}: {name}"
        if name not in self.entries:
            raise WorkloadError(f"{where}: missing; expected a tensor of shape {shape}")
        entry = self.entries[name]
        if entry.dtype not in dtypes:
            raise WorkloadError(f"{where}: dtype: expected one of {', '.join(dtypes)}, got {entry.dtype}")
        if entry.shape != shape:
            raise WorkloadError(f"{where}: shape: expected {shape}, got {entry.shape}")
        return entry

    def codes(self, name: str, shape: tuple[int, ...], dtypes: tuple[str, ...], *, index: int | None = None
              ) -> np.ndarray:
        """A tensor of one-byte elements as they are stored, uint8; with ``index``, only that slice of its leading
        dimension. Raises WorkloadError naming it if missing or of another shape or dtype."""
        entry = self.check(name, shape, dtypes)
        raw = np.asarray(self._bytes[self._data_start + entry.begin:self._data_start + entry.end]).reshape(shape)
        return raw if index is None else raw[index]

    def read(self, name: str, shape: tuple[int, ...], *, index: int | None = None) -> np.ndarray:
        """Tensor ``name`` as float32 of ``shape``; with ``index``, only that slice of its leading dimension.

        ``shape`` is what the stored tensor must have, leading dimension included. Raises WorkloadError as
        ``check`` does, and for an element that is NaN or Inf.
        """
        entry = self.check(name, shape)
        begin, end = entry.begin, entry.end
        if index is not None:
            step = (end - begin) // shape[0]
            begin, end, shape = begin + index * step, begin + (index + 1) * step, shape[1:]
        raw = self._bytes[self._data_start + begin : self._data_start + end]
        values = _decode(np.asarray(raw), entry.dtype).reshape(shape)
        finite = np.isfinite(values)
        if not finite.all():
            first = np.unravel_index(int(np.argmin(finite)), values.shape)
            position = (*(() if index is None else (index,)), *(int(i) for i in first))
            raise WorkloadError(
                f"{self.path}: {name}: element {position}: expected a finite number, got {values[first]}"
            )
        return values


def _decode(raw: np.ndarray, dtype: str) -> np.ndarray:
    raw = np.ascontiguousarray(raw)
    if dtype == "F32":
        return raw.view("<f4").astype(np.float32)
    if dtype == "F16":
        return raw.view("<f2").astype(np.float32)
    return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
