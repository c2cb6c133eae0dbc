"""Planted bugs, each of which the suite's own checks must catch: a check that catches nothing is no check.

*Bugs in the hardware* are planted in a copy of ``rtl/`` by replacing one expression each (a replacement that no longer
applies is an error, so a bug cannot silently vanish with the line it was planted in). All of them go into one model,
each behind a comparison with a number that the test bench sends in address bits that the tile does not need; number 0
is the tile without a bug. The same random programs that compare the levels then have to tell each bug from the tile.

*Bugs in the compiler and the models* are planted by monkeypatching; the verifier or the comparison has to notice.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tilescore import rtl
from tilescore.compiler import builder, dependencies
from tilescore.compiler.self_test import self_test, self_test_program
from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.errors import ProgramError, SimulationError
from tilescore.rtl.spec.isa import Unit
from tilescore.sim import timing
from tilescore.sim.hardware import verilator_run
from tilescore.sim.hardware.run import DramModel, interpret
from tilescore.sim.hardware.toolchain import cache_dir, missing_for_verilator
from tilescore.sim.instructions import Instructions
from tilescore.sim.legality import indexed_rows, initialized, verifier
from tilescore.sim.lib.strided import Strided
from tilescore.sim.numerics import accumulators
from tilescore.sim.program import Program
from tilescore.sim.reference.run import run_reference
from tilescore.sim.result import check_events, check_results, check_status, check_times
from tilescore.sim.timing import time_program
from tilescore.testing.random_program import random_program
from tilescore.tests.sim.legality import test_indexed_rows

needs_verilator = pytest.mark.skipif(bool(missing_for_verilator()),
                                     reason="Verilator level: missing " + ", ".join(missing_for_verilator()))

TILE = TileConfig(
    name="mutants", rows=4, cols=4, lanes=8, formats=("e4m3",), scales=("e8m0",),
    a_buffer_bytes=4 * 2 * 16 * 20, a_banks=2, b_buffer_bytes=4 * 2 * 16 * 20, b_banks=2, acc_banks=4,
    acc_bank_rows=10, stat_banks=3, stat_bank_rows=4, index_entries=16, imem_page=16, queue_depth=3, bus_bytes=16,
    dram_latency=5, dma_outstanding=2)
"""Small, so that its model compiles fast; with block scales, so that what they need is there to be broken."""

SELECT_BIT = 32
"""The number of the bug is in ``program_addr`` from this bit up; the DRAM is smaller."""

PROGRAMS = 40
"""Random programs that a bug has to survive to count as missed."""


@dataclasses.dataclass(frozen=True)
class Bug:
    """In ``file`` of ``rtl/``, ``right`` (which must be there once) becomes ``wrong``; N is the bug's number."""

    name: str
    file: str
    right: str
    wrong: str


