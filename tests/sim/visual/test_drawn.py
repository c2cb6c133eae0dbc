"""What is drawn and packed of a program equals what plain loops over its cycles, addresses and instructions say."""

from __future__ import annotations

import base64
import json
import xml.etree.ElementTree as ET
import zlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilescore.rtl.spec.assembly import assemble
from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.isa import Space, Unit
from tilescore.sim.energy_components import COMPONENTS
from tilescore.sim.legality.accesses import accesses
from tilescore.sim.program import Program
from tilescore.sim.simulate import simulate
from tilescore.sim.timing import STALL_CAUSES, Timing
from tilescore.sim.visual.bars import energy_bars, ledger_bars
from tilescore.sim.visual.fields import alike, field_columns
from tilescore.sim.visual.occupancy import MEMORIES, Occupancy, occupancy_of, sizes, values_of
from tilescore.sim.visual.pack import pack, unpack
from tilescore.sim.visual.records import records
from tilescore.sim.visual.segments import segments_of
from tilescore.sim.visual.svg import SERIES, percentages, ticks
from tilescore.sim.visual.timelines import activity, bin_edges, occupancy

NANO = load_tile("nano")


def used(program: Program, timing: Timing) -> dict[str, Occupancy]:
    return occupancy_of(values_of(program, timing, field_columns(program)), program.config)


# ---- segments ----


def test_bins_of_any_size_add_up_to_the_ledger(program: Program, timing: Timing, rng: np.random.Generator) -> None:
    edges = np.concatenate([[0], np.sort(rng.choice(timing.cycles, 9)), [timing.cycles]])
    for unit, causes in segments_of(program, timing).items():
        sums = {cause: found.binned(edges).sum() for cause, found in causes.items()}
        assert sums == pytest.approx(timing.ledger[unit])


def test_every_cycle_of_a_unit_has_one_cause_and_busy_ones_are_its_instructions(program: Program,
                                                                               timing: Timing) -> None:
    for unit, causes in segments_of(program, timing).items():
        taken: Counter[int] = Counter()
        for cause, found in causes.items():
            if cause != "fill":  # the same spans as compute
                for start, length in zip(found.start.tolist(), found.length.tolist(), strict=True):
                    taken.update(range(start, start + length))
        assert taken == Counter(range(timing.cycles)), unit
        busy = causes.get("busy", causes.get("compute"))
        assert busy is not None
        own = [int(timing.issue[n]) for n, i in enumerate(program.instructions) if i.spec.unit.name.lower() == unit]
        assert busy.start.tolist() == ([timing.boot[1]] if unit == "load" else []) + own


def test_the_last_stall_ends_where_its_instruction_issues(program: Program, timing: Timing) -> None:
    found = segments_of(program, timing)
    own = timing.stalls[(timing.stalls[:, 0] >= 0) & (timing.stalls[:, 1] < STALL_CAUSES.index("queue_full"))]
    for row, (index, cause, cycles) in enumerate(own.tolist()):
        spans = found[program.instructions[index].spec.unit.name.lower()][STALL_CAUSES[cause]]
        later = own[row:][own[row:, 0] == index, 2].sum()
        assert (timing.issue[index] - later, cycles) in set(
            zip(spans.start.tolist(), spans.length.tolist(), strict=True))


# ---- occupancy ----


def occupied(program: Program, timing: Timing, space: Space) -> np.ndarray:
    """Bytes in use of a memory in every cycle, address by address."""
    values: dict[int, list[list[int]]] = {}
    for n, instruction in enumerate(program.instructions):
        if instruction.spec.unit == Unit.DISPATCH:
            continue
        found = accesses(instruction, program.config)
        reads = [a.run for a in found.reads if a.space == space]
        writes = [a.run for a in found.writes if a.space == space]
        if space == Space.INDEX:
            reads, writes = ([run] if run else [] for run in (found.index_read, found.index_write))
        late = found.name == "MATMUL" and space == Space.ACC
        for run in reads:
            for address in {run.addr + b * run.pitch + o for b in range(run.blocks) for o in range(run.length)}:
                if address in values:
                    end = int((timing.retire if late else timing.rd)[n]) + 1
                    values[address][-1][1] = max(values[address][-1][1], end)
        for run in writes:
            for address in {run.addr + b * run.pitch + o for b in range(run.blocks) for o in range(run.length)}:
                values.setdefault(address, []).append([int(timing.issue[n]), int(timing.retire[n]) + 1])
    used = np.zeros(timing.cycles + 1, bool)
    total = np.zeros(timing.cycles + 1, np.int64)
    for spans in values.values():
        used[:] = False
        for start, end in spans:
            used[start:end] = True
        total += used
    return total[:-1] * sizes(space, program.config)[0]


@pytest.mark.parametrize("space", MEMORIES, ids=lambda s: s.name)
def test_occupancy_is_that_of_every_address_in_every_cycle(space: Space, program: Program, timing: Timing) -> None:
    found = used(program, timing)[space.name]
    at = np.searchsorted(found.times, np.arange(timing.cycles), side="right") - 1
    expected = occupied(program, timing, space)
    assert np.array_equal(found.used[at], expected)
    assert found.peak == expected.max() <= found.capacity
    assert found.mean(timing.cycles) == pytest.approx(expected.mean())
    edges = bin_edges(timing.cycles)
    for i, most in enumerate(found.peaks(edges).tolist()):
        inside = expected[int(edges[i]):max(int(np.ceil(edges[i + 1])), int(edges[i]) + 1)]
        assert most == inside.max()


