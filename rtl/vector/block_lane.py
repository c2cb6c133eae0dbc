"""One lane of the block quantizer: the element waits for the scale of its block, then becomes a code.

Times count from the arrival of the block's divisor. With the choice between two scales (`Quant.NVFP4_46`) the lane
makes both codes and measures both errors on a grid of integers (`sim.numerics.block_codes`), so that their sum
over a block does not depend on any order.
"""

from collections.abc import Iterable

from amaranth.hdl import EnableInserter, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from ..arith.pack import delay
from ..arith.quantize import QuantizeFp8
from ..arith.quotient import ELEMENT_BITS, Divisor, QuotientQuantizer
from ..arith.unpacked import UnpackFp32
from ..spec.formats import FormatSpec
from .delay_line import delay_line
from .error_grid import LEVEL_BITS, POSITION_BITS, grid_position

ERROR_BITS = 28

_DOUBLED_E2M1 = (0, 1, 2, 3, 4, 6, 8, 12)


class BlockLane(wiring.Component):
    """One element per cycle.

    Parameters: ``elements``, the element formats of the block quantizers; ``wait``, cycles from an element to the
    divisor of its block, at least 1; ``choice``, cycles from the two codes to the choice between them, or None.

    Members
    -------
    value : In(32)
        The FP32 word.
    cast : In(8)
        Its code without a scale, `QuantizeFp8.LATENCY` cycles after ``value``.
    divisor, divisor4 : In(Divisor), element : In(2), nan : In(1)
        At time 0. element: index in `ELEMENTS`; nan: the code is 0.
    unit : In(8)
        At time 0: exponent field of the block's largest magnitude, at least 16.
    level, level4 : In(18)
        At `QuotientQuantizer.LATENCY`: half of the divisors on the error grid.
    error, error4 : Out(28)
        At `ERROR_LATENCY`.
    four, blocked : In(1)
        With ``code``: take the second code; take a block's code, not ``cast``.
    active : In(1)
        As that of `BlockStage`.
    code : Out(8)
        `QuotientQuantizer.LATENCY` + choice after the divisor.
    """

    value: Signal
    cast: Signal
    divisor: data.View
    divisor4: data.View
    element: Signal
    nan: Signal
    unit: Signal
    level: Signal
    level4: Signal
    error: Signal
    error4: Signal
    four: Signal
    blocked: Signal
    active: Signal
    code: Signal

    def __init__(self, *, elements: Iterable[FormatSpec], wait: int, choice: int | None) -> None:
        if wait < UnpackFp32.LATENCY:
            raise ValueError(f"wait must be at least {UnpackFp32.LATENCY}, got {wait}")
        self.elements, self.wait, self.choice = tuple(elements), wait, choice
        super().__init__({
            "value": In(32), "cast": In(8), "divisor": In(Divisor), "divisor4": In(Divisor),
            "element": In(ELEMENT_BITS), "nan": In(1), "unit": In(8), "level": In(LEVEL_BITS), "level4": In(LEVEL_BITS),
            "active": In(1, init=1),  # pyright: ignore[reportCallIssue]
            "error": Out(ERROR_BITS), "error4": Out(ERROR_BITS), "four": In(1), "blocked": In(1), "code": Out(8),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.unpack = unpack = UnpackFp32()
        m.d.comb += unpack.value.eq(delay_line(m, self.value, self.wait - UnpackFp32.LATENCY, name="value_delay"))
        code = self._quotient(m, "six", unpack.unpacked, self.divisor)
        if self.choice is not None:
            code4 = self._quotient(m, "four", unpack.unpacked, self.divisor4)
            position = delay(m, grid_position(m, unpack.unpacked, self.unit), QuotientQuantizer.LATENCY - 2,
                             name="position")
            self._error(m, "six", position, code, self.level, self.error)
            self._error(m, "four", position, code4, self.level4, self.error4)
            code = Mux(self.four, delay_line(m, code4, self.choice, name="code4_delay"),
                       delay_line(m, code, self.choice, name="code_delay"))
        wait = self.wait + QuotientQuantizer.LATENCY + (self.choice or 0) - QuantizeFp8.LATENCY
        cast = delay_line(m, self.cast, wait, name="cast_delay")
        m.d.comb += self.code.eq(Mux(self.blocked, code, cast))
        return EnableInserter(self.active)(m)  # pyright: ignore[reportReturnType]

    def _quotient(self, m: Module, name: str, x: data.View, divisor: data.View) -> Value:
        m.submodules[f"quotient_{name}"] = quotient = QuotientQuantizer(self.elements)
        m.d.comb += [
            quotient.x.eq(x), quotient.divisor.eq(divisor), quotient.element.eq(self.element),
            quotient.zero.eq(self.nan),
        ]
        return quotient.code

    @staticmethod
    def _error(m: Module, name: str, position: Value, code: Value, level: Value, error: Signal) -> None:
        """Level times twice the E2M1 code | distance from the position, without its last three bits | square."""
        product = Signal(LEVEL_BITS + 4, name=f"product_{name}", reset_less=True)
        place = Signal(POSITION_BITS, name=f"place_{name}", reset_less=True)
        distance = Signal(14, name=f"distance_{name}", reset_less=True)
        difference = Signal(LEVEL_BITS + 5, name=f"difference_{name}")
        triple = level + (level << 1)
        with m.Switch(code[:3]):
            for magnitude, doubled in enumerate(_DOUBLED_E2M1):
                factor, shift = (triple, doubled // 3) if doubled % 3 == 0 else (level, doubled)
                with m.Case(magnitude):
                    m.d.sync += product.eq(factor << max(shift.bit_length() - 1, 0) if doubled else 0)
        m.d.sync += place.eq(position)
        m.d.comb += difference.eq(place - product)
        m.d.sync += distance.eq(Mux(difference[-1], -difference, difference)[3:])
        square = Signal(ERROR_BITS, name=f"square_{name}", reset_less=True)
        m.d.sync += square.eq(distance * distance)
        m.d.comb += error.eq(square)