BUGS = (
    Bug("wrong shift in a PE", "arith/dot.py", "shifted.eq(product << shift)",
        "shifted.eq(product << Mux((BUG == N) & (shift == 11), 10, shift))"),
    Bug("dropped carry in the accumulator", "matrix/pe.py", "value.eq(_sum(Mux(now.first, 0, value), term, carry))",
        "value.eq(Mux(BUG == N, without_carry(Mux(now.first, 0, value), term + carry), "
        "_sum(Mux(now.first, 0, value), term, carry)))"),
    Bug("flags not cleared by the first block", "matrix/pe.py", "flags.eq(Mux(now.first, 0, flags.as_value()) |",
        "flags.eq(Mux(now.first & (BUG != N), 0, flags.as_value()) |"),
    Bug("scale byte of the next block", "dma/scale_register.py", "taken.eq(held >> (self.position << 3))",
        "taken.eq(held >> ((self.position ^ (BUG == N)) << 3))"),
    Bug("packed scale bytes read once only", "dma/scale_walk.py", "wanted & (first_row | (stride != 0))",
        "wanted & (first_row | ((stride != 0) & (BUG != N)))"),
    Bug("scale bytes gathered from row 0", "dma/load_unit.py",
        "row_stride = Mux(slots.is_scale, scales.scale_stride, stride)",
        "row_stride = Mux(slots.is_scale, Mux(BUG == N, 0, scales.scale_stride), stride)"),
    Bug("scale bytes stored at the start of a beat", "dma/store_unit.py", "rotate2.eq(start)",
        "rotate2.eq(Mux(BUG == N, 0, start))"),
    Bug("scale byte of a block's last group", "matrix/scale_edge.py", "with m.If(self.take & self.mode.first):",
        "with m.If(self.take & (self.mode.first | (BUG == N))):"),
    Bug("block ends a step early", "matrix/sequencer.py", "a_step.block_last.eq(block_last)",
        "a_step.block_last.eq((left & block_mask) == ((BUG == N) & block_mask[0]))"),
    Bug("every step counts as a block", "matrix/sequencer.py", "block_last & (command.scale == scale)",
        "(block_last | (BUG == N)) & (command.scale == scale)"),
    Bug("block term rounds down", "matrix/block_term.py", "carry.eq(guard & (sticky | shifted[0]))",
        "carry.eq(guard & (sticky | shifted[0]) & (BUG != N))"),
    Bug("inexact flag lost", "matrix/block_term.py", "flags.inexact.eq((guard | sticky) & ~nan)",
        "flags.inexact.eq((guard | sticky) & ~nan & (BUG != N))"),
    Bug("late token", "control/issue.py", "tokens.give_wr[unit].eq(port.wr_mask)",
        "tokens.give_wr[unit].eq(Mux(BUG == N, 0, port.wr_mask))\n            late = Signal(5, name=f'late_{name}')\n"
        "            m.d.sync += late.eq(Mux(port.wr, port.wr_mask, 0))\n            with m.If(BUG == N):\n"
        "                m.d.comb += tokens.give_wr[unit].eq(late)"),
    Bug("occupancy of a MATMUL off by one", "matrix/sequencer.py",
        "new_slot_last.eq(Mux(new.k_steps > rows, new.k_steps, rows) - 1)",
        "new_slot_last.eq(Mux(new.k_steps > rows, new.k_steps, rows) - (BUG != N))"),
    Bug("swapped operand bank", "matrix/operand_slice.py", "bank.eq(self._bank_of(addr))",
        "bank.eq(self._bank_of(addr) ^ (BUG == N))"),
    Bug("row maximum not started afresh", "matrix/row_max.py", "Mux(stages[STAGE_MAXIMUM].init, self.maximum, old)",
        "Mux(stages[STAGE_MAXIMUM].init & (BUG != N), self.maximum, old)"),
    Bug("ties away from even", "arith/pack.py", "increment = guard & (sticky | significand[0])",
        "increment = guard & (sticky | significand[0] | (BUG == N))"),
    Bug("mask off by one", "matrix/sequencer.py",
        '("limit", "mask", new.mask_base + 1)', '("limit", "mask", new.mask_base + (BUG != N))'),
    Bug("lower limit of a mask off by one", "matrix/drain.py", "(self.control_in.skip != 0)",
        "(self.control_in.skip > (BUG == N))"),
    Bug("wait for the store unit ignored", "control/issue.py", "missing.eq(head.wait_rd & ~self.present_rd |",
        "missing.eq(head.wait_rd & ~self.present_rd & Mux(BUG == N, 0b1101, 0b1111) |"),
    Bug("wrong index of a gather", "dma/load_unit.py", "self.index.addr.eq(index_addr)",
        "self.index.addr.eq(index_addr + (BUG == N))"),
    Bug("flags lost in a merge", "matrix/drain.py", "Mux(merge.merge, partial.flags.as_value(), 0)",
        "Mux(merge.merge & (BUG != N), partial.flags.as_value(), 0)"),
    Bug("store to the wrong bytes of a beat", "dma/store_unit.py", "stage.strb.eq(chip.mask << shift)",
        "stage.strb.eq(chip.mask << Mux(BUG == N, 0, shift))"),
    Bug("row sum not started afresh", "vector/reduce.py", "total.eq(Mux(first_of_sum, 0, total) + partial)",
        "total.eq(Mux(first_of_sum & (BUG != N), 0, total) + partial)"),
    Bug("quantizer rounds down", "arith/quantize.py", "(guard & (sticky | quotient[0]))",
        "(guard & (sticky | quotient[0]) & (BUG != N))"),
    Bug("operands of a last step do not move on", "matrix/pe.py", "with m.If(self.a_in.tags.valid):",
        "with m.If(self.a_in.tags.valid & ~((BUG == N) & self.a_in.tags.last)):"),
    Bug("control of raw rows stands still", "matrix/drain.py", "with m.If(before.valid):",
        "with m.If(before.valid & ~((BUG == N) & before.raw)):"),
    Bug("vector unit stands still with rows in it", "vector/unit.py", "active.eq(Cat(rows).any())",
        "active.eq(Cat(rows[:8]).any() | (Cat(rows[8:]).any() & (BUG != N)))"),
    Bug("event not counted", "tile.py", '"index_reads": load.index.en + store.index.en',
        '"index_reads": load.index.en + (store.index.en & (BUG != N))'),
)

