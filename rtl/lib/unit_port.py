"""The contract between a unit and its issue logic.

1. ``ready`` is high in every cycle in which the unit can accept an instruction. It does not depend on ``start``.
2. In the cycle in which ``start`` is high (only when ``ready`` is), ``command`` holds the instruction. That is the
   issue cycle I; ``ready`` is high again from cycle I + occupancy.
3. In cycle I + rd ``rd`` is high for one cycle and ``rd_mask`` holds the instruction's ``signal_rd``; in cycle
   I + wr ``wr`` and ``wr_mask`` likewise. Both pulses come for every instruction, also when the mask is 0.
4. Durations are those of `plan.duration`.
"""

from amaranth.hdl import Shape, ShapeLike, signed, unsigned
from amaranth.lib import data
from amaranth.lib.wiring import In, Out, Signature

from ..spec.isa import HEADER, OPCODE_BITS, SPEC_BY_NAME, Field


def command_layout(*names: str) -> data.StructLayout:
    """Opcode, header and the fields of the named instructions, which must agree in their common part."""
    longest = max((SPEC_BY_NAME[name] for name in names), key=lambda spec: sum(f.bits for f in spec.fields))
    fields: dict[str, ShapeLike] = {"opcode": OPCODE_BITS}
    for field in HEADER + longest.fields:
        fields[field.name] = data_shape(field)
    return data.StructLayout(fields)


def data_shape(field: Field) -> Shape:
    """Amaranth shape of an ISA field."""
    return signed(field.bits) if field.kind == "int" else unsigned(field.bits)


def unit_signature(layout: data.StructLayout) -> Signature:
    """Signature of a unit's port, as seen from the unit."""
    return Signature({
        "command": In(layout),
        "start": In(1),
        "ready": Out(1),
        "rd": Out(1),
        "rd_mask": Out(5),
        "wr": Out(1),
        "wr_mask": Out(5),
    })
