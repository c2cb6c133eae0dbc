"""The trace, read back by a decoder of its own and by Perfetto's definitions: its sums are the timing model's."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.isa import QUEUE_UNITS
from tilescore.sim.program import Program
from tilescore.sim.timing import Timing
from tilescore.sim.visual.fields import field_columns
from tilescore.sim.visual.occupancy import occupancy_of, values_of
from tilescore.sim.visual.protobuf import varint
from tilescore.sim.visual.trace import tokens, trace
from tilescore.tests.sim.visual.trace_reader import fields, read

NANO = load_tile("nano")


def test_slices_sum_to_the_ledger(program: Program, timing: Timing) -> None:
    found = read(trace(program, timing, "x"))
    units = {unit.name.lower() for unit in QUEUE_UNITS}
    stalls: Counter = Counter()
    busy: Counter = Counter()
    for s in found["slices"]:
        cycles = s["end"] - s["start"]
        if s["kind"] == "stall":
            stalls[s["track"], s["name"]] += cycles
        elif s["track"] in units:
            busy[s["track"]] += cycles
    for unit, causes in timing.ledger.items():
        for cause, cycles in causes.items():
            if cause in ("busy", "compute", "fill", "dispatch"):
                continue
            after = timing.cycles - max((s["end"] for s in found["slices"] if s["track"] == unit), default=0)
            assert stalls[unit, cause] == cycles - (after if cause == "idle" else 0), (unit, cause)
        if unit in units:
            assert busy[unit] == sum(causes.get(name, 0) for name in ("busy", "compute", "fill"))


def test_slices_are_the_instructions(program: Program, timing: Timing) -> None:
    found = {s["index"]: s for s in read(trace(program, timing, "x"))["slices"]
             if s["kind"] == "instruction" and s["track"] != "dispatch"}
    for index, instruction in enumerate(program.instructions):
        if instruction.spec.unit in QUEUE_UNITS:
            s = found[index]
            assert (s["dispatch"], s["start"], s["rd"], s["retire"]) == (
                timing.dispatch[index], timing.issue[index], timing.rd[index], timing.retire[index])
            assert s["assembler"].startswith(instruction.spec.name) and s["track"] == instruction.spec.unit.name.lower()
    assert sum(s.get("dram_bytes", 0) for s in found.values()) == NANO.bus_bytes * (
        timing.events["dram_read_beats"] + timing.events["dram_write_beats"])


def test_counters_end_at_the_bytes_and_rates_integrate_to_them(program: Program, timing: Timing) -> None:
    samples = read(trace(program, timing, "x"))["samples"]
    for word, event in (("read", "dram_read_beats"), ("written", "dram_write_beats")):
        size = timing.events[event] * NANO.bus_bytes
        assert samples[f"DRAM {word} in all [B]"][-1][1] == size
        rate = samples[f"DRAM {word} [B/cycle]"]
        total = sum(value * (end - time) for (time, value), (end, _) in itertools.pairwise(rate))
        assert total == pytest.approx(size) and rate[-1][1] == 0


def test_memory_in_use_is_the_pages_and_banks_are_held_while_it_is(program: Program, timing: Timing) -> None:
    found = read(trace(program, timing, "x"))
    for name, used in occupancy_of(values_of(program, timing, field_columns(program)), NANO).items():
        assert found["samples"][f"{name} in use [B]"] == list(zip(used.times.tolist(), used.used.tolist(), strict=True))
        spans = [s for s in found["slices"] if s["track"].startswith(f"{name} bank")]
        for (time, value), (end, _) in itertools.pairwise(found["samples"][f"{name} in use [B]"]):
            held = any(s["start"] <= time and end <= s["end"] for s in spans)
            assert held == bool(value)


def test_flows_are_the_tokens(program: Program, timing: Timing) -> None:
    """Each leads from an instruction that signals to one that waits for its unit, in time; none is lost or doubled."""
    slices = read(trace(program, timing, "x"))["slices"]
    gives = {flow: s["index"] for s in slices for flow in s["gives"]}
    takes = {flow: s["index"] for s in slices for flow in s["takes"]}
    assert gives.keys() == takes.keys() and gives
    assert len(gives) == sum(len(s["gives"]) for s in slices) == sum(len(s["takes"]) for s in slices)
    assert sorted((gives[f], takes[f]) for f in gives) == sorted(tokens(program))
    waits = sum((i.wait_rd | i.wait_wr << 4).bit_count() for i in program.instructions)
    assert len(gives) == waits
    for flow, giver in gives.items():
        taker = program.instructions[takes[flow]]
        unit = program.instructions[giver].spec.unit
        assert (taker.wait_rd | taker.wait_wr) >> unit & 1
        visible = min(timing.rd[giver], timing.retire[giver]) + 1
        assert visible <= (timing.issue[takes[flow]])


def test_traces_can_be_joined(program: Program, timing: Timing) -> None:
    both = trace(program, timing, "first", 1) + trace(program, timing, "second", 2)
    uuids = [dict(fields(dict(fields(packet))[60]))[1] for _, packet in fields(both) if 60 in dict(fields(packet))]
    assert len(uuids) == len(set(uuids))


def test_perfetto_reads_it(program: Program, timing: Timing) -> None:
    """The same by Perfetto's own definitions, without a field that they do not know."""
    pytest.importorskip("perfetto", reason="needs the perfetto package")
    from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent

    data = trace(program, timing, "x")
    whole = Trace()
    whole.ParseFromString(data)
    assert whole.SerializeToString(deterministic=True) and len(whole.SerializeToString()) == len(data)
    mine = read(data)
    names: dict[int, str] = {}
    begins = []
    for packet in whole.packet:
        names.update({entry.iid: entry.name for entry in packet.interned_data.event_names})
        if packet.track_event.type == TrackEvent.TYPE_SLICE_BEGIN:
            begins.append((packet.timestamp, names[packet.track_event.name_iid],
                           sorted(packet.track_event.flow_ids), sorted(packet.track_event.terminating_flow_ids)))
    assert sorted(begins) == sorted((s["start"], s["name"], sorted(s["gives"]), sorted(s["takes"]))
                                    for s in mine["slices"])
    tracks = {p.track_descriptor.uuid: p.track_descriptor for p in whole.packet if p.HasField("track_descriptor")}
    assert all(t.parent_uuid in tracks for t in tracks.values() if t.parent_uuid)
    assert {t.name for t in tracks.values() if t.HasField("counter")} == set(mine["samples"])


@given(st.integers(0, (1 << 64) - 1))
def test_varints_come_back(value: int) -> None:
    assert list(fields(varint(8) + varint(value))) == [(1, value)]
