"""The instruction table, and the encoder and decoder that derive from it."""

from __future__ import annotations

import dataclasses
import itertools
import re

import numpy as np
import pytest

pytest.importorskip("hypothesis", reason="Hypothesis is a test extra")
from hypothesis import given
from hypothesis import strategies as st

from tilescore.rtl.spec.config import PRESETS, TileConfig, load_tile
from tilescore.rtl.spec.encoding import decode, decode_program, encode, encode_program, fp32_bits
from tilescore.rtl.spec.errors import ProgramError
from tilescore.rtl.spec.isa import (
    HEADER,
    INSTRUCTION_BITS,
    INSTRUCTION_CLASSES,
    INSTRUCTIONS,
    STRIDE_UNIT,
    Field,
    Load,
    Matmul,
    Space,
    Vector,
    layout_of,
    reference_page,
)
from tilescore.rtl.spec.tile_keys import KEYS

LARGEST = dataclasses.replace(load_tile("server"), name="widest", cols=256, b_buffer_bytes=1 << 21)


def field_values(field: Field) -> st.SearchStrategy[int]:
    """Every value that a field may hold."""
    return st.sampled_from(field.values)


instructions = st.one_of([
    st.builds(INSTRUCTION_CLASSES[spec.name], **{f.name: field_values(f) for f in spec.fields + HEADER})
    for spec in INSTRUCTIONS])


@pytest.mark.parametrize("spec", INSTRUCTIONS, ids=lambda spec: spec.name)
def test_fields_follow_each_other_without_gaps(spec) -> None:
    layout = layout_of(spec)
    assert layout[0] == ("opcode", 0, 4)
    for (_, low, bits), (_, next_low, _) in itertools.pairwise(layout):
        assert low + bits == next_low
    assert layout[-1][1] + layout[-1][2] <= INSTRUCTION_BITS
    assert len({name for name, _, _ in layout}) == len(layout)


def test_opcodes_and_names_are_unique_and_nonzero() -> None:
    opcodes = [spec.opcode for spec in INSTRUCTIONS]
    assert len(set(opcodes)) == len(opcodes) and 0 not in opcodes and max(opcodes) < 16
    assert len(INSTRUCTION_CLASSES) == len(INSTRUCTIONS)


@given(instructions)
def test_decode_inverts_encode(instruction) -> None:
    word = encode(instruction)
    assert 0 < word < 1 << INSTRUCTION_BITS
    assert decode(word) == instruction


@given(instructions, st.data())
def test_one_bit_in_a_word_is_one_field(instruction, data) -> None:
    """Fields do not share bits: changing one leaves the others."""
    spec = instruction.spec
    field = data.draw(st.sampled_from(spec.fields + HEADER))
    value = data.draw(field_values(field))
    values = {f.name: getattr(instruction, f.name) for f in spec.fields + HEADER}
    changed = decode(encode(INSTRUCTION_CLASSES[spec.name](**{**values, field.name: value})))
    assert {f.name: getattr(changed, f.name) for f in spec.fields + HEADER} == {**values, field.name: value}


@given(st.lists(instructions, min_size=1, max_size=20))
def test_programs_round_trip(program) -> None:
    words = encode_program(program)
    assert words.shape == (len(program), 32) and words.dtype == np.uint8
    assert decode_program(words) == program


def test_word_is_little_endian_with_the_opcode_first() -> None:
    words = encode_program([Load(rows=1, row_bytes=1, wait_rd=0b1000)])
    assert words[0, 0] == 1 | 0b1000 << 4


def test_integer_bits_of_a_known_instruction() -> None:
    # opcode 4 bits, header 4 + 4 + 5 + 5, then a_addr 20, b_addr 20, k_steps 14.
    word = encode(Matmul(a_addr=3, b_addr=5, k_steps=7, wait_wr=1, signal_rd=2))
    assert word == 5 | 1 << 8 | 2 << 12 | 3 << 22 | 5 << 42 | 7 << 62


def test_negative_mask_base_keeps_its_sign() -> None:
    assert decode(encode(Matmul(k_steps=1, m_rows=1, n_tiles=1, mask_base=-3))).mask_base == -3


ROOM = {"LOAD": 3, "GATHER": 3, "STORE": 3, "SCATTER": 3, "MATMUL": 3, "VECTOR": 1}
"""Bits that ``docs/decisions/0019`` counts on."""


