# amaranth: UnusedElaboratable=no
"""The vector unit with block quantizers against its reference model bit for bit, in the cycles of `rtl/plan.py`."""

import dataclasses
import subprocess
from importlib import resources

import numpy as np
import pytest
from amaranth.back import verilog
from amaranth.hdl import Fragment

from tilescore.rtl.lib.cells import CellLibrary
from tilescore.rtl.plan import duration, vector_wr_tail
from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.encoding import fp32_bits
from tilescore.rtl.spec.isa import Dest, Func, Quant, Reduce, ScaleRule, Source, Vector
from tilescore.rtl.spec.tensor_formats import QUANT_FORMATS, built_quantizers
from tilescore.rtl.vector import timing
from tilescore.rtl.vector.block import BlockStage
from tilescore.rtl.vector.block_latency import BlockLatency
from tilescore.rtl.vector.unit import VectorUnit
from tilescore.sim.hardware.toolchain import missing_for_verilator, require_verilator, verilator_env
from tilescore.sim.numerics.quantizers import quantize_block
from tilescore.sim.reference.vector_model import run_vector
from tilescore.tests.rtl.vector.bench import (
    ALL_FORMATS,
    SPECIAL_WORDS,
    Programs,
    initial_memories,
    make_config,
    random_words,
)
from tilescore.tests.rtl.vector.test_unit import check

ONE = fp32_bits(1.0)
BLOCKS = [quant for quant, fmt in QUANT_FORMATS.items() if fmt.block]


def block_config(cols: int, **changes):
    bigger = {"a_buffer_bytes": 65536, "rows": 4}
    return make_config(cols, **(ALL_FORMATS | bigger | changes))


def config_for(quant: Quant, cols: int):
    """A tile with this quantizer and few others, which simulates faster."""
    fmt = QUANT_FORMATS[quant]
    element = {"e4m3": "e4m3", "e5m2": "e4m3xe5m2", "e2m1": "e2m1"}[fmt.element.name]
    return block_config(cols, formats=(element,), scales=(fmt.scale.name.lower(),))


