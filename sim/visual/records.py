"""All that a viewer needs to show any single instruction: its fields, bytes, cycles and what held it up, packed.

One table per unit, instructions in program order, the boot LOAD first among the load unit's. Fields that decide
durations and events repeat, so they stand once per *shape*, as assembler text beside its bytes, multiply-accumulates
and cycles; addresses, strides and token masks stand per instruction. Stalls are a table of their own.
"""

from typing import Any

import numpy as np

from ...rtl.plan import duration
from ...rtl.spec.assembly import disassemble_one
from ...rtl.spec.config import TileConfig
from ...rtl.spec.events import EVENT_NAMES, PAIR_EVENTS, event_counts
from ...rtl.spec.formats import PAIRS
from ...rtl.spec.isa import HEADER, SPEC_BY_NAME, Instruction, Unit
from ..program import Program
from ..timing import BOOT, NOT_SHAPE, STALL_CAUSES, Timing
from .fields import FieldColumns
from .pack import pack, pack_json


def records(program: Program, timing: Timing, fields: list[FieldColumns]) -> dict[str, Any]:
    """An object of JSON types; ``fields`` is of `field_columns`. compiler/visual/files/page.js reads it."""
    texts: dict[str, int] = {"": 0}
    blank = [""] * len(program.instructions)

    def numbers(of: list[str]) -> np.ndarray:
        return np.array([texts.setdefault(text, len(texts)) for text in of], np.int64)

    phase, label = numbers(program.phases or blank), numbers(program.labels or blank)
    shapes = _shapes(program, timing)
    units = {}
    for unit in Unit:
        own = [columns for columns in fields if SPEC_BY_NAME[columns.name].unit == unit]
        units[unit.name.lower()] = _unit_table(unit, own, program, timing, phase, label, len(shapes) - 1)
    index, cause, cycles = timing.stalls.T
    return {"cycles": timing.cycles, "instructions": len(program.instructions),
            "causes": list(STALL_CAUSES), "masks": [unit.name.lower() for unit in Unit],
            "header": [field.name for field in HEADER],
            "words": pack_json({"texts": list(texts), "shapes": shapes}), "units": units,
            "stalls": pack({"index": index, "cause": cause, "cycles": cycles})}


def macs_of(events: np.ndarray, config: TileConfig) -> np.ndarray:
    """Multiply-accumulates that the array executes, of counts (..., events) in the order of `EVENT_NAMES`."""
    per = np.zeros(len(EVENT_NAMES), np.int64)
    for pair, name in PAIR_EVENTS.items():
        per[EVENT_NAMES.index(name)] = config.cols * PAIRS[pair].products_per_step(config.lanes)
    return events @ per


def _shapes(program: Program, timing: Timing) -> list[list]:
    """[text, occupancy, rd, retire (from the issue), bytes read, bytes written, MACs] per shape; the boot LOAD last."""
    config = program.config
    read, write = EVENT_NAMES.index("dram_read_beats"), EVENT_NAMES.index("dram_write_beats")
    _, first = np.unique(timing.shape, return_index=True)
    macs = macs_of(timing.shape_events, config)
    found: list[list] = []
    for number, index in enumerate(first.tolist()):
        events, issue = timing.shape_events[number], timing.issue[index]
        found.append([_shape_text(program.instructions[index]), int(timing.occupancy[index]),
                      int(timing.rd[index] - issue), int(timing.retire[index] - issue),
                      int(events[read]) * config.bus_bytes, int(events[write]) * config.bus_bytes, int(macs[number])])
    boot = program.boot_load()
    cycles, events = duration(boot, config), event_counts(boot, config)
    found.append([_shape_text(boot), cycles.occupancy, cycles.rd, cycles.wr,
                  events["dram_read_beats"] * config.bus_bytes, 0, 0])
    return found


def _shape_text(instruction: Instruction) -> str:
    """Assembler text of the fields that do not stand per instruction."""
    shape = type(instruction)(**{f.name: getattr(instruction, f.name) for f in instruction.spec.fields
                                 if f.name not in NOT_SHAPE})
    return disassemble_one(shape)


def _unit_table(unit: Unit, own: list[FieldColumns], program: Program, timing: Timing, phase: np.ndarray,
                label: np.ndarray, boot_shape: int) -> dict[str, Any]:
    """Packed columns of one unit: ``times`` for drawing, ``fields`` for looking at one instruction."""
    index = np.concatenate([columns.index for columns in own]) if own else np.zeros(0, np.int64)
    order = np.argsort(index, kind="stable")
    rows = index[order]
    names = list(dict.fromkeys(name for columns in own for name in columns.columns if name in NOT_SHAPE))
    values = {name: np.concatenate([columns.columns.get(name, np.zeros(columns.index.size, np.int64))
                                    for columns in own])[order] for name in names}
    times = {"index": rows, "shape": timing.shape[rows], "phase": phase[rows], "issue": timing.issue[rows]}
    rest = {"label": label[rows], "dispatch": timing.dispatch[rows] - timing.issue[rows]}
    if unit == Unit.LOAD:
        boot = program.boot_load()
        start = {"index": BOOT, "shape": boot_shape, "phase": 0, "issue": timing.boot[1]}
        times = {name: np.insert(column, 0, start[name]) for name, column in times.items()}
        rest = {"label": np.insert(rest["label"], 0, 0),
                "dispatch": np.insert(rest["dispatch"], 0, timing.boot[0] - timing.boot[1])}
        values = {name: np.insert(column, 0, getattr(boot, name, 0)) for name, column in values.items()}
    return {"times": pack(times), "fields": pack(rest | values)}