def test_the_fields_to_come_have_room() -> None:
    free = {spec.name: INSTRUCTION_BITS - sum(layout_of(spec)[-1][1:]) for spec in INSTRUCTIONS}
    assert {name: room for name, room in ROOM.items() if free[name] < room} == {}
    spare = {field.name: (1 << field.bits) - len(field.values) for field in Vector.spec.fields
             if isinstance(field.kind, type)}
    assert spare["func"] >= 8 and spare["combine"] >= 2
    assert 16 - len(INSTRUCTIONS) >= 2, "opcodes"


@pytest.mark.parametrize("tile", [*(load_tile(name) for name in PRESETS), LARGEST], ids=lambda tile: tile.name)
def test_narrow_fields_hold_what_any_tile_needs(tile: TileConfig) -> None:
    """Limits from below the first column in the last row to the last column; strides of whole beats."""
    fields = {field.name: field for field in Matmul.spec.fields}
    most_rows, most_columns = fields["m_rows"].values[-1], fields["n_tiles"].values[-1] * tile.cols
    for name in ("mask_base", "mask_low_base"):
        assert -most_rows in fields[name].values and most_columns in fields[name].values
    assert tile.bus_bytes % STRIDE_UNIT == 0
    assert KEYS["cols"].high == LARGEST.cols and KEYS["bus_bytes"].low == STRIDE_UNIT


@pytest.mark.parametrize(("instruction", "text"), [
    (Load(rows=1 << 16), "LOAD: rows = 65536, allowed 0..65535"),
    (Load(space=5), "LOAD: space = 5, allowed [0, 1, 2, 3, 4]"),
    (Load(dram_addr=-1), "LOAD: dram_addr = -1, allowed 0..1099511627775"),
    (Load(wait_rd=16), "LOAD: wait_rd = 16, allowed 0..15"),
    (Load(row_stride=6), "LOAD: row_stride = 6, allowed 0..4294967292, multiples of 4"),
    (Load(row_stride=1 << 32), "LOAD: row_stride = 4294967296, allowed 0..4294967292, multiples of 4"),
    (Matmul(mask_base=1 << 19), "MATMUL: mask_base = 524288, allowed -524288..524287"),
    (Matmul(mask_low_base=-(1 << 19) - 1), "MATMUL: mask_low_base = -524289, allowed -524288..524287"),
    (Vector(combine=7), "VECTOR: combine = 7, allowed [0, 1, 2, 3, 4]"),
])
def test_values_that_do_not_fit_are_named(instruction, text: str) -> None:
    with pytest.raises(ProgramError, match=re.escape(text)):
        encode(instruction)


def test_unknown_opcode_lists_the_known_ones() -> None:
    with pytest.raises(ProgramError, match=r"unknown opcode 0; allowed: 1 LOAD, .* 8 HALT"):
        decode(0)


@pytest.mark.parametrize("spec", INSTRUCTIONS, ids=lambda spec: spec.name)
def test_stray_bits_above_the_last_field_are_rejected(spec) -> None:
    layout = layout_of(spec)
    top = layout[-1][1] + layout[-1][2]
    word = encode(INSTRUCTION_CLASSES[spec.name]())
    for bit in (top, INSTRUCTION_BITS - 1):
        with pytest.raises(ProgramError, match=f"{spec.name}: bits {top} and above must be zero"):
            decode(word | 1 << bit)


def test_undefined_enum_value_is_rejected_by_decode() -> None:
    layout = {name: (low, bits) for name, low, bits in layout_of(Load.spec)}
    low, _ = layout["space"]
    with pytest.raises(ProgramError, match="LOAD: space = 6"):
        decode(encode(Load(space=Space.A)) | 6 << low)


def test_a_bad_word_in_a_program_is_named_by_its_index() -> None:
    words = encode_program([Load(), Load(), Load()]).copy()
    words[1, 0] = 0
    with pytest.raises(ProgramError, match="instruction 1: unknown opcode 0"):
        decode_program(words)


@given(st.floats(width=32, allow_nan=False))
def test_fp32_bits_are_those_of_the_value(value: float) -> None:
    assert np.uint32(fp32_bits(value)).view(np.float32) == np.float32(value)


def test_reference_page_has_every_instruction_and_field() -> None:
    page = reference_page()
    for spec in INSTRUCTIONS:
        section = page.split(f"## {spec.name} ")[1].split("\n## ")[0]
        for name, low, bits in layout_of(spec):
            assert f"| `{name}` | {low + bits - 1}:{low} |" in section
