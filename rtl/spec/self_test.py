"""A self-test of a tile as bytes: a program in memory, and what memory holds after it.

The program and its results are made above the hardware (`compiler/self_test.py`); exports need them.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Expected:
    """Bytes that memory holds at ``addr``, a multiple of the bus width, after the program: whole beats."""

    name: str
    addr: int
    data: bytes


@dataclass(frozen=True, kw_only=True)
class SelfTest:
    """A program with its golden bytes; addresses count from DRAM_BASE.

    memory: all of the memory that it uses, before it. expected: after it. flags: of RESULT_FLAGS. write_beats: the
    counter ``dram_write_beats``.
    """

    memory: bytes
    program_addr: int
    expected: tuple[Expected, ...]
    flags: int
    write_beats: int
