"""The wire format of Protocol Buffers, as much as a trace needs: https://protobuf.dev/programming-guides/encoding/."""

import struct

_SMALL = [bytes((value,)) for value in range(0x80)]


def varint(value: int) -> bytes:
    """A non-negative integer, seven bits per byte, lowest first."""
    if value < 0x80:
        return _SMALL[value]
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def integer(field: int, value: int) -> bytes:
    """Field of an int, enum or bool; negative ones as 64-bit two's complement."""
    return varint(field << 3) + varint(value & (1 << 64) - 1)


def fixed64(field: int, value: int) -> bytes:
    return varint(field << 3 | 1) + struct.pack("<Q", value)


def double(field: int, value: float) -> bytes:
    return varint(field << 3 | 1) + struct.pack("<d", value)


def nested(field: int, content: bytes) -> bytes:
    """Field of a message, string or bytes."""
    return varint(field << 3 | 2) + varint(len(content)) + content


def text(field: int, content: str) -> bytes:
    return nested(field, content.encode())
