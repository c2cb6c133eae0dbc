"""The bytes of a program file: prefix, JSON header, payload.

Little-endian::

    offset  bytes  content
    0       8      magic b"TLSCORE\\n"
    8       4      format version, 3
    12      4      length h of the header
    16      8      length p of the payload
    24      32     SHA-256 of header and payload
    56      h      header, a JSON object in UTF-8 with the keys of `HEADER`
    56 + h  p      payload: instruction words, then the bytes of each segment that has data

Version 2 added ``extents`` and ``phases``, version 3 cut the fields of the instructions anew. A checksum shows that a
file is as it was written, not that it was written by this package: so every value of the header has its type and range
checked here, and its meaning by the classes that are made of it. JSON is taken without the extensions of Python's
parser (NaN, Infinity) and without keys given twice.

A pickle was rejected (it runs code on load), and so was `numpy.savez` (it names no offender when a byte is
wrong).
"""

import hashlib
import json
import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..rtl.spec.errors import ProgramError
from ..rtl.spec.isa import INSTRUCTION_BYTES
from .lib.atomic_file import atomic_file

VERSION = 3
INTEGER_LIMIT = 1 << 40
"""Largest integer outside ``tile`` and ``meta``: the number of DRAM addresses."""

HEADER = {"tile": dict, "instructions": int, "program_addr": int, "dram_bytes": int, "segments": list, "outputs": list,
          "extents": list, "labels": list, "phases": list, "meta": dict}
"""Keys of the header, all of them needed. Rows of the lists:

segments: name, addr, size, whether the payload has its bytes. outputs: name, addr, rows, row_bytes, row_stride, dtype,
shape. extents: instruction, name of its rows' segment or output, and that of its scale bytes if it moves any. phases:
name, number of instructions in a row; none, or all instructions.
"""

_SEGMENT = {"name": str, "addr": int, "size": int, "data": bool}
_OUTPUT = {"name": str, "addr": int, "rows": int, "row_bytes": int, "row_stride": int, "dtype": str, "shape": list}
_PHASE = {"name": str, "instructions": int}
_EXTENTS = ({"instruction": int, "rows": str}, {"instruction": int, "rows": str, "scales": str})
_KINDS = {int: f"an integer from 0 to {INTEGER_LIMIT}", str: "a string", bool: "true or false", list: "a list",
          dict: "an object"}
_MAGIC = b"TLSCORE\n"
_PREFIX = struct.Struct("<8sIIQ32s")


