"""What one tile is: `TileConfig`, its presets, and loading it from TOML.

A `TileConfig` is the only description of the hardware. The Amaranth components, the time contract
(`plan.py`), the simulators and the compiler all take their sizes from it.

Sizes that are powers of two (``rows``, ``cols``, ``lanes``, ``bus_bytes``, ``imem_page``) are so because
addresses are split into fields by wiring; buffer banks may have any depth, because an address holds the bank
number and the offset in separate fields.

The vector unit has as many lanes as the array has columns. A separate lane count was rejected: lane ``c``
lives beside column ``c``'s accumulator memory, so that no value crosses lanes between drain and quantizer.
"""

import dataclasses
import hashlib
import json
import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from fractions import Fraction
from importlib import resources
from pathlib import Path

from .errors import ConfigError, did_you_mean
from .formats import BUILD_NAMES, PAIRS, SCALE_NAMES, SCALE_PAIRS, built_with, fits_dsp
from .isa import INSTRUCTION_BYTES
from .tile_keys import KEYS, check_names, plain, rational, with_units

PRESETS = ("nano", "edge", "server")
"""Names accepted by `load_tile`, in order of size."""

AXI_KEYS = ("max_burst", "max_outstanding", "recorder_depth", "counters")
"""Parameters of the AXI ports and of what the host sees of a run; a program runs with any of them."""

_PAGE_BYTES = 4096
"""No AXI burst crosses such a boundary (AMBA AXI protocol specification, section A3.4.1)."""

ACC_FLAG_BITS = 4
"""Sticky flags beside an accumulator: nan, +inf, -inf, inexact."""


def _bits(count: int) -> int:
    """Width of a field that holds 0 .. count-1 (at least one bit)."""
    return max(1, (count - 1).bit_length())


def least_acc_bits(formats: Collection[str]) -> int:
    """The narrowest accumulator that holds one product of every pair of elements in ``formats``."""
    product = max((spec.product_bits for spec in built_with(formats)), default=0)
    return min(bits for bits in KEYS["acc_bits"].choices if bits >= product)


