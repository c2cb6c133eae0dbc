"""A program as text for people: every instruction in assembler, with its phase and label and, if known, its cycles.

Without the columns in front, the lines are what `rtl.spec.assembly.assemble` reads: phases and labels are comments.
"""

from collections.abc import Iterator

from ..rtl.spec.assembly import disassemble_one
from ..sim.instructions import Instructions, with_addresses
from ..sim.program import Program
from ..sim.timing import BOOT, STALL_CAUSES, Timing


def listing(program: Program, timing: Timing | None = None) -> str:
    """One line per instruction: index, issue and retire cycle, what held it up, assembler text, phase and label.

    What held it up is the stall with the most cycles, as ``wait_load 120`` (causes: docs/report.md), ``-`` for none.
    """
    lines = [f"# tile {program.config.name} ({program.config.digest}), {len(program.instructions)} instructions"]
    stalls = {} if timing is None else _longest_stalls(timing)
    if timing is not None:
        lines.append(f"# cycles {timing.cycles}; columns: index, issue, retire, stall")
    for index, text in enumerate(_texts(program.columns)):
        when = ""
        if timing is not None:
            when = f"{int(timing.issue[index]):>10} {int(timing.retire[index]):>10} {stalls.get(index, '-'):<18} "
        notes = [texts[index] for texts in (program.phases, program.labels) if texts and texts[index]]
        comment = f"  # {': '.join(notes)}" if notes else ""
        lines.append(f"{index:>7} {when}{text}{comment}")
    return "\n".join(lines) + "\n"


def _texts(instructions: Instructions) -> Iterator[str]:
    """Assembler text of each. That of a form is made once, for addresses that are 0, which are left out, and others."""
    known: dict[tuple[int, bool, bool], str] = {}
    columns = (column.tolist() for column in (instructions.form, instructions.dram_addr, instructions.scale_addr))
    for form, dram, scale in zip(*columns, strict=True):
        kind = form, dram != 0, scale != 0
        text = known.get(kind)
        if text is None:
            words = disassemble_one(with_addresses(instructions.forms[form], int(kind[1]), int(kind[2]))).split(" ")
            places = {"dram_addr=1": "dram_addr={0}", "scale_addr=1": "scale_addr={1}"}
            text = known[kind] = " ".join(places.get(word, word) for word in words)
        yield text.format(dram, scale)


def _longest_stalls(timing: Timing) -> dict[int, str]:
    longest: dict[int, tuple[int, int]] = {}
    for index, cause, cycles in timing.stalls.tolist():
        if index != BOOT and cycles > longest.get(index, (0, 0))[0]:
            longest[index] = cycles, cause
    return {index: f"{STALL_CAUSES[cause]} {cycles}" for index, (cycles, cause) in longest.items()}
