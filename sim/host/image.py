"""A program as memory content: what the host writes before a run, and the checks before it writes anything."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from ...rtl.spec.errors import ProgramError
from ...rtl.spec.isa import Space
from ..program import Program, Region

_CHUNK = 1 << 20


def check_program(program: Program, digest: str, memory_bytes: int) -> None:
    """Raise `ProgramError` when the tile with that digest and memory window cannot run ``program``.

    It should have passed `verifier.verify`; what is checked here is what depends on the tile and its memory, and that
    no page of the program is missing, because a tile would run into old instructions without a sign of it.
    """
    config = program.config
    if config.digest != digest:
        raise ProgramError(f"the program is for tile {config.name}, configuration {config.digest}; the tile behind "
                           f"this bus has configuration {digest}")
    spans = [(s.addr, s.addr + s.size, f"tensor {s.name}") for s in program.segments if s.size]
    spans += [(r.addr, r.end, f"result {r.name}") for r in program.outputs]
    spans.append((program.program_addr, program.program_addr + program.image_bytes, "the program"))
    for low, high, name in spans:
        if high > memory_bytes:
            raise ProgramError(f"{name}: bytes {low}..{high - 1} are outside of the memory window of {memory_bytes} "
                               "bytes")
    if program.dram_bytes > memory_bytes:
        raise ProgramError(f"the program uses {program.dram_bytes} bytes of memory, the window has {memory_bytes}")
    loaded = {i.dram_addr for i in program.instructions if i.spec.name == "LOAD" and i.space == Space.PROGRAM}
    for page in range(1, program.pages):
        if program.page_addr(page) not in loaded:
            raise ProgramError(
                f"the program has {len(program.instructions)} instructions, {program.pages} pages of "
                f"{config.imem_page}; the tile starts with page 0, and no LOAD brings page {page} to its instruction "
                "memory")


def memory_parts(program: Program) -> Iterator[tuple[int, bytes]]:
    """(address, bytes) that together are `Program.initial_dram`, in order, each of at most 1 MiB."""
    sources = [(s.addr, s.bytes_) for s in program.segments]
    sources.append((program.program_addr, program.image))
    end = 0
    for address, make in sorted(sources, key=lambda source: source[0]):
        data = make()  # one at a time: a tensor may be large
        if data is None:
            continue
        yield from _zeros(end, address)
        for start in range(0, data.size, _CHUNK):
            yield address + start, data[start:start + _CHUNK].tobytes()
        end = address + data.size
    yield from _zeros(end, program.dram_bytes)


def _zeros(start: int, stop: int) -> Iterator[tuple[int, bytes]]:
    for address in range(start, stop, _CHUNK):
        yield address, bytes(min(_CHUNK, stop - address))


def read_region(region: Region, data: bytes) -> np.ndarray:
    """The region as an array of its shape and type, from its bytes in memory, gaps between rows included."""
    return dataclasses.replace(region, addr=0).read(np.frombuffer(data, np.uint8))
