"""Running the hardware: the compiled model and its cache, and runs that end badly."""

from dataclasses import replace

import numpy as np
import pytest

from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.errors import SimulationError, ToolError
from tilescore.rtl.spec.isa import Halt, Load, Matmul, Space, Store, Sync, Unit
from tilescore.sim.hardware.amaranth_run import run_amaranth
from tilescore.sim.hardware.toolchain import missing_for_verilator
from tilescore.sim.hardware.verilator_run import build_model, run_verilator
from tilescore.sim.program import Program

NANO = load_tile("nano")
LOAD = Load(space=Space.A, dram_addr=4096, row_stride=16, rows=2, row_bytes=16)

needs_verilator = pytest.mark.skipif(bool(missing_for_verilator()),
                                     reason="the rtl level under Verilator lacks " + ", ".join(missing_for_verilator()))
backends = pytest.mark.parametrize("run", [pytest.param(run_verilator, marks=needs_verilator),
                                           pytest.param(run_amaranth, marks=pytest.mark.slow)])


def bare(*instructions, dram_bytes: int = 8192) -> Program:
    return Program(config=NANO, instructions=list(instructions), program_addr=0, dram_bytes=dram_bytes)


@backends
def test_shortest_program(run) -> None:
    """Boot LOAD at 1 + 1, its token a cycle after it retires, HALT two cycles after that."""
    result = run(bare(Halt()), 1000)
    dispatch, issue, _, retire = result.boot
    assert (dispatch, issue) == (1, 2)
    assert result.cycles == retire + 1 + 2 + 1
    assert result.events["instructions"] == 2


@backends
def test_a_lost_token_is_reported_with_the_stuck_instruction(run) -> None:
    program = bare(LOAD, Matmul(k_steps=1, m_rows=1, n_tiles=1, wait_wr=1 << Unit.LOAD), Halt())
    with pytest.raises(SimulationError, match=r"not finished after 300 cycles; load: 1 of 1 retired; .*"
                                              r"matrix: 0 of 1 retired, then instruction 1 \(MATMUL\)"):
        run(program, 300)


@backends
def test_an_unknown_opcode_is_reported(run) -> None:
    class Illegal(Program):
        def image(self) -> np.ndarray:
            image = super().image()
            image[32] = 15
            return image

    program = Illegal(config=NANO, instructions=[LOAD, Sync(), Halt()], program_addr=0, dram_bytes=8192)
    with pytest.raises(SimulationError, match="illegal instruction"):
        run(program, 300)


@backends
@pytest.mark.parametrize(("instruction", "text"), [
    (replace(LOAD, dram_addr=8192), "DRAM read address 8192 is outside its 8192 bytes"),
    (Store(space=Space.ACC, dram_addr=1 << 20, row_stride=16, rows=1, row_bytes=16), "DRAM write address 1048576"),
])
def test_dram_out_of_range_is_reported(run, instruction, text: str) -> None:
    with pytest.raises(SimulationError, match=text):
        run(bare(instruction, Halt()), 1000)


@backends
def test_a_bank_conflict_is_reported(run) -> None:
    """A STORE reads the bank of A that a long MATMUL is reading, with nothing between them."""
    program = bare(Matmul(k_steps=16, m_rows=4, n_tiles=8),
                   Store(space=Space.A, dram_addr=4096, row_stride=16, rows=32, row_bytes=16, addr=0), Halt())
    with pytest.raises(SimulationError, match="two accesses to one buffer bank"):
        run(program, 2000)


@needs_verilator
def test_a_model_is_built_once() -> None:
    binary = build_model(NANO)
    before = binary.stat().st_mtime_ns
    assert build_model(replace(NANO, name="other", clock_mhz=7.0)) == binary
    assert binary.stat().st_mtime_ns == before
    assert (binary.parent / "tile.v").is_file()


def test_without_verilator_the_error_says_what_is_missing(monkeypatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ToolError, match=r"needs .*g\+\+"):
        build_model(NANO)
