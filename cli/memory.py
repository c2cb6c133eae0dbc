"""`tilescore selftest`, `image` and `check`: from a program to a board's memory and back."""

import argparse
from pathlib import Path

from ..rtl.spec.errors import ConfigError, ProgramError, SimulationError
from ..sim.host.memory_file import check_ending, compare_outputs, image_file, read_memory
from ..sim.legality.verifier import verify
from ..sim.lib.atomic_file import atomic_file
from ..sim.lib.progress import Progress
from ..sim.program import Program
from ..sim.reference.run import run_reference
from .files import check_targets, named_errors
from .tiles import tile_of


def self_test(arguments: argparse.Namespace) -> int:
    """Write the self-test of a tile as a program file."""
    from ..compiler.self_test import self_test_program

    config = tile_of(arguments)
    check_targets([arguments.output])
    program = self_test_program(config)
    with named_errors(arguments.output):
        program.save(arguments.output)
    print(f"{arguments.output}: {len(program.instructions)} instructions for tile {config.name}, "
          f"{program.dram_bytes:,} bytes of DRAM")
    return 0


def image(arguments: argparse.Namespace) -> int:
    """Write the memory that a program starts from."""
    check_ending(arguments.output)
    check_targets([arguments.output])
    program = _program(arguments.program)
    with named_errors(arguments.output), atomic_file(arguments.output) as file:
        for piece in image_file(program, arguments.output.suffix):
            file.write(piece)
    print(f"{arguments.output}: {program.dram_bytes:,} bytes from DRAM_BASE on; PROGRAM_ADDR is "
          f"0x{program.program_addr:X}")
    return 0


def check(arguments: argparse.Namespace) -> int:
    """Compare the memory after a run with the reference; raises `SimulationError` for the first difference."""
    program = _program(arguments.program)
    memory = read_memory(arguments.memory, program.config.bus_bytes)
    with Progress(f"reference {arguments.program}"):
        expected = run_reference(program).dram
    try:
        same = compare_outputs(program, expected, memory)
    except (ProgramError, SimulationError) as error:
        raise type(error)(f"{arguments.memory}: {error}") from None
    print(f"{arguments.memory}: {len(program.outputs)} results, {same:,} bytes, all as expected")
    return 0


def _program(path: Path) -> Program:
    """A program with its data that the verifier accepts."""
    program = Program.load(path)
    try:
        if not program.meta.get("data", True):
            raise ProgramError("compiled with --no-data; expected a program with its tensors")
        verify(program)
    except (ProgramError, ConfigError) as error:
        raise ProgramError(f"program file {path}: {error}") from None
    return program
