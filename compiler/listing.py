"""A program as text for people: every instruction in assembler, with its label and, if known, its times.

Without the columns in front, the lines are what `rtl.assembly.assemble` reads: labels are comments.
"""

from ..rtl.assembly import disassemble_one
from ..sim.program import Program
from ..sim.timing import Timing


def listing(program: Program, timing: Timing | None = None) -> str:
    """One line per instruction: index, issue and retire cycle, assembler text, label as a comment."""
    lines = [f"# tile {program.config.name} ({program.config.digest}), {len(program.instructions)} instructions"]
    if timing is not None:
        lines.append(f"# cycles {timing.cycles}; columns: index, issue, retire")
    for index, instruction in enumerate(program.instructions):
        when = "" if timing is None else f"{int(timing.issue[index]):>10} {int(timing.retire[index]):>10}  "
        label = program.labels[index] if program.labels else ""
        lines.append(f"{index:>7} {when}{disassemble_one(instruction)}{'  # ' + label if label else ''}")
    return "\n".join(lines) + "\n"
