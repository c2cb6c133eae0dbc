"""Rows that the index memory chooses: exact where the indices are known, else held to the named extent."""

from __future__ import annotations

import re
from functools import partial

import numpy as np
import pytest

from tilescore.rtl.spec.config import TileConfig, load_tile
from tilescore.rtl.spec.errors import ProgramError, SimulationError
from tilescore.rtl.spec.isa import Halt, Instruction, Load, ScaleLayout, Space, Store, Unit
from tilescore.sim.hardware.toolchain import missing_for_verilator
from tilescore.sim.hardware.verilator_run import run_verilator
from tilescore.sim.legality.verifier import verify
from tilescore.sim.program import Program, Region, Segment
from tilescore.sim.reference.run import run_reference
from tilescore.sim.result import check_results, check_times
from tilescore.sim.timing import time_program
from tilescore.tests import instructions

TILE = TileConfig(name="t", rows=4, cols=4, lanes=8, scales=("e8m0",), a_buffer_bytes=4096, a_banks=4,
                  b_buffer_bytes=4096, b_banks=4, acc_banks=8, acc_bank_rows=16, stat_banks=4, stat_bank_rows=8,
                  index_entries=64, imem_page=32, queue_depth=8, bus_bytes=16, dram_latency=20)
L, S, M, V, D = (1 << unit for unit in Unit)
SIZE, IMAGE, FREE, INDICES = 64, 1024, 2048, 4096
"""Rows "x" at 0, "y" at SIZE, each four rows of 16 bytes; the program at IMAGE, nothing at FREE; lists at INDICES."""

ALL = Region("all", 0, 1, 8192, 8192, "uint8", (8192,))
LEFT = f"bytes 0..{SIZE - 1}"
pytestmark = pytest.mark.usefixtures("all_written")

needs_verilator = pytest.mark.skipif(bool(missing_for_verilator()), reason="missing Verilator or a C++ compiler")


def program(*body: Instruction, lists: object = (), extents: dict | None = None, **fields) -> Program:
    """The instructions and a HALT. lists: the index segment's words, None for no data, or a function."""
    data = lists if lists is None or callable(lists) else np.array(list(lists) + [0] * 256, "<u4")[:256].view(np.uint8)
    segments = [Segment("x", 0, np.full(SIZE, 0xAB, np.uint8)), Segment("y", SIZE, np.full(SIZE, 0xCD, np.uint8)),
                Segment("lists", INDICES, data, 1024), Segment("scales", 6144, np.zeros(1024, np.uint8))]
    return Program(**{"config": TILE, "instructions": [*body, Halt()], "program_addr": IMAGE, "dram_bytes": 8192,
                      "segments": segments, "extents": extents or {}, **fields})


def index(at: int = 0, **fields) -> Load:
    return Load(**{"space": Space.INDEX, "rows": 1, "row_bytes": 16, "dram_addr": INDICES + at, "signal_wr": L | S,
                   **fields})


gather, scatter = (partial(made, wait_wr=L) for made in (instructions.gather, instructions.scatter))
load = partial(instructions.load, addr=64)


def only_store(**fields) -> tuple[Instruction, Instruction]:
    """The list for a SCATTER alone, and it."""
    return index(signal_wr=S), scatter(**fields)


def only_load(**fields) -> tuple[Instruction, Instruction]:
    return index(signal_wr=L), gather(**fields)


def rejected(message: str, made: Program) -> None:
    with pytest.raises(ProgramError, match=re.escape(message)):
        verify(made)


# Known indices -------------------------------------------------------------------------------------------


def test_a_scatter_into_the_next_segment_is_ordered_there() -> None:
    """Indices 4..7 from "x" are the rows of "y": without a token a LOAD of them may get the old bytes."""
    made = (*only_store(), load(dram_addr=SIZE))
    rejected(f"instruction 2 (LOAD): DRAM bytes {SIZE}..{2 * SIZE - 1} may still be written by instruction 1 (SCATTER)",
             program(*made, lists=[4, 5, 6, 7]))
    verify(program(*made, lists=[0, 1, 2, 3]))
    verify(program(*only_store(signal_wr=L), load(dram_addr=SIZE, wait_wr=S), lists=[4, 5, 6, 7]))


def test_a_gather_from_the_next_segment_is_ordered_there() -> None:
    store = Store(space=Space.ACC, rows=4, row_bytes=16, row_stride=16, dram_addr=SIZE)
    rejected(f"instruction 2 (STORE): DRAM bytes {SIZE}..{2 * SIZE - 1} may still be read by instruction 1 (GATHER)",
             program(*only_load(), store, lists=[7, 7, 7, 4]))
    verify(program(*only_load(), store, lists=[3, 0, 3, 0]))


@pytest.mark.parametrize("made", [only_store, only_load])
def test_a_row_outside_dram_is_rejected(made) -> None:
    rejected("dram_addr: row 2, index 1048576, is at bytes 16777216..16777231, outside DRAM, bytes 0..8191",
             program(*made(), lists=[0, 1, 1 << 20, 2]))
    rejected("row 3, index 512, is at bytes 8192..8207, outside DRAM", program(*made(), lists=[0, 1, 511, 512]))
    verify(program(*only_load(), lists=[0, 1, 2, 511]))


