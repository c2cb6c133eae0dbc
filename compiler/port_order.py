"""The place of transfers in a program whose loads and stores share a DRAM port.

The port is granted in program order (`rtl/plan.py`), so a store that waits for its result holds up every load behind
it. Kernels emit a store where its result is computed, long before it is there: operands for what follows are loaded in
the meantime. So the instructions are put in the order in which they would issue if loads and stores had a port each: a
store then comes where its result is about to be ready. Within a unit nothing changes, and a token is given before it is
waited for, since what gives it issues first; so tokens and results are those of the order before.

Granting the port to whichever unit asks first was rejected: its time is not a maximum over earlier instructions, and it
gains nothing once stores are placed (docs/decisions/0020-one-dram-port.md).
"""

from dataclasses import replace

import numpy as np

from ..rtl.spec.config import TileConfig
from ..rtl.spec.isa import Halt
from ..sim.instructions import Instructions
from ..sim.program import Program
from ..sim.timing import time_program
from .pages import Notes


def in_port_order(instructions: Instructions, notes: Notes, config: TileConfig) -> tuple[Instructions, Notes]:
    """The instructions, with tokens and without pages, in the order of their issue on a tile with two ports."""
    whole = instructions + Instructions.of([Halt()])
    alone = Program(config=replace(config, dram_shared=False), instructions=whole, program_addr=0,
                    dram_bytes=-(-len(whole) // config.imem_page) * config.page_bytes)
    order = np.argsort(time_program(alone).issue[:-1], kind="stable")
    places = order.tolist()
    return instructions.take(order), Notes([notes.labels[place] for place in places],
                                           [notes.phases[place] for place in places])
