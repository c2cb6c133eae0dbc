"""Decoder for E4M3 codes; the table and the source are in `rtl/spec/formats.py`."""

from amaranth.hdl import Value

from ..spec.formats import E4M3
from .decode import DecodedElement


class DecodedE4M3(DecodedElement):
    """Expressions for the fields of an E4M3 code: value = (-1)**sign * significand * 2**(shift - 9)."""

    def __init__(self, code: Value) -> None:
        super().__init__(code, E4M3)
