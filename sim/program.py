"""What a simulator runs: instructions, the DRAM they start from, and the regions that are the result.

A `Program` holds the instructions in program order, page LOADs, SYNCs and the final HALT included, but
not the boot LOAD of page 0, which the dispatcher makes itself (`boot_load`). Its image, the encoded words
padded with zeros to whole pages, lies in DRAM at ``program_addr``: page n at
``program_addr + n * page_bytes``.

`program_file.py` has the file format of `Program.save`.
"""

import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from ..rtl.spec.config import TileConfig
from ..rtl.spec.encoding import decode_program, encode_program
from ..rtl.spec.errors import ConfigError, ProgramError, SimulationError
from ..rtl.spec.isa import Instruction, Load, ScaleLayout, Space, Unit
from .instructions import Instructions
from .lib.filled_array import FilledArray
from .lib.strided import Strided
from .program_file import read_file, write_file

DTYPES = {"float32": np.dtype("<f4"), "e4m3": np.dtype("u1"), "uint8": np.dtype("u1"),
          "uint32": np.dtype("<u4")}
"""Element types of a `Region`; e4m3 values are read as their codes."""

_ADDRESS_LIMIT = 1 << 40
_TEXT_LIMIT = 256
_SHAPE_LIMIT = 16
"""Dimensions of a `Region`, at the most."""


@dataclass(frozen=True, eq=False)
class Segment:
    """Initial bytes of ``size`` bytes of DRAM from ``addr``.

    ``data`` is a 1-D uint8 array, a function without arguments that returns one (so that a program of which
    only the time is wanted costs no memory), or None for zeros.
    """

    name: str
    addr: int
    data: np.ndarray | Callable[[], np.ndarray] | None = None
    size: int = -1

    def __post_init__(self) -> None:
        _check_text("segment name", self.name)
        if self.size < 0 and isinstance(self.data, np.ndarray):
            object.__setattr__(self, "size", self.data.size)
        if self.size < 0:
            raise ProgramError(f"segment {self.name}: size must be given when data is not an array")
        if isinstance(self.data, np.ndarray):
            self._check(self.data)

    def __repr__(self) -> str:
        held = "zeros" if self.data is None else "made when needed" if callable(self.data) else "data"
        return f"Segment({self.name!r}, addr={self.addr:#x}, size={self.size}, {held})"

    def bytes_(self) -> np.ndarray | None:
        """The data, (size,) uint8, or None for zeros."""
        if self.data is None:
            return None
        data = self.data() if callable(self.data) else self.data
        self._check(data)
        return data

    def _check(self, data: np.ndarray) -> None:
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape != (self.size,):
            found = f"{data.dtype}{list(data.shape)}" if isinstance(data, np.ndarray) else type(data).__name__
            raise ProgramError(f"segment {self.name}: expected data uint8[{self.size}], got {found}")