SELECTOR = f'''"""Selects a planted bug."""
from amaranth.hdl import Cat, Mux, Signal

BUG = Signal(8, name="bug")


def without_carry(a, b):
    """a + b without the carry from bit 23 to bit 24."""
    return Cat((a[:24] + b[:24])[:24], (a[24:] + b[24:])[:{TILE.acc_bits} - 24]).as_signed()
'''


def plant(folder: Path) -> None:
    """Copy ``rtl/`` to ``folder`` with every bug in it."""
    source = Path(rtl.__file__).parent
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "planted.py").write_text(SELECTOR)
    edits = [dataclasses.replace(bug, wrong=re.sub(r"\bN\b", str(number), bug.wrong))
             for number, bug in enumerate(BUGS, 1)]
    edits.append(Bug("selector", "tile.py", "dispatcher.program_addr.eq(self.program_addr)",
                     f"dispatcher.program_addr.eq(self.program_addr[:{SELECT_BIT}]), "
                     f"BUG.eq(self.program_addr[{SELECT_BIT}:])"))
    for bug in edits:
        path = folder / bug.file
        text = path.read_text()
        assert text.count(bug.right) == 1, f"{bug.name}: {bug.right!r} is in {bug.file} {text.count(bug.right)} times"
        path.write_text(text.replace(bug.right, bug.wrong))
    for name in {bug.file for bug in edits}:
        path = folder / name
        dots = "." * (name.count("/") + 1)
        lines = path.read_text().splitlines(keepends=True)
        first = next(n for n, line in enumerate(lines)
                     if line.startswith(("from ", "import ")) and "__future__" not in line)
        lines.insert(first, f"from {dots}planted import BUG, Mux, Signal, without_carry\n")
        path.write_text("".join(lines))


def mutant_netlist(package: Path) -> str:
    """Netlist of the tile of a planted copy of ``rtl/``, which is imported as a package of its own."""
    from tilescore.rtl.export.verilog import netlist

    sys.path.insert(0, str(package.parent))
    try:
        settings = importlib.import_module(f"{package.name}.spec.config")
        config = settings.TileConfig.from_dict(TILE.to_dict(), source="test")
        tile = importlib.import_module(f"{package.name}.tile").Tile(config)
        # Cells are not taken apart, so that the selector reaches into them.
        return netlist(tile, "tile", cells=False)
    finally:
        sys.path.remove(str(package.parent))


