"""Pages of instruction memory: that each is there before it is executed."""

from ...rtl.spec.errors import ProgramError
from ...rtl.spec.isa import Instruction, Unit
from ..lib.strided import Strided
from ..program import Program
from .clocks import WR


class Pages:
    """Pages of instruction memory: two halves, page n in half n mod 2."""

    def __init__(self, program: Program) -> None:
        self.program, self.page = program, program.config.imem_page
        self.loaded: dict[int, int] = {}

    def load(self, index: int, instruction: Instruction, slots: Strided) -> None:
        """A LOAD to instruction memory: it must bring the page after the one that it is in."""
        number = index // self.page + 1
        if instruction.dram_addr != self.program.page_addr(number) or slots.addr != number % 2 * self.page:
            raise ProgramError(f"is in page {number - 1}, so it must load page {number}, from "
                               f"{self.program.page_addr(number)} to slot {number % 2 * self.page}, but it loads from "
                               f"{instruction.dram_addr} to slot {slots.addr}")
        if number in self.loaded:
            raise ProgramError(f"page {number} is loaded already by {self.program.describe(self.loaded[number])}")
        self.loaded[number] = index

    def enter(self, index: int, dispatched: tuple[int, ...]) -> None:
        """The first instruction of a page is about to be fetched."""
        number = index // self.page
        if number not in self.loaded:
            raise ProgramError(f"page {number} begins here, but no LOAD in page {number - 1} brings it")
        load = self.loaded[number]
        if load > dispatched[WR + Unit.LOAD]:
            raise ProgramError(f"page {number} begins here, but no SYNC waits for {self.program.describe(load)}")