@dataclass(frozen=True)
class Region:
    """A result in DRAM: ``rows`` rows of ``row_bytes`` bytes, ``row_stride`` apart.

    They are read, packed, as an array of ``shape`` and ``dtype``.
    """

    name: str
    addr: int
    rows: int
    row_bytes: int
    row_stride: int
    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        _check_text("region name", self.name)
        if self.dtype not in DTYPES:
            raise ProgramError(f"region {self.name}: unknown dtype {self.dtype!r}; "
                               f"allowed: {', '.join(DTYPES)}")
        if min(self.addr, self.rows, self.row_bytes, self.row_stride) < 0:
            raise ProgramError(f"region {self.name}: addr and sizes must not be negative")
        if len(self.shape) > _SHAPE_LIMIT or min(self.shape, default=0) < 0:
            raise ProgramError(f"region {self.name}: shape must have at most {_SHAPE_LIMIT} sizes, none negative, got "
                               f"{list(self.shape)}")
        if self.rows > 1 and self.row_stride < self.row_bytes:
            raise ProgramError(f"region {self.name}: rows of {self.row_bytes} bytes overlap, {self.row_stride} bytes "
                               "apart")
        expected = math.prod(self.shape) * DTYPES[self.dtype].itemsize
        if self.rows * self.row_bytes != expected:
            raise ProgramError(f"region {self.name}: {self.rows} rows of {self.row_bytes} bytes are not the "
                               f"{expected} bytes of {self.dtype}{list(self.shape)}")

    @property
    def end(self) -> int:
        """First byte address after the last row."""
        return self.addr + (self.rows - 1) * self.row_stride + self.row_bytes if self.rows else self.addr

    def raw(self, dram: np.ndarray) -> np.ndarray:
        """(rows, row_bytes) uint8 copy of the region."""
        if self.end > dram.size:
            raise ProgramError(f"region {self.name}: ends at {self.end}, DRAM has {dram.size} bytes")
        shape, strides = (self.rows, self.row_bytes), (self.row_stride, 1)
        return np.lib.stride_tricks.as_strided(dram[self.addr:], shape, strides).copy()

    def read(self, dram: np.ndarray) -> np.ndarray:
        """The region as an array of its shape and type (e4m3: uint8 codes)."""
        return self.raw(dram).reshape(-1).view(DTYPES[self.dtype]).reshape(self.shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """A program for the tile ``config``.

    instructions: in program order, without the boot load; as `instructions.Instructions`, or any list of them.
    program_addr: DRAM byte address of page 0, a multiple of ``config.bus_bytes``.
    dram_bytes: size of the DRAM that the program uses, from address 0.
    segments: initial contents; DRAM outside of them and of the program image is zero.
    outputs: the regions that are the result, in the order in which they are hashed.
    extents: for a GATHER or SCATTER (by its index) the names of the segments, or else outputs, that its rows and, when
    it moves any, its scale bytes never leave. Needed where `sim.legality.indexed_rows` does not know the indices.
    labels: a text per instruction for listings and traces, or empty.
    phases: the part of the layer that each instruction belongs to ("core", "experts"), "" for page loads, SYNC and
    HALT; or empty.
    meta: anything of JSON types.

    Raises `ProgramError` when a part lies outside DRAM, segments overlap each other or the image, a name is there
    twice, or an extent does not fit its instruction.
    """

    config: TileConfig
    instructions: Sequence[Instruction]
    program_addr: int
    dram_bytes: int
    segments: list[Segment] = field(default_factory=list)
    outputs: list[Region] = field(default_factory=list)
    extents: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)
    meta: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.instructions:
            raise ProgramError("a program must have at least one instruction")
        for name, texts in (("labels", self.labels), ("phases", self.phases)):
            if texts and len(texts) != len(self.instructions):
                raise ProgramError(f"{len(texts)} {name} for {len(self.instructions)} instructions")
            for text in set(texts):
                _check_text(name, text)
        if not 0 < self.dram_bytes <= _ADDRESS_LIMIT:
            raise ProgramError(f"dram_bytes must be in 1..{_ADDRESS_LIMIT}, got {self.dram_bytes}")
        if self.program_addr % self.config.bus_bytes:
            raise ProgramError(f"program_addr must be a multiple of {self.config.bus_bytes}, "
                               f"got {self.program_addr}")
        self._check_places()
        for what, names in (("segment", [s.name for s in self.segments]), ("region", [r.name for r in self.outputs])):
            if len(set(names)) < len(names):
                raise ProgramError(f"{what} {next(n for n in names if names.count(n) > 1)}: the name is there twice")
        areas = self.areas()
        for index, names in self.extents.items():
            self._check_extent(index, names, areas)

    def _check_places(self) -> None:
        spans = [(s.addr, s.addr + s.size, f"segment {s.name}") for s in self.segments]
        spans.append((self.program_addr, self.program_addr + self.image_bytes, "the program image"))
        for low, high, name in spans + [(r.addr, r.end, f"region {r.name}") for r in self.outputs]:
            if low < 0 or high > self.dram_bytes:
                raise ProgramError(f"{name}: bytes {low}..{high - 1} are outside the {self.dram_bytes} bytes "
                                   "of DRAM")
        spans = sorted(span for span in spans if span[0] < span[1])
        for (_, high, name), (low, _, other) in itertools.pairwise(spans):
            if low < high:
                raise ProgramError(f"{other}: starts at {low}, inside {name}, which ends at {high}")

    def _check_extent(self, index: int, names: tuple[str, ...], areas: dict[str, Strided]) -> None:
        if not 0 <= index < len(self.instructions):
            raise ProgramError(f"extents: instruction {index} of {len(self.instructions)}")
        instruction = self.instructions[index]
        if instruction.spec.name not in ("GATHER", "SCATTER"):
            raise ProgramError(f"extents: {self.describe(index)} has no rows that the index memory chooses")
        streams = 1 if instruction.scale == ScaleLayout.NONE else 2
        if len(names) != streams:
            raise ProgramError(f"extents: {self.describe(index)}: expected {streams} names, got {len(names)}")
        for name in names:
            if name not in areas:
                raise ProgramError(f"extents: {self.describe(index)}: no segment or output is named {name!r}")

    def areas(self) -> dict[str, Strided]:
        """The bytes that a name in ``extents`` stands for: those of the segment, or else of the output."""
        found = {r.name: Strided(r.addr, r.end - r.addr) for r in self.outputs if r.end > r.addr}
        return found | {s.name: Strided(s.addr, s.size) for s in self.segments if s.size}

    def __repr__(self) -> str:
        return (f"Program(tile={self.config.name!r}, instructions={len(self.instructions)}, "
                f"dram_bytes={self.dram_bytes}, segments={len(self.segments)}, outputs={len(self.outputs)})")

    @property
    def pages(self) -> int:
        """Pages of the program image."""
        return -(-len(self.instructions) // self.config.imem_page)

    @property
    def image_bytes(self) -> int:
        return self.pages * self.config.page_bytes

    def page_addr(self, page: int) -> int:
        """DRAM byte address of a page."""
        return self.program_addr + page * self.config.page_bytes

    def boot_load(self) -> Instruction:
        """The LOAD of page 0 that the dispatcher makes before the program."""
        return boot_load(self.config, self.program_addr)

    def describe(self, index: int) -> str:
        """``instruction 12 (MATMUL, qk tile 3)`` for messages."""
        label = f", {self.labels[index]}" if self.labels and self.labels[index] else ""
        return f"instruction {index} ({self.instructions[index].spec.name}{label})"

    def image(self) -> np.ndarray:
        """(image_bytes,) uint8: the encoded words, padded with zeros to whole pages."""
        image = np.zeros(self.image_bytes, np.uint8)
        words = self._words()
        image[:words.size] = words.reshape(-1)
        return image

    def without_data(self) -> "Program":
        """The same instructions at the same times; segments are zeros, so that it is small and can be pickled."""
        return replace(self, segments=[Segment(s.name, s.addr, None, s.size) for s in self.segments])

    @property
    def columns(self) -> Instructions:
        """The instructions as columns."""
        return Instructions.of(self.instructions)

    def _words(self) -> np.ndarray:
        """(n, 32) uint8: the encoded instructions."""
        found = self.instructions
        return found.words() if isinstance(found, Instructions) else encode_program(list(found))

    def filling_dram(self) -> FilledArray:
        """(dram_bytes,) uint8, being filled: all segments and the program image in place.

        Raises `SimulationError` when the machine has not as much memory.
        """
        def data_of(segment: Segment) -> np.ndarray:
            data = segment.bytes_()
            assert data is not None, "only segments with data are filled"
            return data

        parts = [(segment.addr, partial(data_of, segment)) for segment in self.segments if segment.data is not None]
        try:
            filling = FilledArray(self.dram_bytes, parts)
        except MemoryError:
            raise SimulationError(f"dram_bytes: {self.dram_bytes} bytes of DRAM are more than this machine has memory "
                                  "for") from None
        filling.array[self.program_addr:self.program_addr + self.image_bytes] = self.image()
        return filling

    def initial_dram(self) -> np.ndarray:
        """`filling_dram` when it is done."""
        return self.filling_dram().whole()

    def result_sha256(self, dram: np.ndarray) -> str:
        """SHA-256 over the bytes of the output regions, in order, rows packed."""
        digest = hashlib.sha256()
        for region in self.outputs:
            digest.update(region.raw(dram).tobytes())
        return digest.hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all. Raises `ProgramError` when ``meta`` is not JSON."""
        write_file(Path(path), self._header(), self._payload)

    def _header(self) -> dict:
        return {
            "tile": self.config.to_dict(),
            "instructions": len(self.instructions),
            "program_addr": self.program_addr,
            "dram_bytes": self.dram_bytes,
            "segments": [[s.name, s.addr, s.size, s.data is not None] for s in self.segments],
            "outputs": [[r.name, r.addr, r.rows, r.row_bytes, r.row_stride, r.dtype, list(r.shape)]
                        for r in self.outputs],
            "extents": [[index, *names] for index, names in self.extents.items()],
            "labels": self.labels,
            "phases": [[name, len(list(run))] for name, run in itertools.groupby(self.phases)],
            "meta": self.meta,
        }

    def _payload(self) -> Iterator[np.ndarray]:
        yield self._words().reshape(-1)
        for segment in self.segments:
            data = segment.bytes_()
            if data is not None:
                yield np.ascontiguousarray(data)

    @classmethod
    def load(cls, path: str | Path) -> "Program":
        """Read a file written by `save`. Raises `ProgramError` naming the file and what is wrong with it."""
        try:
            raw = Path(path).read_bytes()
        except OSError as error:
            raise ProgramError(f"program file {path}: cannot be read: {error.strerror or error}") from None
        try:
            return cls(**_fields(*read_file(raw)))
        except (ProgramError, ConfigError) as error:
            raise ProgramError(f"program file {path}: {error}") from None


def boot_load(config: TileConfig, program_addr: int) -> Instruction:
    """LOAD of one page to instruction slot 0; its wr token goes to the dispatcher."""
    return Load(space=Space.PROGRAM, dram_addr=program_addr, rows=1, row_bytes=config.page_bytes,
                signal_wr=1 << Unit.DISPATCH)


def _fields(header: dict, words: np.ndarray, data: list[np.ndarray | None]) -> dict:
    """Keyword arguments of `Program` from the parts of a file."""
    return {"config": TileConfig.from_dict(header["tile"], source="tile"), "instructions": decode_program(words),
            "program_addr": header["program_addr"], "dram_bytes": header["dram_bytes"],
            "segments": [Segment(name, addr, values, size)
                         for (name, addr, size, _), values in zip(header["segments"], data, strict=True)],
            "outputs": [Region(*values) for values in header["outputs"]],
            "extents": {index: tuple(names) for index, *names in header["extents"]}, "labels": header["labels"],
            "phases": [name for name, count in header["phases"] for _ in range(count)], "meta": header["meta"]}


def _check_text(what: str, text: str) -> None:
    """Texts appear in messages of one line."""
    if not isinstance(text, str) or len(text) > _TEXT_LIMIT or not text.isprintable():
        raise ProgramError(f"{what}: expected a printable text of at most {_TEXT_LIMIT} characters, got "
                           f"{ascii(text)[:60]}")
