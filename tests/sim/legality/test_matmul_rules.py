"""What a MATMUL's operand fields may be, for tiles that build more or less."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.errors import ProgramError
from tilescore.rtl.spec.isa import Matmul, Pair, Scale
from tilescore.sim.legality.accesses import accesses
from tilescore.sim.legality.matmul_rules import b_groups, check_elements

PLAIN = load_tile("nano")
TILE = replace(PLAIN, name="t", formats=("e4m3", "e2m1", "e4m3xe2m1"), scales=("e4m3", "e8m0"))
WIDE = replace(PLAIN, name="w", formats=("e4m3", "e5m2"), scales=("e8m0", "fp32"), acc_bits=80, acc_banks=12)


def matmul(**fields: int) -> Matmul:
    return Matmul(**{"k_steps": 4, "m_rows": 1, "n_tiles": 1} | fields)


@pytest.mark.parametrize(("tile", "fields"), [
    (PLAIN, {}),
    (TILE, {"pair": Pair.E2M1}),
    (TILE, {"pair": Pair.E4M3_E2M1, "k_steps": 3}),
    (TILE, {"pair": Pair.E2M1, "scale": Scale.E4M3, "a_scaled": 1, "b_scaled": 1}),
    (TILE, {"pair": Pair.E4M3_E2M1, "scale": Scale.E4M3, "b_scaled": 1, "block": 1}),
    (TILE, {"scale": Scale.E8M0, "a_scaled": 1, "b_scaled": 1, "block": 2, "headroom": 22}),
    (TILE, {"scale": Scale.E8M0, "a_scaled": 1, "block": 4, "k_steps": 32, "headroom": 19}),
    (WIDE, {"pair": Pair.E5M2, "scale": Scale.E8M0, "a_scaled": 1, "block": 2, "headroom": 10}),
    (WIDE, {"scale": Scale.FP32, "a_scaled": 1, "b_scaled": 1, "block": 4, "k_steps": 16, "headroom": 34}),
])
def test_legal_operands(tile, fields: dict) -> None:
    check_elements(matmul(**fields), tile)


@pytest.mark.parametrize(("tile", "fields", "message"), [
    (PLAIN, {"pair": Pair.E2M1}, r"pair: tile nano does not build E2M1 \(formats: e4m3\)"),
    (TILE, {"pair": Pair.E5M2_E4M3}, "pair: tile t does not build E5M2_E4M3"),
    (TILE, {"a_scaled": 1}, "a_scaled must be 0 without block scales, got 1"),
    (TILE, {"headroom": 3}, "headroom must be 0 without block scales, got 3"),
    (TILE, {"block": 2}, "block must be 0 without block scales, got 2"),
    (PLAIN, {"scale": Scale.E8M0}, r"scale: tile nano does not build E8M0 \(scales: none\)"),
    (TILE, {"scale": Scale.FP32}, r"does not build FP32 \(scales: e4m3, e8m0\)"),
    (TILE, {"scale": Scale.E4M3, "a_scaled": 1}, "pair: E4M3 scales go with E2M1, E4M3_E2M1, got E4M3"),
    (WIDE, {"pair": Pair.E5M2, "scale": Scale.FP32, "a_scaled": 1}, "pair: FP32 scales go with E4M3, got E5M2"),
    (TILE, {"scale": Scale.E8M0, "block": 2}, "a_scaled and b_scaled are both 0, but scale is E8M0"),
    (TILE, {"scale": Scale.E8M0, "a_scaled": 1, "block": 1},
     "block = 1 makes blocks of 16 e4m3 elements; those of E8M0 scales have 32 or 128"),
    (TILE, {"scale": Scale.E8M0, "a_scaled": 1, "block": 2, "k_steps": 6},
     "k_steps must be a multiple of the block's 4 steps, got 6"),
    (TILE, {"scale": Scale.E8M0, "a_scaled": 1, "block": 2, "headroom": 23},
     "headroom must be at most 22 for 1 blocks in 64 bits, got 23"),
    (TILE, {"scale": Scale.E8M0, "a_scaled": 1, "block": 2, "k_steps": 8, "headroom": 22},
     "headroom must be at most 21 for 2 blocks"),
    (TILE, {"pair": Pair.E2M1, "scale": Scale.E4M3, "a_scaled": 1, "headroom": 1}, "headroom must be at most 0"),
    (WIDE, {"pair": Pair.E5M2, "scale": Scale.E8M0, "a_scaled": 1, "block": 2, "k_steps": 8192},
     "2048 blocks of 32 e5m2 products with E8M0 scales need 81 accumulator bits, got 80"),
])
def test_illegal_operands_are_named(tile, fields: dict, message: str) -> None:
    with pytest.raises(ProgramError, match=message):
        check_elements(matmul(**fields), tile)


def test_half_the_groups_of_four_bit_columns_are_read() -> None:
    steps = {5: 3, 6: 3, 7: 4}
    assert {k: b_groups(matmul(pair=Pair.E4M3_E2M1, k_steps=k)) for k in steps} == steps
    reads = accesses(matmul(pair=Pair.E4M3_E2M1, k_steps=7), TILE).reads
    assert [access.run.length for access in reads] == [7, 4]