@pytest.fixture(scope="module")
def mutant(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled model of the tile with all bugs, from a cache of its own when nothing changed."""
    package = tmp_path_factory.mktemp("mutants") / "rtl_with_planted_bugs"
    plant(package)
    digest = hashlib.sha256(TILE.digest.encode())
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    folder = cache_dir("mutants", digest.hexdigest()[:16])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TILESCORE_CACHE", str(folder))
        patch.setattr("tilescore.rtl.export.verilog.tile_netlist", lambda config: mutant_netlist(package))
        return verilator_run.build_model(TILE)


@pytest.fixture(scope="module")
def programs() -> list[Program]:
    """The same programs in every run: that a bug is caught must not depend on luck."""
    return [random_program(TILE, np.random.default_rng([7, number]), 40) for number in range(PROGRAMS)]


def difference(model: Path, number: int, program: Program, folder: Path) -> str | None:
    """What tells the tile with bug ``number`` from the other levels, or None."""
    expected, state = time_program(program), run_reference(program)
    numbered = SimpleNamespace(config=program.config, initial_dram=program.initial_dram,
                               program_addr=program.program_addr | number << SELECT_BIT)
    try:
        raw = verilator_run._execute(model, numbered, 2 * expected.cycles + 1000, DramModel(), folder)
        found = interpret(program, raw)
        check_results(program, state.dram, found.dram)
        check_status(state.status, found.status)
        check_times(program, expected, found)
        check_events(expected, found)
    except SimulationError as error:
        return str(error)
    return None


def test_every_bug_has_its_place(tmp_path: Path) -> None:
    """Without building anything: the sources that the bugs are planted in, and that they are Python after it."""
    plant(tmp_path / "planted")
    for file in {bug.file for bug in BUGS} | {"planted.py", "tile.py"}:
        compile((tmp_path / "planted" / file).read_text(), file, "exec")


@pytest.mark.slow
@needs_verilator
def test_without_a_bug_nothing_is_reported(mutant: Path, programs: list[Program], tmp_path: Path) -> None:
    for program in programs:
        assert difference(mutant, 0, program, tmp_path) is None


@pytest.mark.slow
@needs_verilator
@pytest.mark.parametrize("number", range(1, len(BUGS) + 1), ids=[bug.name for bug in BUGS])
def test_bugs_in_the_hardware_are_caught(number: int, mutant: Path, programs: list[Program], tmp_path: Path) -> None:
    assert any(difference(mutant, number, program, tmp_path) for program in programs)


NOT_SEEN_BY_THE_SELF_TEST = (
    "late token", "occupancy of a MATMUL off by one", "event not counted",  # time and counts, which it does not compare
    "flags not cleared by the first block", "flags lost in a merge", "every step counts as a block",
    "scale bytes stored at the start of a beat", "row maximum not started afresh", "control of raw rows stands still")
"""What memory and flags after a board's self-test do not show; all others they must."""


@pytest.mark.slow
@needs_verilator
@pytest.mark.parametrize("name", ["no bug", *(bug.name for bug in BUGS
                                              if bug.name not in NOT_SEEN_BY_THE_SELF_TEST)])
def test_bugs_that_the_self_test_sees(name: str, mutant: Path, tmp_path: Path) -> None:
    number = ["no bug", *(bug.name for bug in BUGS)].index(name)
    assert bool(self_test_failure(mutant, number, tmp_path)) == (number > 0)


def self_test_failure(model: Path, number: int, folder: Path) -> str | None:
    """What the self-test of the tile with bug ``number`` shows on a board, or None."""
    program, test = self_test_program(TILE), self_test(TILE)
    numbered = SimpleNamespace(config=TILE, initial_dram=program.initial_dram,
                               program_addr=program.program_addr | number << SELECT_BIT)
    try:
        raw = verilator_run._execute(model, numbered, 20_000, DramModel(), folder)
        found = interpret(program, raw)
    except SimulationError as error:
        return str(error)
    if found.status != test.flags:
        return f"flags {found.status:#x}"
    return next((f"result {expected.name}" for expected in test.expected
                 if found.dram[expected.addr:expected.addr + len(expected.data)].tobytes() != expected.data), None)


# Compiler and models -------------------------------------------------------------------------------------


def rejected(programs: int = 10) -> int:
    """How many of these random programs the verifier rejects."""
    count = 0
    for number in range(programs):
        try:
            random_program(TILE, np.random.default_rng([7, number]), 40)
        except ProgramError:
            count += 1
    return count


def drop_a_token(original: Callable) -> Callable:
    return lambda instructions, pairs: original(instructions, {channel: found[:-1] for channel, found in pairs.items()})


def rd_for_wr(original: Callable) -> Callable:
    def assign(instructions, pairs) -> Instructions:
        found: dict = {}
        for (source, _, target), tokens in pairs.items():
            channel = source, dependencies.RD, target
            found[channel] = np.unique(np.concatenate([tokens, found.get(channel, tokens)]), axis=0)
        return original(instructions, found)
    return assign


def swap_consumer(original: Callable) -> Callable:
    def assign(instructions, pairs) -> Instructions:
        others = {channel: tokens for channel, tokens in pairs.items() if channel[2] != Unit.MATRIX}
        found = list(original(instructions, others))
        for (_, kind, target), tokens in pairs.items():
            if target == Unit.MATRIX:
                name = "signal_rd" if kind == dependencies.RD else "signal_wr"
                for producer in tokens[:, 0].tolist():
                    setattr(found[producer], name, getattr(found[producer], name) | 1 << Unit.VECTOR)
        return Instructions.of(found)
    return assign


@pytest.mark.parametrize("bug", [drop_a_token, rd_for_wr, swap_consumer])
def test_wrong_tokens_are_rejected(bug: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rejected() == 0
    monkeypatch.setattr(builder, "with_tokens", bug(builder.with_tokens))
    assert rejected() >= 8


@pytest.mark.parametrize("method", ["_pipeline_needs", "_dram_needs", "_index_needs"])
def test_forgotten_dependencies_are_rejected(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dependencies.DependencyAnalysis, method, lambda *arguments: None)
    assert rejected() > 0


def test_a_forgotten_bank_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    original = dependencies.DependencyAnalysis._add

    def add(self, index, unit, touched) -> None:
        original(self, index, unit, dataclasses.replace(touched, banks=touched.banks[1:]))

    monkeypatch.setattr(dependencies.DependencyAnalysis, "_add", add)
    assert rejected() >= 8


def test_a_page_in_the_wrong_half_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builder.split_pages

    def split(*arguments):
        instructions, labels = original(*arguments)
        for form in instructions.forms:
            if form.spec.name == "LOAD" and form.space == 4:
                form.addr ^= TILE.imem_page
        return instructions, labels

    monkeypatch.setattr(builder, "split_pages", split)
    assert rejected() == 10


def test_a_wrong_extent_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builder.ProgramBuilder._extents

    def extents(self, instructions):
        first = self._dram.segments[0].name
        return {index: (first,) * len(names) for index, names in original(self, instructions).items()}

    monkeypatch.setattr(builder.ProgramBuilder, "_extents", extents)
    assert rejected() > 0


def test_indices_that_lead_out_of_a_segment_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builder.ProgramBuilder.dram

    def dram(self, name, size=None, data=None, align=None):
        return original(self, name, size, data * 9 if name == "indices" else data, align)

    monkeypatch.setattr(builder.ProgramBuilder, "dram", dram)
    found = rejected()
    assert found > 0
    monkeypatch.setattr(indexed_rows.Extents, "check_rows", lambda *arguments: None)
    assert rejected() < found


def always_known(self, instruction, stream, stored) -> None:
    LOAD_INDICES(self, instruction, stream, False)


def row_0_only(self, index, instruction, number, stream) -> Strided:
    REGION(self, index, instruction, number, stream)
    return Strided(stream.addr, stream.row_bytes)


def first_extent(self, index, number) -> tuple[str | None, Strided]:
    return EXTENT_OF(self, index, 0)


LOAD_INDICES, REGION = indexed_rows.IndexedRows.load, indexed_rows.IndexedRows.region
EXTENT_OF = indexed_rows.Extents.of


@pytest.mark.usefixtures("all_written")
@pytest.mark.parametrize(("owner", "method", "bug"), [
    ("IndexedRows", "load", always_known), ("IndexedRows", "load", lambda *arguments: None),
    ("IndexedRows", "region", row_0_only), ("IndexedRows", "_check_image", lambda *arguments: None),
    ("IndexedRows", "_beats", lambda self, size: size), ("Extents", "of", first_extent),
    ("Extents", "check", lambda *arguments: None), ("Extents", "check_rows", lambda *arguments: None),
    ("Extents", "check_reachable", lambda *arguments: None)])
def test_checks_of_indexed_rows_are_tested(owner: str, method: str, bug: Callable,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests of `sim.legality.indexed_rows` fail without each of its checks."""
    def run() -> None:
        test_indexed_rows.test_a_scatter_into_the_next_segment_is_ordered_there()
        test_indexed_rows.test_a_row_over_the_program_is_rejected()
        test_indexed_rows.test_scale_rows_are_held_to_the_same()
        test_indexed_rows.test_a_beat_that_sticks_out_of_dram_is_rejected()
        test_indexed_rows.test_a_list_that_a_store_changed_is_not_known()
        test_indexed_rows.test_an_extent_that_no_row_can_be_in()
        test_indexed_rows.test_the_reference_refuses_scale_rows_too()

    run()
    monkeypatch.setattr(getattr(indexed_rows, owner), method, bug)
    with pytest.raises((pytest.fail.Exception, AssertionError, ProgramError, SimulationError)):
        run()


@pytest.fixture
def patched_duration(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str, int], None]]:
    """Change one duration of one instruction in the timing model."""
    original = timing.duration

    def change(name: str, field: str, by: int) -> None:
        def duration(instruction, config):
            right = original(instruction, config)
            if instruction.spec.name != name:
                return right
            return dataclasses.replace(right, **{field: getattr(right, field) + by})
        monkeypatch.setattr(timing, "duration", duration)
    yield change


@pytest.mark.slow
@needs_verilator
@pytest.mark.parametrize("name", ["LOAD", "GATHER", "STORE", "SCATTER", "MATMUL", "VECTOR"])
@pytest.mark.parametrize("field", ["occupancy", "rd", "wr"])
def test_wrong_durations_are_caught(name: str, field: str, patched_duration: Callable, mutant: Path,
                                    programs: list[Program], tmp_path: Path) -> None:
    patched_duration(name, field, 1)
    assert any(difference(mutant, 0, program, tmp_path) for program in programs)


@pytest.mark.slow
@needs_verilator
def test_wrong_rounding_in_the_reference_is_caught(monkeypatch: pytest.MonkeyPatch, mutant: Path,
                                                   programs: list[Program], tmp_path: Path) -> None:
    """The last bit of every rounded result that is not zero."""
    original = accumulators.drain_fp32

    def drain(total, flags, lsb):
        values = original(total, flags, lsb)
        return np.where(values > 0, np.nextafter(values, np.float32(np.inf)), values)

    monkeypatch.setattr("tilescore.sim.reference.matmul_model.drain_fp32", drain)
    assert any(difference(mutant, 0, program, tmp_path) for program in programs)


def unwritten_reads_accepted() -> int:
    """Of ten random programs without the first LOAD to each memory: how many the verifier lets through."""
    accepted = 0
    for number in range(10):
        program = random_program(TILE, np.random.default_rng([3, number]), 20)
        first = {i.space: i for i in reversed(program.instructions) if i.spec.name == "LOAD" and i.space != 4}
        for load in first.values():
            load.row_bytes, load.scale, load.scale_addr, load.scale_stride = 4, 0, 0, 0
        try:
            verifier.verify(program)
            accepted += 1
        except ProgramError as error:
            assert "which no earlier instruction has written" in str(error)
    return accepted


def test_reads_of_unwritten_memory_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first LOAD of four bytes instead of a bank leaves the rest to an earlier program; not without the tracking."""
    assert unwritten_reads_accepted() == 0
    monkeypatch.setattr(initialized.Initialized, "add", lambda *arguments: None)
    assert unwritten_reads_accepted() == 10


def test_the_verifier_itself_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its bank check a program with a dropped token would pass: the tests above test the verifier."""
    monkeypatch.setattr(builder, "with_tokens", lambda instructions, pairs: instructions)
    assert rejected() >= 8
    monkeypatch.setattr(verifier._Verifier, "_check_banks", lambda *arguments: None)
    monkeypatch.setattr(verifier._Verifier, "_check_indices", lambda *arguments: None)
    monkeypatch.setattr(verifier.PipelineOrder, "add", lambda *arguments: None)
    monkeypatch.setattr(verifier.DramOrder, "add", lambda *arguments: None)
    assert rejected() == 0
