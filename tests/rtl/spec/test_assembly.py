"""Text form of instructions: round trip, forms that are accepted, errors that name line and field."""

from __future__ import annotations

import re

import numpy as np
import pytest

pytest.importorskip("hypothesis", reason="Hypothesis is a test extra")
from hypothesis import given
from hypothesis import strategies as st

from tilescore.rtl.spec.assembly import assemble, disassemble, disassemble_one
from tilescore.rtl.spec.encoding import fp32_bits
from tilescore.rtl.spec.errors import ProgramError
from tilescore.rtl.spec.isa import (
    HEADER,
    INSTRUCTION_CLASSES,
    INSTRUCTIONS,
    Combine,
    Field,
    Func,
    Halt,
    Load,
    Matmul,
    Source,
    Space,
    Vector,
)


def field_values(field: Field) -> st.SearchStrategy[int]:
    edges = [field.values[0], field.values[1], field.values[-1]]
    if field.bits == 32:
        edges += [0x3F800000, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0x00000001]
    return st.one_of(st.sampled_from(edges), st.sampled_from(field.values))


instructions = st.one_of([
    st.builds(INSTRUCTION_CLASSES[spec.name], **{f.name: field_values(f) for f in spec.fields + HEADER})
    for spec in INSTRUCTIONS])


@given(st.lists(instructions, max_size=10))
def test_assemble_inverts_disassemble(program) -> None:
    assert assemble(disassemble(program)) == program


@given(instructions)
def test_one_instruction_is_one_line(instruction) -> None:
    line = disassemble_one(instruction)
    assert "\n" not in line and line.split()[0] == instruction.spec.name
    assert assemble(line) == [instruction]


def test_the_text_of_a_known_instruction() -> None:
    instruction = Vector(rows=4, tiles=1, y=fp32_bits(0.125), z_kind=Source.ROW, z=256, combine=Combine.SUB,
                         func=Func.EXP2, wait_wr=0b0101, signal_rd=0b10000)
    assert disassemble_one(instruction) == (
        "VECTOR rows=4 tiles=1 y=0.125 z_kind=ROW z=256 combine=SUB func=EXP2 wait_wr=load,matrix "
        "signal_rd=dispatch")


def test_labels_become_comments() -> None:
    assert disassemble([Halt(), Halt()], ["end", ""]) == "HALT  # end\nHALT\n"


def test_comments_and_empty_lines_are_skipped() -> None:
    assert assemble("# nothing\n\n  HALT   # the end\n\tHALT\n") == [Halt(), Halt()]


@pytest.mark.parametrize(("text", "bits"), [
    ("1.0", 0x3F800000), ("-0.0", 0x80000000), ("1e-45", 1), ("inf", 0x7F800000), ("-inf", 0xFF800000),
    ("nan", 0x7FC00000), ("0x7f800001", 0x7F800001), ("12", 12), ("3.4028235e38", 0x7F7FFFFF),
])
def test_immediates(text: str, bits: int) -> None:
    assert assemble(f"VECTOR y={text}")[0].y == bits


def test_an_immediate_that_is_not_a_plain_number_is_shown_as_bits() -> None:
    assert "y=0x7f800001" in disassemble_one(Vector(y=0x7F800001))
    assert np.isnan(np.uint32(0x7F800001).view(np.float32))


def test_an_address_operand_is_not_shown_as_a_float() -> None:
    assert "y=1065353216" in disassemble_one(Vector(y_kind=Source.ACC, y=0x3F800000))


def test_hexadecimal_and_negative_integers() -> None:
    assert assemble("LOAD space=B dram_addr=0x1000") == [Load(space=Space.B, dram_addr=4096)]
    assert assemble("MATMUL mask_base=-2") == [Matmul(mask_base=-2)]


@pytest.mark.parametrize(("text", "message"), [
    ("LAOD rows=1", "line 1: unknown instruction 'LAOD'; allowed: LOAD, GATHER"),
    ("HALT\n\nLOAD rwos=1", "line 3: LOAD: unknown field 'rwos'; allowed: space, dram_addr"),
    ("LOAD rows", "line 1: LOAD: expected field=value, got 'rows'"),
    ("LOAD rows=", "line 1: LOAD: expected field=value, got 'rows='"),
    ("LOAD rows=1 rows=2", "line 1: LOAD: rows is given twice"),
    ("LOAD rows=one", "line 1: LOAD: rows = 'one', allowed: an integer"),
    ("LOAD rows=1.5", "line 1: LOAD: rows = '1.5', allowed: an integer"),
    ("LOAD rows=65536", "line 1: LOAD: rows = 65536, allowed 0..65535"),
    ("LOAD space=C", "line 1: LOAD: space = 'C', allowed: A, B, ACC, INDEX, PROGRAM"),
    ("LOAD wait_rd=load,dispatch",
     "line 1: LOAD: wait_rd: unknown unit 'dispatch'; allowed: load, store, matrix, vector"),
    ("LOAD signal_rd=dma",
     "line 1: LOAD: signal_rd: unknown unit 'dma'; allowed: load, store, matrix, vector, dispatch"),
    ("VECTOR y=fast", "line 1: VECTOR: y = 'fast', allowed: an integer (bits or address) or an FP32 value"),
    ("VECTOR y=1e39", "line 1: VECTOR: y = '1e39', allowed: an integer (bits or address) or an FP32 value"),
    ("MATMUL mask_base=999999", "line 1: MATMUL: mask_base = 999999, allowed -524288..524287"),
])
def test_errors_name_line_field_and_allowed(text: str, message: str) -> None:
    with pytest.raises(ProgramError, match=re.escape(f"prog.s: {message}")):
        assemble(text, source="prog.s")
