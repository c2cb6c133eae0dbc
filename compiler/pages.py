"""A program's instructions cut into pages of instruction memory."""

from typing import NamedTuple

import numpy as np

from ..rtl.spec.config import TileConfig
from ..rtl.spec.isa import Halt, Load, Space, Sync, Unit
from ..sim.instructions import Instructions


class Notes(NamedTuple):
    """A label and a phase per instruction."""

    labels: list[str]
    phases: list[str]


def split_pages(instructions: Instructions, notes: Notes, config: TileConfig,
                program_addr: int) -> tuple[Instructions, Notes]:
    """Add HALT, and when the program is longer than a page, page LOADs and SYNCs; they belong to no phase.

    Every page but the last begins with the LOAD of the next one into the other half of instruction memory and
    ends with the SYNC that waits for it, so the transfer runs while the page executes.
    """
    page, count = config.imem_page, len(instructions) + 1
    pages = max(0, -(-(count - page) // (page - 2)))
    loads = [Load(space=Space.PROGRAM, rows=1, row_bytes=config.page_bytes, addr=number % 2 * page,
                  signal_wr=1 << Unit.DISPATCH) for number in range(2)]
    first = len(instructions.forms)
    halt, sync = first + 2, first + 3
    starts = np.arange(pages) * page
    total = count + 2 * pages
    own = np.ones(total, np.bool_)
    own[starts] = own[starts + page - 1] = own[-1] = False
    form, dram, scale = np.full(total, halt, np.int32), np.zeros(total, np.int64), np.zeros(total, np.int64)
    form[own], dram[own], scale[own] = instructions.form, instructions.dram_addr, instructions.scale_addr
    numbers = np.arange(1, pages + 1)
    form[starts], form[starts + page - 1] = first + numbers % 2, sync
    dram[starts] = program_addr + numbers * config.page_bytes
    labels, phases = [], []
    for number in range(pages):
        part, mark = slice(number * (page - 2), (number + 1) * (page - 2)), f"page {number + 1}"
        labels += [mark, *notes.labels[part], mark]
        phases += ["", *notes.phases[part], ""]
    labels += [*notes.labels[pages * (page - 2):], ""]
    phases += [*notes.phases[pages * (page - 2):], ""]
    forms = [*instructions.forms, *loads, Halt(), Sync(wait_wr=1 << Unit.LOAD)]
    return Instructions(forms, form, dram, scale), Notes(labels, phases)
