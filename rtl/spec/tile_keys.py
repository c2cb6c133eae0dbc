"""The keys of a tile file: what each means, its unit, its range, and how a person may write its value.

One table (`KEYS`) checks a `TileConfig`, reads quantities with a unit ("64 KiB", "4k", "500 MHz"), comments the TOML of
`tilescore tile` and makes the table of `docs/tile.md`. Relations between keys are `TileConfig`'s.
"""

import math
import re
from dataclasses import dataclass
from fractions import Fraction

from .errors import ConfigError, did_you_mean
from .formats import BUILD_NAMES, SCALE_NAMES

MULTIPLIERS = ("fabric", "dsp")
"""PE back ends: shift and add, or one 18-bit multiplier per product of operands that are expanded at the edge."""

COUNTER_SETS = ("all", "none")
"""What `TileConfig.counters` may be: counters are a tenth of a small tile's logic, and no program needs them."""

_BINARY = {"": 1, "k": 1 << 10, "K": 1 << 10, "Ki": 1 << 10, "M": 1 << 20, "Mi": 1 << 20}
_SUFFIXES: dict[str, dict[str, int | Fraction]] = {
    "bytes": {**_BINARY, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20},
    "MHz": {"": 1, "Hz": Fraction(1, 10**6), "kHz": Fraction(1, 1000), "MHz": 1, "GHz": 1000},
}
_EXAMPLES = {"bytes": '"64 KiB", "2 MiB" or "4k" (k = 1024)', "MHz": '"500 MHz" or "1.2 GHz"'}

_COUNT_EXAMPLE = '"4k" (k = 1024)'

LARGEST_DENOMINATOR = 1 << 32
"""Of a rational key in lowest terms: the hardware counts in units of it."""


def rational(value: object) -> Fraction | None:
    """The exact value of 12, 12.8 (as it is written), "64/3" or "12.8 B/cycle"; None for anything else."""
    if isinstance(value, (int, float, Fraction)) and not isinstance(value, bool):
        return Fraction(str(value)) if math.isfinite(value) else None
    match = re.fullmatch(r"\s*(\d[\d_]*(?:\.\d+)?)(?:\s*/\s*(\d[\d_]*))?\s*(?:B|B/cycle)?\s*", str(value))
    if not isinstance(value, str) or not match or (match[2] and not int(match[2])):
        return None
    return Fraction(match[1].replace("_", "")) / int(match[2] or 1)


def plain(value: Fraction) -> int | float | str:
    """As a file has it, exactly: an integer, a decimal number, else "64/3"."""
    if value.denominator == 1:
        return int(value)
    return float(value) if Fraction(str(float(value))) == value else f"{value.numerator}/{value.denominator}"


