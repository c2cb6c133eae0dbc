"""sim.host.image: a program as memory content, and what is refused before anything is written."""

from dataclasses import replace

import numpy as np
import pytest

from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.errors import ProgramError
from tilescore.rtl.spec.isa import Halt, Load, Space, Sync
from tilescore.sim.host.image import check_program, memory_parts, read_region
from tilescore.sim.program import Program, Region, Segment

NANO = load_tile("nano")
PAGE = NANO.page_bytes
RESULT = Region("y", 7000, 3, 8, 100, "float32", (3, 2))


def program(rng: np.random.Generator) -> Program:
    return Program(config=NANO, instructions=[Halt()], program_addr=4096, dram_bytes=9000, outputs=[RESULT], segments=[
        Segment("weights", 6000, rng.integers(0, 256, 700, dtype=np.uint8)),
        Segment("late", 100, lambda: np.full(50, 7, np.uint8), 50), Segment("zeros", 1000, None, 64)])


def test_parts_are_the_initial_memory(rng: np.random.Generator) -> None:
    p = program(rng)
    memory, end = np.full(p.dram_bytes, 0xAA, np.uint8), 0
    for address, data in memory_parts(p):
        assert address == end and 0 < len(data) <= 1 << 20
        memory[address:address + len(data)] = np.frombuffer(data, np.uint8)
        end = address + len(data)
    assert end == p.dram_bytes and (memory == p.initial_dram()).all()


def test_large_parts_are_cut() -> None:
    big = Program(config=NANO, instructions=[Halt()], program_addr=0, dram_bytes=5 << 20,
                  segments=[Segment("x", 1 << 20, np.ones(3 << 20, np.uint8))])
    sizes = [len(data) for _, data in memory_parts(big)]
    assert sum(sizes) == 5 << 20 and max(sizes) == 1 << 20


def test_read_region(rng: np.random.Generator) -> None:
    memory = rng.integers(0, 100, 9000, dtype=np.uint8)
    got = read_region(RESULT, memory[RESULT.addr:RESULT.end].tobytes())
    assert got.shape == (3, 2) and got.tobytes() == RESULT.read(memory).tobytes()


def test_program_of_another_tile(rng: np.random.Generator) -> None:
    other = replace(NANO, queue_depth=4)
    with pytest.raises(ProgramError) as error:
        check_program(program(rng), other.digest, 1 << 20)
    assert str(error.value) == (f"the program is for tile nano, configuration {NANO.digest}; the tile behind this bus "
                                f"has configuration {other.digest}")


@pytest.mark.parametrize(("window", "message"), [
    (6699, "tensor weights: bytes 6000..6699 are outside of the memory window of 6699 bytes"),
    (7207, "result y: bytes 7000..7207 are outside of the memory window of 7207 bytes"),
    (8999, "the program uses 9000 bytes of memory, the window has 8999"),
    (4096, "tensor weights: bytes 6000..6699 are outside"),
])
def test_outside_of_the_window(window: int, message: str, rng: np.random.Generator) -> None:
    check_program(program(rng), NANO.digest, 9000)
    with pytest.raises(ProgramError, match=message):
        check_program(program(rng), NANO.digest, window)


def test_program_image_outside_of_the_window() -> None:
    bare = Program(config=NANO, instructions=[Halt()], program_addr=0, dram_bytes=PAGE)
    with pytest.raises(ProgramError, match=f"the program: bytes 0..{PAGE - 1} are outside of the memory window of 99"):
        check_program(bare, NANO.digest, 99)


def test_larger_than_instruction_memory() -> None:
    def paged(*pages: int) -> Program:
        loads = [Load(space=Space.PROGRAM, dram_addr=page * PAGE, rows=1, row_bytes=PAGE) for page in pages]
        instructions = [*loads, *[Sync()] * (2 * NANO.imem_page), Halt()]
        return Program(config=NANO, instructions=instructions, program_addr=0, dram_bytes=1 << 16)

    check_program(paged(1, 2), NANO.digest, 1 << 16)
    with pytest.raises(ProgramError, match="the program has 66 instructions, 3 pages of 32; the tile starts with page "
                                           "0, and no LOAD brings page 2 to its instruction memory"):
        check_program(paged(1), NANO.digest, 1 << 16)
