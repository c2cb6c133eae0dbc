"""A reader of Perfetto traces, written from the format's description, for tests."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator
from typing import Any


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of a message: ints, doubles and fixed integers as 8 bytes, messages and strings as bytes."""
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while at < len(data):
        key = number()
        if key & 7 == 0:
            yield key >> 3, number()
        else:
            size = 8 if key & 7 == 1 else number()
            assert key & 7 in (1, 2)
            yield key >> 3, data[at:at + size]
            at += size


def read(data: bytes) -> dict[str, Any]:
    """{"tracks": {uuid: (name, parent)}, "slices": [...], "samples": {track name: [(time, value)]}} of one sequence."""
    tracks: dict[int, tuple[str, int]] = {}
    texts: dict[int, str] = {}
    open_: dict[int, dict] = {}
    out: dict[str, Any] = {"tracks": tracks, "slices": [], "samples": defaultdict(list)}
    for _, packet in fields(data):
        found = dict(fields(packet))
        for _, entry in fields(found.get(12, b"")):
            iid, text = (value for _, value in fields(entry))
            texts[iid] = text.decode()
        if 60 in found:
            described = dict(fields(found[60]))
            name = dict(fields(described[3]))[6] if 3 in described else described[2]
            tracks[described[1]] = (name.decode(), described.get(5, 0))
        if 11 not in found:
            continue
        event = dict(fields(found[11]))
        lists: dict[int, list] = defaultdict(list)
        for number, value in fields(found[11]):
            lists[number].append(value)
        track, time = tracks[event[11]][0], found[8]
        if event[9] == 1:
            assert event[11] not in open_, "slices of a track do not overlap"
            arguments = {}
            for entry in lists[4]:
                about = dict(fields(entry))
                arguments[texts[about[1]]] = about[6].decode() if 6 in about else (
                    about[4] - (1 << 64) if about[4] >> 63 else about[4])
            open_[event[11]] = {"track": track, "start": time, "name": texts[event[10]], "kind": texts[event[3]],
                                "gives": [struct.unpack("<Q", v)[0] for v in lists[47]],
                                "takes": [struct.unpack("<Q", v)[0] for v in lists[48]], **arguments}
        elif event[9] == 2:
            done = open_.pop(event[11]) | {"end": time}
            assert done["end"] > done["start"]
            out["slices"].append(done)
        else:
            out["samples"][track].append((time, struct.unpack("<d", event[44])[0] if 44 in event else event[30]))
    assert not open_
    return out