def test_addresses_do_not_wrap() -> None:
    """Index 512 times 2**31 is 2**40, in hardware row 0 again."""
    rejected(f"row 0, index 512, is at bytes {1 << 40}..", program(*only_load(row_stride=1 << 31), lists=[512]))


def test_a_beat_that_sticks_out_of_dram_is_rejected() -> None:
    rejected("dram_addr: bytes 8192..8207 are outside the 8200 bytes of DRAM",
             program(*only_load(rows=1, row_bytes=8), lists=[512], dram_bytes=8200))


def test_a_row_over_the_program_is_rejected() -> None:
    rejected("dram_addr: row 1, index 64, writes the program image, bytes 1024..2047",
             program(*only_store(), lists=[3, 64, 130, 2]))
    rejected("row 3, index 127, writes the program image", program(*only_store(), lists=[128, 63, 0, 127]))
    verify(program(*only_store(), lists=[128, 63, 0, 129]))
    verify(program(*only_load(), lists=[3, 64, 130, 2]))


SCALED = {"space": Space.A, "row_bytes": 32, "row_stride": 32, "rows": 1, "scale": ScaleLayout.G4, "scale_stride": 16}


def test_scale_rows_are_held_to_the_same() -> None:
    verify(program(*only_load(**SCALED, scale_addr=6144), lists=[3]))
    rejected("scale_addr: row 0, index 40, is at bytes 8192..8192, outside DRAM",
             program(*only_load(**SCALED, scale_addr=7552), lists=[40]))
    rejected("scale_addr: row 0, index 40, is at bytes 6784..6784, outside 'lists', bytes 4096..5119",
             program(*only_load(**SCALED, dram_addr=FREE, scale_addr=6144), lists=[40], extents={1: ("all", "lists")},
                     outputs=[ALL]))
    rejected("scale_addr: row 0, index 40, writes the program image",
             program(*only_store(**SCALED, dram_addr=FREE, scale_addr=512), lists=[40]))


def test_gathered_lists_are_known_too() -> None:
    """A GATHER to the index memory brings row 1 of the lists: indices 512.."""
    made = (index(signal_wr=L), gather(space=Space.INDEX, rows=1, dram_addr=INDICES, addr=4, signal_wr=L),
            gather(index_addr=4))
    rejected("instruction 2 (GATHER): dram_addr: row 1, index 512", program(*made, lists=[1, 0, 0, 0, 3, 512]))
    verify(program(*made, lists=[1, 0, 0, 0, 3, 511]))
    verify(program(*made, lists=[0, 0, 0, 0, 3, 512]))


def test_a_short_list_leaves_the_other_entries() -> None:
    made = (index(signal_wr=0), index(at=16, row_bytes=8, signal_wr=L), gather())
    rejected("row 3, index 600", program(*made, lists=[0, 0, 0, 600, 1, 2, 3, 4]))
    verify(program(*made, lists=[600, 600, 0, 0, 1, 2, 3, 4]))


def test_lists_may_be_made_when_they_are_needed() -> None:
    calls = []

    def lists() -> np.ndarray:
        calls.append(1)
        return np.full(256, 700, "<u4").view(np.uint8)

    rejected("index 700", program(index(), gather(rows=2), lists=lists))
    assert len(calls) == 1


# Run-time indices ----------------------------------------------------------------------------------------


def copied(*body: Instruction, **fields) -> Program:
    """Sixteen bytes of the lists go through A to FREE and come back as indices; instruction 3 on is the body."""
    return program(load(dram_addr=INDICES, rows=1, addr=0, signal_wr=S),
                   Store(space=Space.A, rows=1, row_bytes=16, dram_addr=FREE, wait_wr=L, signal_wr=L),
                   index(dram_addr=FREE, wait_wr=S), *body, **fields)


def test_indices_of_the_run_need_an_extent() -> None:
    rejected("instruction 3 (GATHER): dram_addr: index entries 0..3 get their values at run time (or from a segment "
             "without data)", copied(gather(), scatter(), lists=[1, 1, 1, 1]))
    verify(copied(gather(), scatter(), lists=[1, 1, 1, 1], extents={3: ("x",), 4: ("y",)}))


def test_a_list_that_a_store_changed_is_not_known() -> None:
    store = Store(space=Space.ACC, rows=1, row_bytes=16, dram_addr=INDICES, signal_wr=L)
    rejected("get their values at run time", program(store, index(wait_wr=S, signal_wr=L), gather()))
    verify(program(index(signal_wr=L | S), gather(), Store(space=Space.ACC, rows=1, row_bytes=16, dram_addr=INDICES,
                                                           wait_wr=L)))


def test_segments_without_data_and_bytes_without_segment_are_not_known() -> None:
    for fields in ({"lists": None}, {"segments": []}):
        rejected("get their values at run time", program(*only_load(), **fields))
    verify(program(*only_load(), lists=None, extents={1: ("x",)}))


