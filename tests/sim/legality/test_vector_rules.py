"""What a VECTOR may quantize, and the groups of A that it then writes."""

import dataclasses

import pytest

from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.encoding import fp32_bits
from tilescore.rtl.spec.errors import ProgramError
from tilescore.rtl.spec.isa import Combine, Dest, Func, Quant, Reduce, Source, Vector
from tilescore.sim.legality.accesses import accesses
from tilescore.sim.lib.strided import Strided

NANO = load_tile("nano")
TILE = dataclasses.replace(NANO, name="t", formats=("e4m3", "e2m1"), scales=("e4m3", "e8m0"))


def codes(**fields) -> Vector:
    """One row of 32 elements to A."""
    ones = {"y": fp32_bits(1.0), "z": fp32_bits(1.0), "w": fp32_bits(1.0)}
    return Vector(**({"rows": 1, "tiles": 8, "pitch": 1, "dest": Dest.A, "quant": Quant.MXFP4} | ones | fields))


def destination(instruction) -> Strided:
    return accesses(instruction, TILE).writes[0].run


def test_rows_of_codes_fill_the_groups_of_their_format():
    assert destination(codes()) == Strided(0, 2)
    assert destination(codes(quant=Quant.MXFP8)) == Strided(0, 4)
    assert destination(codes(quant=Quant.NVFP4, tiles=4)) == Strided(0, 1)
    assert destination(codes(quant=Quant.E4M3, tiles=3)) == Strided(0, 2)
    assert destination(codes(rows=5, pitch=5, dst_pitch=2)) == Strided(0, 2, 2, 2)


def test_z_may_be_a_row_of_statistics():
    touched = accesses(codes(z_kind=Source.ROW, z=TILE.acc_addr(16)), TILE)
    assert [access.role for access in touched.reads] == ["x_addr", "z"]


def test_a_format_without_blocks_keeps_combine_and_reductions():
    accesses(codes(quant=Quant.E4M3, combine=Combine.ADD, reduce=Reduce.ABSMAX, reduce_addr=TILE.acc_addr(16)), TILE)
    accesses(codes(dest=Dest.NONE, reduce=Reduce.ABSMAX, reduce_addr=TILE.acc_addr(16), combine=Combine.MAX), TILE)
    accesses(codes(dest=Dest.ACC, dst_addr=TILE.acc_addr(1), dst_pitch=1, func=Func.ANCHOR), TILE)


@pytest.mark.parametrize(
    ("tile", "instruction", "message"),
    [
        (TILE, codes(quant=Quant.BLOCK128), "quant: tile t does not build BLOCK128; it has E4M3, MXFP8, MXFP4, NVFP4"),
        (TILE, codes(quant=Quant.E5M2), "quant: tile t does not build E5M2"),
        (NANO, codes(quant=Quant.MXFP8), "quant: tile nano does not build MXFP8; it has E4M3"),
        (TILE, codes(quant=9), "quant = 9, allowed"),
        (TILE, codes(func=Func.ANCHOR, quant=Quant.NVFP4),
         "quant: func ANCHOR needs a format with anchors, got NVFP4; tile t has MXFP8, MXFP4, BLOCK128_E8M0"),
        (NANO, codes(func=Func.ANCHOR, quant=Quant.E4M3), "got E4M3; tile nano has none"),
        (TILE, codes(tiles=6), "tiles: rows of 24 elements are not whole blocks of 32, as quant MXFP4 needs"),
        (TILE, codes(combine=Combine.ADD), "combine must be NONE with quant MXFP4, which uses operand z, got ADD"),
        (TILE, codes(z_kind=Source.COLUMN), "z_kind must be IMM or ROW with quant MXFP4, got COLUMN"),
        (TILE, codes(reduce=Reduce.SUM), "reduce must be NONE with quant MXFP4"),
        (TILE, codes(rows=5, pitch=5, dst_pitch=1), "dst_pitch: panels of 2 groups overlap, 1 groups apart"),
    ],
)
def test_what_is_refused(tile, instruction, message):
    with pytest.raises(ProgramError, match=message.replace("(", r"\(")):
        accesses(instruction, tile)
