"""Packets of a Perfetto trace: tracks, slices, counters and flows, by the numbers of Perfetto's `TracePacket`.

Source of the numbers: protos/perfetto/trace/track_event/*.proto and trace_packet.proto of Perfetto; a test reads what
is written with the definitions of the `perfetto` package. Names are interned: each text stands once in a trace. What
repeats in a slice (track, category, name; the end) is encoded once.
"""

from collections.abc import Iterable, Mapping

from .protobuf import double, fixed64, integer, nested, text

_PACKET, _TIMESTAMP, _SEQUENCE, _EVENT, _INTERNED, _FLAGS, _DESCRIPTOR = 1, 8, 10, 11, 12, 13, 60
_UUID, _NAME, _PROCESS, _PARENT, _COUNTER, _ORDERING, _RANK = 1, 2, 3, 5, 8, 11, 12
_TYPE, _TRACK, _NAME_IID, _CATEGORY_IID, _ARGUMENT, _COUNT, _VALUE, _FLOW, _LAST_FLOW = 9, 11, 10, 3, 4, 30, 44, 47, 48
_BEGIN, _END, _SAMPLE = 1, 2, 4
_ARGUMENT_IID, _ARGUMENT_INTEGER, _ARGUMENT_TEXT = 1, 4, 6
_CATEGORIES, _EVENT_NAMES, _ARGUMENT_NAMES = 1, 2, 3
_CLEARED, _NEEDED = 1, 2
_EXPLICIT, _BYTES_UNIT = 3, 3


class Packets:
    """The packets of one sequence. number: of the sequence, from 1; traces of several can be joined end to end.

    Uuids of tracks and flows are the caller's numbers with the sequence's in the upper bits.
    """

    def __init__(self, number: int) -> None:
        self._upper = number << 40
        self._tail = integer(_SEQUENCE, number) + integer(_FLAGS, _CLEARED)
        self._tail_later = integer(_SEQUENCE, number) + integer(_FLAGS, _NEEDED)
        self._heads: dict[tuple[int, str, str], bytes] = {}
        self._ends: dict[int, bytes] = {}
        self._out = bytearray()
        self._known: dict[tuple[int, str], int] = {}
        self._new: list[bytes] = []

    def __bytes__(self) -> bytes:
        return bytes(self._out)

    def process(self, track: int, number: int, name: str) -> None:
        """The root of tracks."""
        inside = nested(_PROCESS, integer(1, number) + text(6, name))
        self._packet(nested(_DESCRIPTOR, integer(_UUID, self._upper | track) + inside
                            + integer(_ORDERING, _EXPLICIT)))

    def track(self, track: int, parent: int, name: str, *, counter_unit: str | None = None) -> None:
        """A track of slices, or of samples in ``counter_unit``; sisters are shown in the order of their numbers."""
        counter = b"" if counter_unit is None else nested(
            _COUNTER, integer(3, _BYTES_UNIT) if counter_unit == "B" else text(6, counter_unit))
        self._packet(nested(_DESCRIPTOR, integer(_UUID, self._upper | track) + text(_NAME, name)
                            + integer(_PARENT, self._upper | parent) + counter + integer(_ORDERING, _EXPLICIT)
                            + integer(_RANK, track)))

    def slice(self, track: int, start: int, end: int, name: str, category: str, arguments: Mapping[str, int | str],
              gives: Iterable[int] = (), takes: Iterable[int] = ()) -> None:
        """A span [start, end) of one name, the flows that begin in it and those that end in it."""
        event = self._heads.get((track, name, category))
        if event is None:
            event = self._heads[track, name, category] = (
                integer(_TYPE, _BEGIN) + integer(_TRACK, self._upper | track)
                + integer(_CATEGORY_IID, self._iid(_CATEGORIES, category))
                + integer(_NAME_IID, self._iid(_EVENT_NAMES, name)))
            self._ends[track] = nested(_EVENT, integer(_TYPE, _END) + integer(_TRACK, self._upper | track))
        for key, value in arguments.items():
            shown = integer(_ARGUMENT_INTEGER, value) if isinstance(value, int) else text(_ARGUMENT_TEXT, value)
            event += nested(_ARGUMENT, integer(_ARGUMENT_IID, self._iid(_ARGUMENT_NAMES, key)) + shown)
        event += b"".join(fixed64(_FLOW, self._upper | flow) for flow in gives)
        event += b"".join(fixed64(_LAST_FLOW, self._upper | flow) for flow in takes)
        self._packet(integer(_TIMESTAMP, start) + nested(_EVENT, event))
        self._packet(integer(_TIMESTAMP, end) + self._ends[track])

    def sample(self, track: int, time: int, value: int | float) -> None:
        """A counter's value from ``time`` on."""
        shown = integer(_COUNT, value) if isinstance(value, int) else double(_VALUE, value)
        self._packet(integer(_TIMESTAMP, time) + nested(
            _EVENT, integer(_TYPE, _SAMPLE) + integer(_TRACK, self._upper | track) + shown))

    def _iid(self, kind: int, content: str) -> int:
        """The number of an interned text; a new one goes into the next packet."""
        found = self._known.get((kind, content))
        if found is None:
            found = self._known[kind, content] = len(self._known) + 1
            self._new.append(nested(kind, integer(1, found) + text(2, content)))
        return found

    def _packet(self, content: bytes) -> None:
        if self._new:
            content += nested(_INTERNED, b"".join(self._new))
            self._new.clear()
        self._out += nested(_PACKET, content + self._tail)
        self._tail = self._tail_later
