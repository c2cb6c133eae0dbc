"""What a lane of an operand looks like on its way through the array.

Where one side of the array knows a single element format, its lanes carry codes and every processing element decodes
them: the decoder is a few gates, the eight bits are registers in every element. With several formats, codes are
decoded once, at the edge of the array, to fields that all formats share: a decoder that can be switched costs more in
each element than the registers of the wider fields (`docs/decisions/0010-decoding-at-the-edge.md`). The multiplier back
end ``dsp`` goes one step further: at the edge values become integers, so that an element has nothing to shift.

A byte of two E2M1 codes is two products. The first takes the way of all products; the second is small and has its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Mux, Shape, Value, unsigned
from amaranth.lib import data

from ..spec.array_formats import built_pairs
from ..spec.config import TileConfig
from ..spec.formats import E2M1, PAIRS, FormatSpec, carries_codes, side_specs
from ..spec.isa import Pair
from .decode import DecodedElement


@dataclass
class LaneFields:
    """A lane in a processing element.

    Value of the first product's factor: sign and significand * 2**shift (``fabric``), or sign and magnitude (``dsp``).
    special: NaN or infinity, whose value the user must suppress; constant 0 where the edge has made it zero. zero: the
    value is a zero, known only if there are infinities. high: the second E2M1 code, None without the pair E2M1.
    """

    sign: Value
    significand: Value
    shift: Value
    magnitude: Value
    nan: Value
    infinite: Value
    special: Value
    zero: Value
    high: Value | None


@dataclass(frozen=True)
class LaneFormat:
    """One side's lanes, for the element pairs that are built.

    side: "a" or "b". multiplier: "fabric" or "dsp".
    """

    side: str
    pairs: tuple[Pair, ...]
    multiplier: str

    @property
    def specs(self) -> tuple[FormatSpec, ...]:
        """Element formats of this side."""
        return side_specs(self.pairs, self.side)

    @property
    def two_codes(self) -> bool:
        """Lanes may hold two E2M1 codes."""
        return Pair.E2M1 in self.pairs

    @property
    def plain(self) -> bool:
        """Lanes carry codes as they are in the buffer."""
        return carries_codes(self.pairs, self.side, self.multiplier)

    @property
    def shape(self) -> Shape | data.StructLayout:
        """Of one lane."""
        if self.plain:
            return unsigned(4 if self.specs == (E2M1,) and not self.two_codes else 8)
        fields: dict = {"sign": 1}
        if self.multiplier == "dsp":
            fields["magnitude"] = max(spec.max_integer for spec in self.specs).bit_length()
        else:
            fields["significand"] = max(spec.significand_bits for spec in self.specs)
            fields["shift"] = max(spec.max_finite_shift for spec in self.specs).bit_length()
        if any(spec.nan_codes for spec in self.specs):
            fields["nan"] = 1
        if any(spec.has_infinity for spec in self.specs):
            fields["infinite"] = 1
        if self.two_codes:
            fields["high"] = 4
        return data.StructLayout(fields)

    def operand_shape(self, lanes: int) -> Shape | data.ArrayLayout:
        """Of a group of lanes, lane 0 lowest."""
        shape = self.shape
        return unsigned(shape.width * lanes) if isinstance(shape, Shape) else data.ArrayLayout(shape, lanes)

    def lane(self, operand: Value | data.View, index: int) -> Value | data.View:
        """Lane ``index`` of an operand of `operand_shape`."""
        shape = self.shape
        return operand.word_select(index, shape.width) if isinstance(shape, Shape) else operand[index]

    # At the edge --------------------------------------------------------------------------------------------

    def expand(self, code: Value, pair: Value) -> Value:
        """Bits of a lane from its byte of the buffer; where B has one code per lane, that code in the low nibble.

        ``pair`` is one of the pairs that are built.
        """
        shape = self.shape
        if isinstance(shape, Shape):
            return code[:shape.width]
        chosen: dict[str, Value] = {}
        for spec in self.specs:
            fields = self._expanded(code, spec, pair)
            if not chosen:
                chosen = fields
                continue
            of_spec = [p for p in self.pairs if getattr(PAIRS[p], self.side) == spec]
            hit = Cat(pair == p for p in of_spec).any()
            chosen = {name: Mux(hit, fields[name], value) for name, value in chosen.items()}
        return Cat(chosen[name][:field.width] for name, field in shape)

    def _expanded(self, code: Value, spec: FormatSpec, pair: Value) -> dict[str, Value]:
        decoded = DecodedElement(code, spec)
        significand = Mux(decoded.nan | decoded.infinite, 0, decoded.significand)
        fields = {
            "sign": decoded.sign, "nan": decoded.nan, "infinite": decoded.infinite,
            "high": Mux(pair == Pair.E2M1, code[4:8], 0) if spec == E2M1 else Const(0, 4)}
        if self.multiplier == "dsp":
            return fields | {"magnitude": _wide(significand << decoded.shift, 32)}
        return fields | {"significand": _wide(significand, 8), "shift": _wide(decoded.shift, 8)}

    # In the processing element ------------------------------------------------------------------------------

    def fields(self, lane: Value | data.View) -> LaneFields:
        """Of a lane of `shape`."""
        zero = Const(0, 1)
        if isinstance(lane, data.View):
            names = [name for name, _ in lane.shape()]
            get = {name: Value.cast(lane[name]) for name in names}
            size = get["magnitude" if self.multiplier == "dsp" else "significand"]
            nan, infinite = get.get("nan", zero), get.get("infinite", zero)
            return LaneFields(
                sign=get["sign"], significand=size, shift=get.get("shift", zero), magnitude=size, nan=nan,
                infinite=infinite, special=zero, zero=~size.any() & ~nan & ~infinite, high=get.get("high"))
        spec = self.specs[0]
        decoded = DecodedElement(lane, spec)
        return LaneFields(
            sign=decoded.sign, significand=decoded.significand, shift=decoded.shift, magnitude=zero, nan=decoded.nan,
            infinite=decoded.infinite, special=decoded.nan | decoded.infinite, zero=~decoded.significand.any(),
            high=lane[4:8] if self.two_codes else None)


def lane_format(config: TileConfig, side: str) -> LaneFormat:
    """Lanes of side "a" or "b" of a tile."""
    return LaneFormat(side, built_pairs(config), config.multiplier)


def _wide(value: Value, bits: int) -> Value:
    """``value`` with zeros above it, so that it can be cut to any width."""
    return Cat(value, Const(0, bits))