@dataclass(frozen=True, kw_only=True)
class Key:
    """One key.

    kind: "integer", "number" (above low, at most high), "rational" (0, or exactly what `rational` reads, from low to
    high), "truth", "text" or "texts" (a list). unit: what the number counts. low, high: both allowed for an integer.
    choices: the values that are allowed, for texts of each element.
    """

    name: str
    meaning: str
    kind: str = "integer"
    unit: str = ""
    low: int = 0
    high: int = 0
    power_of_two: bool = False
    choices: tuple = ()

    @property
    def range(self) -> str:
        """What is allowed: "4..256, a power of two"."""
        if self.choices:
            return ("any of " if self.kind == "texts" else "") + ", ".join(str(choice) for choice in self.choices)
        if self.kind == "integer":
            return f"{self.low}..{self.high}" + (", a power of two" if self.power_of_two else "")
        return {"number": f"above {self.low}, at most {self.high}", "truth": "true, false",
                "rational": f"0, or a rational {self.low}..{self.high}"}.get(self.kind, "any")

    def check(self, tile: str, value: object) -> None:
        """Raise `ConfigError` for a value of the wrong kind or out of range; lists are not looked into."""
        if self.kind == "integer":
            if not isinstance(value, int) or isinstance(value, bool):
                raise ConfigError(f"tile {tile}: {self.name} must be an integer, got {value!r}")
            if not self.choices and not self.low <= value <= self.high:
                raise ConfigError(f"tile {tile}: {self.name} must be {self.low}..{self.high}, got {value!r}")
            if self.power_of_two and value & (value - 1):
                raise ConfigError(f"tile {tile}: {self.name} must be a power of two, got {value!r}")
        if self.kind == "number" and (type(value) not in (int, float) or not self.low < value <= self.high):  # type: ignore[operator]
            raise ConfigError(f"tile {tile}: {self.name} must be in ({self.low}, {self.high}], got {value!r}")
        if self.kind == "truth" and not isinstance(value, bool):
            raise ConfigError(f"tile {tile}: {self.name} must be true or false, got {value!r}")
        if self.kind == "rational":
            number = rational(value)
            if number is None or (number and not (self.low <= number <= self.high
                                                 and number.denominator <= LARGEST_DENOMINATOR)):
                raise ConfigError(f"tile {tile}: {self.name} must be {self.range} with a denominator of at most 2**32, "
                                  f"such as 12.8 or \"64/3\", got {value!r}")
        if self.kind in ("integer", "text") and self.choices and value not in self.choices:
            raise ConfigError(f"tile {tile}: {self.name} must be one of {self.range}, got {value!r}"
                              f"{did_you_mean(str(value), self.choices)}")

    def from_text(self, text: str) -> int | float | str | list[str]:
        """The value that a person writes as ``text``: a list with commas, a number with a unit, true or false, or the
        text itself.

        Raises `ConfigError` naming the key, the text and what is allowed; the range is `check`'s.
        """
        if self.kind == "texts":
            return [part.strip() for part in text.split(",") if part.strip()]
        if self.kind == "text":
            return text
        if self.kind == "truth":
            if text.strip().lower() not in ("true", "false"):
                raise ConfigError(f"{self.name}: expected true or false, got {text!r}")
            return text.strip().lower() == "true"
        if self.kind == "rational":
            number = rational(text)
            if number is None:
                raise ConfigError(f"{self.name}: expected a number of {self.unit}, such as \"12.8\", \"64/3\" or "
                                  f"\"25.6 B/cycle\", got {text!r}")
            return plain(number)
        match = re.fullmatch(r"\s*([+-]?\d[\d_]*(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
        factor = _SUFFIXES.get(self.unit, _BINARY).get(match[2]) if match else None
        value = Fraction(match[1].replace("_", "")) * factor if match and factor else None
        if value is None or (self.kind == "integer" and value.denominator != 1):
            unit = f" of {self.unit}" if self.unit else ""
            number = "an integer" if self.kind == "integer" else "a number"
            raise ConfigError(f"{self.name}: expected {number}{unit}, or a text such as "
                              f"{_EXAMPLES.get(self.unit, _COUNT_EXAMPLE)}, got {text!r}")
        return int(value) if self.kind == "integer" else float(value)


KEYS = {key.name: key for key in (
    Key(name="name", kind="text", meaning="name of the tile in reports, module comments and exports"),
    Key(name="rows", low=4, high=256, power_of_two=True, unit="PEs", meaning="rows of the array"),
    Key(name="cols", low=4, high=256, power_of_two=True, unit="PEs",
        meaning="columns of the array, and lanes of the vector unit"),
    Key(name="lanes", low=2, high=64, power_of_two=True, unit="byte lanes",
        meaning="FP8 products per PE and cycle; block scales need 8"),
    Key(name="acc_bits", choices=(64, 80, 96), unit="bits", meaning="accumulator width; e5m2 needs 80"),
    Key(name="formats", kind="texts", choices=BUILD_NAMES, meaning="element formats that are built (A x B)"),
    Key(name="scales", kind="texts", choices=tuple(SCALE_NAMES.values()), meaning="block scales that are built"),
    Key(name="multiplier", kind="text", choices=MULTIPLIERS,
        meaning="PE back end: shift and add, or one 18-bit multiplier per product"),
    Key(name="a_buffer_bytes", low=1, high=1 << 26, unit="bytes",
        meaning="operand buffer A, a multiple of rows x a_banks x max(bus_bytes, cols)"),
    Key(name="a_banks", low=1, high=32, unit="banks", meaning="banks of buffer A; one unit owns a bank at a time"),
    Key(name="b_buffer_bytes", low=1, high=1 << 26, unit="bytes",
        meaning="operand buffer B, a multiple of cols x b_banks x bus_bytes"),
    Key(name="b_banks", low=1, high=32, unit="banks", meaning="banks of buffer B"),
    Key(name="acc_banks", low=2, high=64, unit="banks", meaning="banks of the accumulator buffer"),
    Key(name="acc_bank_rows", low=4, high=1024, unit="rows", meaning="rows of cols FP32 values per accumulator bank"),
    Key(name="stat_banks", low=1, high=16, unit="banks", meaning="shallow banks for row statistics and vectors"),
    Key(name="stat_bank_rows", low=1, high=64, unit="rows", meaning="rows of cols FP32 values per statistics bank"),
    Key(name="index_entries", low=4, high=8192, unit="entries",
        meaning="32-bit index memory of gather and scatter, a multiple of bus_bytes / 4"),
    Key(name="imem_page", low=8, high=4096, power_of_two=True, unit="instructions",
        meaning="instructions per page; the instruction memory holds two pages"),
    Key(name="queue_depth", low=2, high=64, unit="instructions", meaning="instruction queue of each unit"),
    Key(name="bus_bytes", low=4, high=64, power_of_two=True, unit="bytes",
        meaning="width of the DRAM port, from lanes to 4 x cols"),
    Key(name="dram_bytes_per_cycle", kind="rational", low=1, high=2048, unit="B/cycle",
        meaning="rate of the DRAM, at most bus_bytes; 0: bus_bytes"),
    Key(name="dram_shared", kind="truth",
        meaning="loads and stores share the DRAM's bytes per cycle; else each has them"),
    Key(name="dram_latency", low=1, high=4096, unit="cycles", meaning="fixed latency of the DRAM"),
    Key(name="dma_outstanding", low=1, high=64, unit="instructions", meaning="DMA instructions in flight per port"),
    Key(name="max_burst", low=1, high=256, power_of_two=True, unit="beats",
        meaning="longest AXI burst, at most 4 KiB"),
    Key(name="max_outstanding", low=0, high=1024, unit="bursts",
        meaning="AXI bursts in flight per direction; 0: 128, single beats at 125 cycles of latency"),
    Key(name="recorder_depth", low=0, high=32768, unit="entries",
        meaning="DMA times that the AXI top records; 0: no recorder"),
    Key(name="counters", kind="text", choices=COUNTER_SETS, meaning="counters of events and causes in the AXI top"),
    Key(name="clock_mhz", kind="number", low=0, high=10_000, unit="MHz",
        meaning="clock, to turn cycles into seconds and watts"),
)}
"""In the order in which a tile file has them."""


def check_names(values: dict, required: list[str], source: str) -> None:
    """Raise `ConfigError` naming every unknown and every missing key of a tile file at once."""
    wrong = [f"unknown key {name!r}{did_you_mean(str(name), KEYS)}" for name in values if name not in KEYS]
    if wrong:
        wrong[-1] += f"; allowed: {', '.join(KEYS)}"
    missing = [repr(name) for name in required if name not in values]
    if missing:
        wrong.append(f"missing key{'s' if len(missing) > 1 else ''} {', '.join(missing)}")
    if wrong:
        raise ConfigError(f"{source}: {'; '.join(wrong)}")


def with_units(values: dict, source: str) -> dict:
    """``values`` of a tile file with texts that have a unit turned into numbers. A bare number must not be a text."""
    def read(name: str, value: object) -> object:
        key = KEYS[name]
        if not isinstance(value, str) or key.kind not in ("integer", "number", "rational"):
            return value
        if re.fullmatch(r"[\d.\s]*", value):
            return value
        try:
            return key.from_text(value)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None
    return {name: read(name, value) for name, value in values.items()}