@dataclass(frozen=True, kw_only=True)
class TileConfig:
    """Parameters of a tile. All sizes in bytes unless the name says otherwise; `tile_keys.KEYS` has the ranges.

    rows, cols: the array has ``rows`` x ``cols`` processing elements (PEs).
    lanes: FP8 products per PE and cycle; ``lanes`` bytes are one *group*, the unit of operand addresses.
    acc_bits: accumulator width W (two's complement with wrap).
    formats: operand formats that are built; scales: block scales that are built (they need ``lanes`` = 8).
    multiplier: PE back end.
    a_buffer_bytes, a_banks: operand buffer A; ``rows`` slices, each cut into ``a_banks`` banks.
    b_buffer_bytes, b_banks: operand buffer B; ``cols`` slices.
    acc_banks, acc_bank_rows: accumulator buffer; a row is ``cols`` FP32 values.
    stat_banks, stat_bank_rows: shallow banks in the same address space, for row statistics and other vectors.
    index_entries: entries of the 32-bit index memory for gather and scatter.
    imem_page: instructions per page; the instruction memory holds two pages.
    queue_depth: entries of each unit's instruction queue.
    bus_bytes, dram_latency: width of a DRAM port and its fixed latency in cycles, in order. dram_bytes_per_cycle: rate
    of the DRAM behind a port, exact, as `tile_keys.plain` writes it, or 0, see `dram_rate`. dram_shared: loads and
    stores take turns, in program order, on one port; else there is one for each.
    dma_outstanding: DMA instructions that may be in flight per port.
    max_burst: beats of an AXI burst, at most 4 KiB. max_outstanding: AXI bursts in flight per direction, or 0, see
    `outstanding_bursts`. recorder_depth: entries of the recorder of DMA times. counters: one of `COUNTER_SETS`. These
    four are of the exported AXI top alone (`AXI_KEYS`).
    clock_mhz: clock, used to turn cycles into seconds and watts, and in the exported constraints.
    """

    name: str
    rows: int
    cols: int
    lanes: int
    acc_bits: int = 64
    formats: tuple[str, ...] = ("e4m3",)
    scales: tuple[str, ...] = ()
    multiplier: str = "fabric"
    a_buffer_bytes: int
    a_banks: int
    b_buffer_bytes: int
    b_banks: int
    acc_banks: int
    acc_bank_rows: int
    stat_banks: int = 8
    stat_bank_rows: int = 8
    index_entries: int
    imem_page: int
    queue_depth: int = 8
    bus_bytes: int
    dram_bytes_per_cycle: int | float | str = 0
    dram_shared: bool = False
    dram_latency: int
    dma_outstanding: int = 8
    max_burst: int = 16
    max_outstanding: int = 0
    recorder_depth: int = 1024
    counters: str = "all"
    clock_mhz: float = 500.0

    def __post_init__(self) -> None:
        for key in KEYS.values():
            key.check(self.name, getattr(self, key.name))
        object.__setattr__(self, "dram_bytes_per_cycle", plain(rational(self.dram_bytes_per_cycle) or Fraction(0)))
        self._check_formats()
        self._check_relations()

    def _check_formats(self) -> None:
        for field in ("formats", "scales"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        if not self.formats:
            raise ConfigError(f"tile {self.name}: formats must name at least one of {', '.join(BUILD_NAMES)}")
        for field in ("formats", "scales"):
            allowed = KEYS[field].choices
            for value in getattr(self, field):
                if value not in allowed:
                    raise ConfigError(f"tile {self.name}: {field}: unknown value {value!r}; "
                                      f"allowed: {', '.join(allowed) or 'none'}{did_you_mean(str(value), allowed)}")
            if len(set(getattr(self, field))) < len(getattr(self, field)):
                raise ConfigError(f"tile {self.name}: {field}: expected every value once, got "
                                  f"{', '.join(getattr(self, field))}")
        for scale, pairs in SCALE_PAIRS.items():
            needs = {PAIRS[pair].build_name for pair in pairs}
            if SCALE_NAMES[scale] in self.scales and not needs & set(self.formats):
                raise ConfigError(f"tile {self.name}: scales: {SCALE_NAMES[scale]} needs one of the formats "
                                  f"{', '.join(sorted(needs))}, got {', '.join(self.formats)}")
        if self.scales and self.lanes != 8:
            raise ConfigError(f"tile {self.name}: scales need lanes = 8, got {self.lanes}")
        for name in self.formats:
            if self.acc_bits < least_acc_bits((name,)):
                raise ConfigError(f"tile {self.name}: format {name} needs acc_bits of at least "
                                  f"{least_acc_bits((name,))}, got {self.acc_bits}")
        wide = {name for name in self.formats if not fits_dsp(name)}
        if wide and self.multiplier == "dsp":
            raise ConfigError(f"tile {self.name}: multiplier dsp does not build {', '.join(sorted(wide))}: an E5M2 "
                              "value is wider than 18 bits")

    def _check_relations(self) -> None:
        def need(ok: bool, what: str) -> None:
            if not ok:
                raise ConfigError(f"tile {self.name}: {what}")

        need(self.lanes <= self.bus_bytes <= 4 * self.cols,
             f"bus_bytes must be between lanes ({self.lanes}) and 4*cols ({4 * self.cols}), got {self.bus_bytes}")
        need(self.dram_rate <= self.bus_bytes,
             f"dram_bytes_per_cycle must be at most bus_bytes ({self.bus_bytes}), got {self.dram_bytes_per_cycle}")
        for buffer, slices, word in (("a", self.rows, self.a_word_bytes), ("b", self.cols, self.b_word_bytes)):
            size = getattr(self, f"{buffer}_buffer_bytes")
            banks = getattr(self, f"{buffer}_banks")
            need(size % (slices * banks * word) == 0 and size > 0,
                 f"{buffer}_buffer_bytes must be a positive multiple of {slices * banks * word} "
                 f"({slices} slices x {banks} banks x {word}-byte words), got {size}")
        need(self.acc_banks % self.acc_planes == 0,
             f"acc_banks must be a multiple of {self.acc_planes} (32-bit planes of a {self.acc_bits}-bit "
             f"accumulator), got {self.acc_banks}")
        need(self.index_entries % (self.bus_bytes // 4) == 0,
             f"index_entries must be a multiple of {self.bus_bytes // 4} (indices per bus beat), "
             f"got {self.index_entries}")
        need(self.imem_page * INSTRUCTION_BYTES % self.bus_bytes == 0,
             f"imem_page: a page must be a multiple of bus_bytes ({self.bus_bytes}), got {self.imem_page}")
        need(self.max_burst * self.bus_bytes <= _PAGE_BYTES,
             f"max_burst must be at most {_PAGE_BYTES // self.bus_bytes} ({_PAGE_BYTES} bytes of {self.bus_bytes} per "
             f"beat), got {self.max_burst}")
        need(self.a_addr_bits <= 20 and self.b_addr_bits <= 20,
             f"operand slices are too deep: {self.a_addr_bits} and {self.b_addr_bits} address bits, at most 20")
        need(self.acc_addr_bits <= 16, f"accumulator buffer is too deep: {self.acc_addr_bits} address bits, "
             "at most 16")

    # Operand buffers -------------------------------------------------------------------------------

    @property
    def a_word_bytes(self) -> int:
        """Width of an A slice: one bus beat or one vector row of codes, whichever is wider."""
        return max(self.bus_bytes, self.cols)

    @property
    def b_word_bytes(self) -> int:
        """Width of a B slice: one bus beat."""
        return self.bus_bytes

    @property
    def a_bank_groups(self) -> int:
        """Depth of one bank of an A slice in groups of ``lanes`` bytes."""
        return self.a_buffer_bytes // (self.rows * self.a_banks * self.lanes)

    @property
    def b_bank_groups(self) -> int:
        """Depth of one bank of a B slice in groups of ``lanes`` bytes."""
        return self.b_buffer_bytes // (self.cols * self.b_banks * self.lanes)

    @property
    def a_offset_bits(self) -> int:
        """Low bits of an A address (in groups) that are the offset in a bank; the rest is the bank."""
        return _bits(self.a_bank_groups)

    @property
    def b_offset_bits(self) -> int:
        """Low bits of a B address (in groups) that are the offset in a bank; the rest is the bank."""
        return _bits(self.b_bank_groups)

    @property
    def a_addr_bits(self) -> int:
        return self.a_offset_bits + _bits(self.a_banks)

    @property
    def b_addr_bits(self) -> int:
        return self.b_offset_bits + _bits(self.b_banks)

    # Accumulator buffer ----------------------------------------------------------------------------

    @property
    def acc_planes(self) -> int:
        """32-bit words of a raw accumulator; plane p of a raw row lies ``p * acc_plane_banks`` banks up."""
        return -(-self.acc_bits // 32)

    @property
    def acc_plane_banks(self) -> int:
        return self.acc_banks // self.acc_planes

    @property
    def acc_word_bits(self) -> int:
        """Bits of one lane of an accumulator row: 32 data bits and this plane's share of the flags."""
        return 32 + -(-ACC_FLAG_BITS // self.acc_planes)

    @property
    def acc_offset_bits(self) -> int:
        """Low bits of an accumulator address that are the row in a bank; the rest is the bank number.

        Banks 0 .. acc_banks-1 are accumulator banks, the next stat_banks are statistics banks.
        """
        return _bits(max(self.acc_bank_rows, self.stat_bank_rows))

    @property
    def acc_addr_bits(self) -> int:
        return self.acc_offset_bits + _bits(self.acc_banks + self.stat_banks)

    def acc_addr(self, bank: int, row: int = 0) -> int:
        """Address of ``row`` in accumulator or statistics bank ``bank``."""
        return (bank << self.acc_offset_bits) | row

    def acc_bank_depth(self, bank: int) -> int:
        """Rows of bank ``bank``."""
        return self.acc_bank_rows if bank < self.acc_banks else self.stat_bank_rows

    # Rates and identity ----------------------------------------------------------------------------

    @property
    def macs_per_cycle(self) -> int:
        """Peak FP8 multiply-accumulates per cycle."""
        return self.rows * self.cols * self.lanes

    @property
    def dram_rate(self) -> Fraction:
        """Bytes per cycle that a DRAM port moves: ``dram_bytes_per_cycle``, or ``bus_bytes``."""
        return rational(self.dram_bytes_per_cycle) or Fraction(self.bus_bytes)

    @property
    def beat_cycles(self) -> Fraction:
        """Cycles that the DRAM takes per beat of ``bus_bytes``: 1 or more."""
        return self.bus_bytes / self.dram_rate

    @property
    def page_bytes(self) -> int:
        return self.imem_page * INSTRUCTION_BYTES

    @property
    def outstanding_bursts(self) -> int:
        """``max_outstanding``, or so many that even single beats keep a bus full whose answers take 125 cycles.

        What the memory behind the bus takes is not known when a tile is built, so ``dram_latency`` does not decide it.
        """
        return self.max_outstanding or 128

    def to_dict(self) -> dict:
        """Plain values, in field order; `from_dict` is the inverse."""
        values = dataclasses.asdict(self)
        values["formats"], values["scales"] = list(self.formats), list(self.scales)
        return values

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that change with what programs depend on: all but name, clock and `AXI_KEYS`.

        A DRAM as fast as its port, and a port each for loads and stores, are not named in them.
        """
        values = {k: v for k, v in self.to_dict().items() if k not in ("name", "clock_mhz", *AXI_KEYS)}
        if self.dram_rate == self.bus_bytes:
            del values["dram_bytes_per_cycle"]
        if not self.dram_shared:
            del values["dram_shared"]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]

    @classmethod
    def from_dict(cls, values: dict, *, source: str) -> "TileConfig":
        """Build from plain values, or texts with a unit ("64 KiB"); errors name ``source`` and every wrong key."""
        check_names(values, [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING], source)
        values = with_units(values, source)
        name = values["name"]
        if not isinstance(name, str) or not 0 < len(name) <= 256 or not name.isprintable():
            raise ConfigError(f"{source}: name must be a printable string of 1 to 256 characters, got "
                              f"{ascii(name)[:60]}")
        for key, default in (("formats", ["e4m3"]), ("scales", [])):
            value = values.get(key, default)
            if not isinstance(value, (list, tuple)):
                raise ConfigError(f"{source}: {key} must be a list, got {value!r}")
            values[key] = tuple(value)
        try:
            return cls(**values)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None


def load_tile(name_or_path: str | Path) -> TileConfig:
    """The preset of that name, or the TOML file at that path.

    Raises `ConfigError` naming the file, key, value and what is allowed.
    """
    text = str(name_or_path)
    if text in PRESETS:
        raw = resources.files(__name__.rpartition(".")[0]).joinpath("presets", f"{text}.toml").read_text("utf-8")
        return _parse(raw, f"preset {text}")
    path = Path(text)
    if not path.is_file():
        raise ConfigError(f"tile {text!r}: neither a preset ({', '.join(PRESETS)}) nor a file"
                          f"{did_you_mean(text, PRESETS)}")
    try:
        raw = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"tile file {text}: cannot be read as text: {error}") from None
    return _parse(raw, f"tile file {text}")


def _parse(raw: str, source: str) -> TileConfig:
    try:
        values = tomllib.loads(raw)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: not valid TOML: {error}") from None
    return TileConfig.from_dict(values, source=source)