def test_some_memory_is_used(program: Program, timing: Timing) -> None:
    assert any(m.peak for m in used(program, timing).values())


def test_instructions_are_alike_exactly_when_the_kept_fields_are(program: Program) -> None:
    for columns in field_columns(program):
        number, first = alike(columns, {"dram_addr", "addr"})
        kept = [tuple(int(v[i]) for name, v in columns.columns.items() if name not in ("dram_addr", "addr"))
                for i in range(columns.index.size)]
        classes = {(n, k) for n, k in zip(number.tolist(), kept, strict=True)}
        assert len(classes) == len(set(kept)) == len(first)
        assert number[first].tolist() == list(range(len(first)))


# ---- packing ----


def plain_unpack(packed: dict) -> dict[str, list[int]]:
    """By the format's description, value by value."""
    raw, at, out = zlib.decompress(base64.b64decode(packed["data"])), 0, {}
    for name, width, differ in packed["columns"]:
        values = []
        for row in range(packed["rows"]):
            planes = bytes(raw[at + plane * packed["rows"] + row] for plane in range(width))
            values.append(int.from_bytes(planes, "little", signed=True) if width else 0)
            if differ and row:
                values[-1] += values[-2]
        out[name] = values
        at += width * packed["rows"]
    assert at == len(raw)
    return out


@given(st.integers(0, 30).flatmap(lambda n: st.dictionaries(
    st.text(max_size=3), st.lists(st.integers(-(1 << 48), 1 << 48) | st.integers(-300, 300), min_size=n, max_size=n),
    min_size=1, max_size=4)))
def test_columns_come_back(columns: dict[str, list[int]]) -> None:
    packed = pack({name: np.array(values, np.int64) for name, values in columns.items()})
    assert plain_unpack(packed) == columns
    assert {name: values.tolist() for name, values in unpack(packed).items()} == columns


    """Fields, cycles and stalls read back by plain code give the program and its times."""
def test_records_hold_every_instruction(program: Program, timing: Timing) -> None:
    """Fields, cycles and stalls read back by plain code give the program and its times."""
    made = json.loads(json.dumps(records(program, timing, field_columns(program))))
    made |= json.loads(zlib.decompress(base64.b64decode(made["words"])))
    seen = set()
    for unit, table in made["units"].items():
        times, fields = plain_unpack(table["times"]), plain_unpack(table["fields"])
        for row, index in enumerate(times["index"]):
            shape = made["shapes"][times["shape"][row]]
            instruction = program.boot_load() if index < 0 else program.instructions[index]
            seen.add(index)
            (read,) = assemble(shape[0])
            for name, values in fields.items():
                if name not in ("label", "dispatch") and hasattr(read, name):
                    setattr(read, name, values[row])
            assert read == instruction and instruction.spec.unit.name.lower() == unit
            want = timing.boot if index < 0 else (timing.dispatch[index], timing.issue[index], timing.rd[index],
                                                  timing.retire[index])
            issue = times["issue"][row]
            assert (issue + fields["dispatch"][row], issue, issue + shape[2], issue + shape[3]) == tuple(want)
            assert index < 0 or shape[1] == timing.occupancy[index]
    assert seen == {-1, *range(len(program.instructions))}
    stalls = plain_unpack(made["stalls"])
    assert list(zip(stalls["index"], stalls["cause"], stalls["cycles"], strict=True)) == [
        tuple(row) for row in timing.stalls.tolist()]
    read_bytes = sum(made["shapes"][s][4] for t in made["units"].values() for s in plain_unpack(t["times"])["shape"])
    assert read_bytes == timing.events["dram_read_beats"] * program.config.bus_bytes


# ---- drawings ----


@given(st.lists(st.floats(0, 1e12), min_size=1, max_size=14))
def test_printed_shares_sum_to_a_hundred(values: list[float]) -> None:
    total = sum(round(10 * float(text.removesuffix(" %"))) for text in percentages(values))
    assert total == (1000 if sum(values) > 0 else 0)


@given(st.floats(1e-3, 1e12))
def test_ticks_are_few_and_inside(top: float) -> None:
    found = ticks(top)
    assert 2 <= len(found) <= 7 and found[0] == 0 and found[-1] <= top * (1 + 1e-9)


def test_drawings_stand_alone(program: Program, timing: Timing) -> None:
    """Each is a whole SVG file without references, styles or scripts, and bars fill their width."""
    result = simulate(program, ("timing",))
    drawings = [activity(segments_of(program, timing), timing.cycles),
                occupancy(used(program, timing), timing.cycles),
                ledger_bars([("", timing.ledger)]), energy_bars([("a <name>", result.energy.components)])]
    for text in drawings:
        root = ET.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert not [e for e in root.iter() if {"style", "class", "href"} & set(e.attrib)]
    bars: dict[str, float] = {}
    for rect in ET.fromstring(drawings[2]).iter("{http://www.w3.org/2000/svg}rect"):
        if len(rect):
            bars[rect.attrib["y"]] = bars.get(rect.attrib["y"], 0) + float(rect.attrib["width"])
    assert len(bars) == 5 and max(bars.values()) - min(bars.values()) < 0.1


def test_colours_tell_components_apart() -> None:
    assert len(set(SERIES)) == len(SERIES) >= len(COMPONENTS)


def test_a_result_shows_itself(program: Program) -> None:
    result = simulate(program, ("timing",))
    shown = result._repr_html_()
    assert f"{result.cycles:,}" in shown and shown.count("<svg") == 2
    ET.fromstring(shown)