def write_file(path: Path, header: dict, payload: Callable[[], Iterator[np.ndarray]]) -> None:
    """Write a file, all of it or nothing.

    payload: called twice, for the checksum and for the bytes. Raises `ProgramError` when ``meta`` is not JSON.
    """
    try:
        text = json.dumps(header, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ProgramError(f"meta: cannot be written as JSON: {error}") from None
    digest, size = hashlib.sha256(text), 0
    for part in payload():
        digest.update(part.data)
        size += part.nbytes
    with atomic_file(path) as file:
        file.write(_PREFIX.pack(_MAGIC, VERSION, len(text), size, digest.digest()))
        file.write(text)
        for part in payload():
            file.write(part.data)


def read_file(raw: bytes) -> tuple[dict, np.ndarray, list[np.ndarray | None]]:
    """Header, instruction words (n, 32) uint8, and the bytes of each segment (None without) of a file's content.

    Raises `ProgramError` naming what is wrong.
    """
    if raw[:len(_MAGIC)] != _MAGIC[:len(raw)] or not raw:
        raise ProgramError("not a tilescore program (wrong magic bytes)")
    if len(raw) < _PREFIX.size:
        raise ProgramError(f"truncated: {len(raw)} bytes, the prefix alone has {_PREFIX.size}")
    _, version, header_size, payload_size, digest = _PREFIX.unpack_from(raw)
    if version != VERSION:
        raise ProgramError(f"format version {version}, expected {VERSION}: compile it again with this version of "
                           "tilescore")
    expected = _PREFIX.size + header_size + payload_size
    if len(raw) != expected:
        kind = "truncated" if len(raw) < expected else "too long"
        raise ProgramError(f"{kind}: {len(raw)} bytes, expected {expected}")
    body = memoryview(raw)[_PREFIX.size:]
    if hashlib.sha256(body).digest() != digest:
        raise ProgramError("corrupted: SHA-256 of the content does not match")
    header = _parse(bytes(body[:header_size]))
    _check(header)
    return header, *_cut(header, np.frombuffer(body[header_size:], np.uint8))


def _cut(header: dict, payload: np.ndarray) -> tuple[np.ndarray, list[np.ndarray | None]]:
    """Instruction words and segments of the payload, which must have just these bytes."""
    position = header["instructions"] * INSTRUCTION_BYTES
    needed = position + sum(size for _, _, size, stored in header["segments"] if stored)
    if needed != payload.size:
        raise ProgramError(f"payload: {payload.size} bytes, but {header['instructions']} instructions and the segments "
                           f"with data have {needed}")
    words, segments = payload[:position].reshape(-1, INSTRUCTION_BYTES), []
    for _, _, size, stored in header["segments"]:
        segments.append(payload[position:position + size] if stored else None)
        position += size if stored else 0
    return words, segments


def _parse(text: bytes) -> Any:
    """JSON without NaN, infinities (1e999), keys given twice, and text that is not Unicode (lone surrogates)."""
    def reject(value: str) -> None:
        raise ProgramError(f"header: expected finite numbers, got {value[:60]}")

    def number(value: str) -> float:
        found = float(value)
        if not math.isfinite(found):
            reject(value)
        return found

    def pairs(items: list[tuple[str, Any]]) -> dict:
        found = dict(items)
        if len(found) < len(items):
            keys = [key for key, _ in items]
            raise ProgramError(f"header: key {next(k for k in keys if keys.count(k) > 1)!r} is there twice")
        return found

    try:
        header = json.loads(text.decode("utf-8"), parse_constant=reject, parse_float=number, object_pairs_hook=pairs)
        json.dumps(header, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise ProgramError(f"header: not valid JSON: {error}") from None
    return header


def _check(header: Any) -> None:
    """Types and ranges of everything but the values in ``tile`` and ``meta``."""
    _check_value("header", header, dict)
    for key in header:
        if key not in HEADER:
            raise ProgramError(f"header: unknown key {key[:60]!r}; allowed: {', '.join(HEADER)}")
    for key, kind in HEADER.items():
        if key not in header:
            raise ProgramError(f"header: missing key {key!r}")
        _check_value(f"header: {key}", header[key], kind)
    for number, row in enumerate(header["segments"]):
        _check_row(f"segments[{number}]", row, (_SEGMENT,))
    for number, row in enumerate(header["outputs"]):
        _check_row(f"outputs[{number}]", row, (_OUTPUT,))
        for size in row[-1]:
            _check_value(f"outputs[{number}]: shape", size, int)
    seen = set()
    for number, row in enumerate(header["extents"]):
        _check_row(f"extents[{number}]", row, _EXTENTS)
        if row[0] in seen:
            raise ProgramError(f"extents[{number}]: instruction {row[0]} is there twice")
        seen.add(row[0])
    for number, label in enumerate(header["labels"]):
        _check_value(f"labels[{number}]", label, str)
    for number, row in enumerate(header["phases"]):
        _check_row(f"phases[{number}]", row, (_PHASE,))
    counted = sum(count for _, count in header["phases"])
    if header["phases"] and counted != header["instructions"]:
        raise ProgramError(f"phases: {counted} instructions, the program has {header['instructions']}")


def _check_row(where: str, row: Any, shapes: tuple[dict[str, type], ...]) -> None:
    """A list with one value per key of one of ``shapes``."""
    _check_value(where, row, list)
    for shape in shapes:
        if len(row) == len(shape):
            for (key, kind), value in zip(shape.items(), row, strict=True):
                _check_value(f"{where}: {key}", value, kind)
            return
    raise ProgramError(f"{where}: expected {' or '.join(str(len(s)) for s in shapes)} values "
                       f"({', '.join(shapes[-1])}), got {len(row)}")


def _check_value(where: str, value: Any, kind: type) -> None:
    if type(value) is not kind or (kind is int and not 0 <= value <= INTEGER_LIMIT):
        raise ProgramError(f"{where}: expected {_KINDS[kind]}, got {repr(value)[:60]}")