def test_run_time_rows_may_be_anywhere_in_their_extent() -> None:
    extents = {3: ("x",), 4: ("y",)}
    fence = gather(), scatter()
    for addr, text in ((SIZE, "bytes 64..79 may still be written by instruction 4"), (2 * SIZE - 16, "bytes 112..127")):
        rejected(text, copied(*fence, load(rows=1, dram_addr=addr), extents=extents))
    verify(copied(*fence, load(rows=1, dram_addr=2 * SIZE), load(addr=64, dram_addr=0), extents=extents))


def test_an_extent_that_no_row_can_be_in() -> None:
    for fields in ({"dram_addr": SIZE}, {"row_bytes": 80}, {"dram_addr": 80}):
        rejected("is inside 'x', bytes 0..63", copied(gather(**fields), scatter(), extents={3: ("x",), 4: ("y",)}))
    rejected("no row of 16 bytes, 0 apart from 0, is inside 'y'",
             copied(gather(row_stride=0), scatter(), extents={3: ("y",), 4: ("y",)}))
    verify(copied(gather(), scatter(), extents={3: ("y",), 4: ("x",)}))


def test_an_extent_over_the_program_takes_no_stores() -> None:
    rejected("'all' reaches into the program image",
             copied(gather(), scatter(), extents={3: ("scales",), 4: ("all",)}, outputs=[ALL]))
    verify(copied(scatter(signal_wr=L), gather(wait_wr=L | S), extents={3: ("x",), 4: ("all",)}, outputs=[ALL]))


def test_known_indices_are_held_to_their_extent() -> None:
    rejected(f"instruction 1 (SCATTER): dram_addr: row 1, index 4, is at bytes 64..79, outside 'x', {LEFT}",
             program(*only_store(), lists=[0, 4], extents={1: ("x",)}))
    rejected("row 0, index 0, is at bytes 0..15, outside 'y', bytes 64..127",
             program(*only_store(), lists=[0, 4], extents={1: ("y",)}))


@pytest.mark.parametrize(("lists", "text"), [
    ([0, 1, 4, 2], f"instruction 3 (GATHER): dram_addr: row 2, index 4, is at bytes 64..79, outside 'x', {LEFT}"),
    ([0, 1, 2, 1 << 31], f"row 3, index {1 << 31}"),
])
def test_the_reference_refuses_to_leave_an_extent(lists: list[int], text: str) -> None:
    made = copied(gather(), scatter(dram_addr=SIZE), lists=lists, extents={3: ("x",), 4: ("y",)})
    verify(made)
    with pytest.raises(SimulationError, match=re.escape(text)):
        run_reference(made)


def test_the_reference_refuses_scale_rows_too() -> None:
    made = copied(scatter(rows=1, dram_addr=FREE, signal_wr=L),
                  gather(**SCALED | {"wait_wr": L | S}, scale_addr=6144), lists=[65],
                  extents={3: ("free",), 4: ("all", "scales")},
                  outputs=[ALL, Region("free", FREE, 1, 2048, 2048, "uint8", (2048,))])
    verify(made)
    with pytest.raises(SimulationError, match=r"scale_addr: row 0, index 65, is at bytes 7184..7184, outside 'scales'"):
        run_reference(made)


@needs_verilator
def test_run_time_indices_with_duplicates_at_every_level() -> None:
    """Rows with one index: the last one stays, in the hardware too."""
    values = load(space=Space.ACC, dram_addr=INDICES + 64, addr=0, signal_wr=S)
    out = Region("out", SIZE, 4, 16, 16, "uint32", (4, 4))
    made = copied(values, scatter(dram_addr=SIZE), lists=[2, 0, 2, 2, *[0] * 12, *range(100, 116)],
                  extents={4: ("y",)}, outputs=[out], config=load_tile("nano"))
    made.instructions[2].signal_wr = 0
    verify(made)
    state, timing = run_reference(made), time_program(made)
    hardware = run_verilator(made, 2 * timing.cycles + 1000)
    check_results(made, state.dram, hardware.dram)
    check_times(made, timing, hardware)
    assert out.read(state.dram).tolist()[2] == [112, 113, 114, 115]
    assert out.read(state.dram).tolist()[0] == [104, 105, 106, 107]


# The table -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("extents", "text"), [
    ({9: ("x",)}, "extents: instruction 9 of 3"),
    ({-1: ("x",)}, "extents: instruction -1 of 3"),
    ({0: ("x",)}, "extents: instruction 0 (LOAD) has no rows that the index memory chooses"),
    ({1: ("z",)}, "extents: instruction 1 (GATHER): no segment or output is named 'z'"),
    ({1: ("x", "y")}, "extents: instruction 1 (GATHER): expected 1 names, got 2"),
    ({1: ()}, "expected 1 names, got 0"),
])
def test_wrong_extents(extents: dict, text: str) -> None:
    with pytest.raises(ProgramError, match=re.escape(text)):
        program(*only_load(), extents=extents)


def test_the_table_is_in_the_file(tmp_path) -> None:
    made = program(*only_load(**SCALED, scale_addr=6144), extents={1: ("x", "scales")})
    made.save(tmp_path / "p.score")
    assert Program.load(tmp_path / "p.score").extents == {1: ("x", "scales")}
