"""Columns of integers in a few bits each: differences, as few byte planes as the values need, deflated, in base64.

The packed form is an object of JSON types. ``columns`` lists [name, bytes, differences] in order; the data are the
columns' byte planes, lowest first, each as long as the table. Values are two's complement in that many bytes; with
``differences`` 1 each is less the one before it. A column of zeros has no planes. Anything that inflates zlib data can
read it: the page's script and `unpack` do.
"""

import base64
import json
import zlib

import numpy as np

_LEVEL = 6


def pack(columns: dict[str, np.ndarray]) -> dict:
    """The packed form of equally long int64 columns. Of a column and its differences the narrower is kept."""
    listed, planes, count = [], [], 0
    for name, values in columns.items():
        values = np.asarray(values, np.int64)
        count = values.size
        changes = np.diff(values, prepend=0)
        differ = int(_cost(changes) < _cost(values))
        kept = changes if differ else values
        width = _width(kept)
        listed.append([name, width, differ])
        if width:
            planes.append(kept.astype("<i8").view(np.uint8).reshape(-1, 8)[:, :width].T.tobytes())
    return {"rows": count, "columns": listed, "data": _deflate(b"".join(planes))}


def pack_json(value: object) -> str:
    """JSON, deflated, in base64."""
    return _deflate(json.dumps(value, separators=(",", ":")).encode())


def _deflate(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, _LEVEL)).decode()


def unpack(packed: dict) -> dict[str, np.ndarray]:
    """The inverse of `pack`."""
    raw = np.frombuffer(zlib.decompress(base64.b64decode(packed["data"])), np.uint8)
    rows, at, columns = packed["rows"], 0, {}
    for name, width, differ in packed["columns"]:
        wide = np.zeros((rows, 8), np.uint8)
        if width:
            wide[:, :width] = raw[at:at + width * rows].reshape(width, rows).T
            wide[:, width:] = np.where(wide[:, width - 1:width] >> 7, 255, 0)
            at += width * rows
        values = wide.view("<i8").reshape(rows).astype(np.int64)
        columns[name] = np.cumsum(values) if differ else values
    return columns


def _width(values: np.ndarray) -> int:
    """Bytes that hold every value in two's complement; 0 for zeros only."""
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    if low == high == 0:
        return 0
    return max((max(high, -low - 1).bit_length() + 8) // 8, 1)


def _cost(values: np.ndarray) -> tuple[int, int]:
    """Width, then how often neighbours differ: what deflate has to say."""
    return _width(values), int(np.count_nonzero(values[1:] != values[:-1]))