def rare_specials(config, rng):
    """Memories in which most blocks are without NaN and infinities, and some are zero."""
    acc, a = initial_memories(config, rng)
    acc[:] = random_words(rng, acc.shape, odd=1 / 600)
    acc[:, rng.integers(config.cols)] &= np.uint32(0x80000000)
    acc[rng.integers(0, len(acc), len(acc) // 8)] = 0
    return acc, a


def test_a_tile_without_block_scales_has_no_stage():
    with pytest.raises(ValueError, match="tile nano has no block quantizer"):
        BlockStage(load_tile("nano"), z_lead=0)
    config = make_config(4, formats=("e4m3", "e4m3xe5m2"))
    assert built_quantizers(config) == (Quant.E4M3, Quant.E5M2)
    assert vector_wr_tail(config) == vector_wr_tail(make_config(4))


def test_which_quantizers_a_tile_builds():
    def built(*formats, scales):
        return {quant.name for quant in built_quantizers(make_config(4, formats=formats, scales=scales))}

    assert built("e4m3", scales=("e8m0",)) == {"E4M3", "MXFP8", "BLOCK128_E8M0"}
    assert built("e2m1", scales=("e4m3",)) == {"E4M3", "NVFP4", "NVFP4_46"}
    assert built("e4m3xe2m1", scales=("e4m3", "e8m0")) == {
        "E4M3", "NVFP4", "NVFP4_46", "MXFP8", "MXFP4", "BLOCK128_E8M0"}
    assert built("e4m3", scales=("fp32",)) == {"E4M3", "BLOCK128"}
    assert built_quantizers(make_config(4, **ALL_FORMATS)) == tuple(Quant)


def test_plan_adds_up_the_stage():
    """By hand, from the result (lane cycle 27): 16 columns, blocks of 128 in 8 tiles: tree 4, tiles 1+1 + 2+1 + 4+1,
    hold 1; scale 27; codes 6; both codes' errors 3, their sum 4 + 1, comparison 1. Then the write."""
    config = block_config(16)
    latency = BlockLatency(config)
    assert (latency.amax, latency.divisor) == (4 + 10 + 1, 15 + 27)
    assert latency.total == 42 + 6 + 3 + 5 + 1
    assert timing.a_write(config) == timing.LANE_OUT + 1 + 57
    assert vector_wr_tail(config) == 2 - 1 + timing.LANE_OUT + 1 + 57
    mx = make_config(16, formats=("e4m3",), scales=("e8m0",))
    assert BlockLatency(mx).total == 15 + 2 + 6


@pytest.mark.slow
def test_the_largest_tile_elaborates():
    """More than one segment of lanes with its own scales."""
    config = dataclasses.replace(load_tile("server"), **ALL_FORMATS)
    Fragment.get(VectorUnit(config), None)


@pytest.mark.sampled
@pytest.mark.skipif(bool(missing_for_verilator()), reason=f"needs {', '.join(missing_for_verilator())}")
def test_the_verilog_passes_lint(tmp_path):
    """Also that no signal has a constant part that a simulator of four states would leave undefined (ALWNEVER)."""
    install, library = require_verilator(), CellLibrary()
    text = verilog.convert(VectorUnit(block_config(4)), name="unit", platform=library, emit_src=False)
    source = tmp_path / "unit.v"
    source.write_text(text + library.verilog(emit_src=False))
    waivers = resources.files("tilescore.rtl.export").joinpath("tilescore.vlt")
    command = [install.binary, "--lint-only", "-Wall", "--top-module", "unit", str(waivers), str(source)]
    found = subprocess.run(command, env=verilator_env(install), capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.always("6-4", "7-16")
@pytest.mark.parametrize(
    ("quant", "cols"),
    [(quant, 4) for quant in BLOCKS] + [(quant, 16) for quant in (Quant.NVFP4_46, Quant.MXFP4, Quant.BLOCK128)],
)
def test_every_quantizer_with_every_rule(quant, cols, rng):
    config = config_for(quant, cols)
    acc, a = rare_specials(config, rng)
    programs = Programs(config, rng)
    size = {"max_rows": 9 if QUANT_FORMATS[quant].block < 128 else 3, "max_blocks": 2}
    instructions = [programs.block(quant, scale_rule=int(rule), **size) for rule in ScaleRule]
    check(config, instructions, acc, a)


@pytest.mark.parametrize("cols", [8, pytest.param(32, marks=pytest.mark.slow)])
def test_instructions_of_all_kinds_back_to_back(cols, rng):
    """Casts, blocks of changing size, reductions and anchors, one after the other and with gaps."""
    config = block_config(cols, a_buffer_bytes=131072)
    acc, a = rare_specials(config, rng)
    programs = Programs(config, rng)
    instructions = [programs.any() for _ in range(16)]
    gaps = rng.integers(0, 4, 16) // 3 * rng.integers(0, 30, 16)
    not_before = np.cumsum(gaps + [duration(i, config).occupancy for i in instructions]).tolist()
    check(config, instructions, acc, a, not_before=not_before)


@pytest.mark.always("formats1-scales1")
@pytest.mark.parametrize(
    ("formats", "scales"),
    [(("e4m3",), ("e8m0",)), (("e2m1",), ("e4m3",)), (("e4m3",), ("fp32",)), (("e4m3xe5m2",), ("e8m0",)),
     (("e2m1",), ("e4m3", "e8m0"))],
)
def test_tiles_with_a_part_of_the_formats(formats, scales, rng):
    config = block_config(4, formats=formats, scales=scales)
    acc, a = rare_specials(config, rng)
    programs = Programs(config, rng)
    check(config, [programs.any() for _ in range(10)], acc, a)


@pytest.mark.always("nvfp4_46", "mxfp8_e5m2")
@pytest.mark.parametrize("quant", BLOCKS, ids=lambda quant: quant.name.lower())
def test_special_values_in_every_place(quant, rng):
    """Blocks of special words, with z special or ordinary."""
    config = config_for(quant, 4)
    acc, a = initial_memories(config, rng)
    acc[:] = rng.choice(SPECIAL_WORDS, acc.shape)
    ordinary = np.array([0x3F800000, 0xBF000000, 0x40C00000, 0x00000001, 0], np.uint32)
    acc[::2] = rng.choice(ordinary, acc[::2].shape)
    programs = Programs(config, rng)
    values = [*rng.choice(SPECIAL_WORDS, 5).tolist(), 0, 0x00400000, 0x7F000000, ONE, 0x3F8CCCCD]
    instructions = [
        programs.block(quant, rows=2, max_blocks=1, pitch=2, x_addr=2 * int(rng.integers(40)), y=ONE, w=ONE, z=value,
                       z_kind=int(Source.IMM), w_kind=int(Source.IMM))
        for value in values
    ]
    check(config, instructions, acc, a)


def test_e5m2_casts_and_their_sums(rng):
    config = make_config(4, formats=("e4m3", "e4m3xe5m2"))
    acc, a = initial_memories(config, rng)
    programs = Programs(config, rng)
    instructions = [
        programs.instruction(dest=int(Dest.A), quant=int(quant), reduce=int(reduce), func=0)
        for quant in (Quant.E5M2, Quant.E4M3) for reduce in Reduce for _ in range(2)
    ]
    check(config, instructions, acc, a)


@pytest.mark.always("block128_e8m0")
@pytest.mark.parametrize("quant", [Quant.MXFP8, Quant.MXFP8_E5M2, Quant.MXFP4, Quant.BLOCK128, Quant.BLOCK128_E8M0],
                         ids=lambda quant: quant.name.lower())
def test_a_row_is_quantized_as_the_host_does(quant, rng):
    """Largest magnitude, anchor, blocks: three dependent instructions give the host's codes, scales and anchors."""
    config, fmt = config_for(quant, 8), QUANT_FORMATS[quant]
    rows, tiles, x, largest, anchors = 5, 32, 0, 512, 520
    values = (rng.standard_normal((rows, 8 * tiles)) * np.exp2(rng.integers(-9, 9, (rows, 1)))).astype(np.float32)
    acc, a = initial_memories(config, rng)
    for tile in range(tiles):
        acc[x + rows * tile:x + rows * tile + rows] = values[:, 8 * tile:8 * tile + 8].view(np.uint32)
    walk = {"rows": rows, "tiles": tiles, "x_addr": x, "pitch": rows, "y": ONE, "w": ONE}
    rule = ScaleRule.RCEIL
    form = {"quant": int(quant), "scale_rule": int(rule)}
    instructions = [
        Vector(**walk, reduce=int(Reduce.ABSMAX), reduce_addr=largest),
        Vector(rows=1, tiles=1, x_addr=largest, y=ONE, w=ONE, func=int(Func.ANCHOR), dest=int(Dest.ACC),
               dst_addr=anchors, **form),
        Vector(**walk, z_kind=int(Source.ROW), z=anchors, dest=int(Dest.A), dst_addr=0, dst_pitch=64, **form),
    ]
    not_before = [0]
    for instruction in instructions[:-1]:
        not_before.append(not_before[-1] + duration(instruction, config).wr + 1)
    run = check(config, instructions, acc, a, not_before=not_before)

    host = quantize_block(values, fmt, rule=rule)
    np.testing.assert_array_equal(run.acc[anchors, :rows].view(np.float32), host.anchors)
    groups = np.arange(host.scales.shape[1])
    groups = groups // fmt.scale_bytes * fmt.block_groups + groups % fmt.scale_bytes
    for row in range(rows):
        start = row // 4 * 64
        np.testing.assert_array_equal(run.a[row % 4, 8 * start:][:host.codes.shape[1]], host.codes[row])
        np.testing.assert_array_equal(run.a_scale[row % 4, start + groups], host.scales[row])


def test_the_model_needs_the_scale_memory_and_whole_blocks(rng):
    config = block_config(4)
    acc, a = initial_memories(config, rng)
    fields = {"rows": 1, "tiles": 4, "y": ONE, "z": ONE, "w": ONE, "dest": int(Dest.A), "quant": int(Quant.NVFP4)}
    with pytest.raises(ValueError, match="a_scale is needed for quant NVFP4"):
        run_vector(Vector(**fields), config, acc, a)
    scale = np.zeros((config.rows, 1 << config.a_addr_bits), np.uint8)
    with pytest.raises(ValueError, match="blocks of 16 elements and one z per row, got 12 elements"):
        run_vector(Vector(**(fields | {"tiles": 3})), config, acc, a, a_scale=scale)
    with pytest.raises(ValueError, match="one z per row"):
        run_vector(Vector(**(fields | {"z_kind": int(Source.ACC)})), config, acc, a, a_scale=scale)


def test_a_wrong_length_of_the_stage_is_noticed(rng, monkeypatch):
    """Mutation: operand z reaches the scales one cycle late."""
    config = block_config(4, formats=("e2m1",), scales=("e4m3",))
    acc, a = rare_specials(config, rng)
    programs = Programs(config, rng)
    instructions = [programs.block(Quant.NVFP4, z=fp32_bits(z), z_kind=0, rows=2, tiles=4) for z in (0.01, 0.5)]
    check(config, instructions, acc, a)
    monkeypatch.setattr(timing, "LANE_Z_SELECT", timing.LANE_Z_SELECT - 1)
    with pytest.raises(AssertionError):
        check(config, instructions, acc, a)
