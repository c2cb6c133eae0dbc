"""The vector unit against `sim/reference/vector_model.py` bit for bit and against `rtl/plan.py` cycle for cycle."""

import dataclasses

import numpy as np
import pytest
from amaranth.hdl import Fragment

from tilescore.rtl.arith.fp32_div import Fp32Div, Fp32DivConstant
from tilescore.rtl.plan import duration, vector_rd_tail, vector_wr_tail
from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.encoding import fp32_bits
from tilescore.rtl.spec.events import event_counts
from tilescore.rtl.spec.isa import Combine, Dest, Func, Reduce, Source, Vector
from tilescore.rtl.vector import timing
from tilescore.rtl.vector.lane import TWINS
from tilescore.rtl.vector.unit import VectorUnit
from tilescore.sim.reference.vector_model import run_vector
from tilescore.tests.rtl.vector.bench import EVENTS, Programs, initial_memories, make_config, run_unit

ONE = fp32_bits(1.0)


def check(config, instructions, acc, a, *, not_before=None):
    """Run the unit and the model; compare memories, events and every cycle of ready, rd and wr."""
    run = run_unit(config, instructions, acc, a, not_before)
    expected_acc, expected_a, expected_scale = acc.copy(), a.copy(), np.zeros_like(run.a_scale)
    for instruction in instructions:
        run_vector(instruction, config, expected_acc, expected_a, a_scale=expected_scale)
    np.testing.assert_array_equal(run.acc, expected_acc)
    np.testing.assert_array_equal(run.a, expected_a)
    np.testing.assert_array_equal(run.a_scale, expected_scale)

    times = [duration(i, config) for i in instructions]
    busy = {
        cycle
        for start, time in zip(run.issue, times, strict=True)
        for cycle in range(start + 1, start + time.occupancy)
    }
    assert run.ready == [cycle not in busy for cycle in range(len(run.ready))]
    assert run.rd == [
        (start + time.rd, i.signal_rd) for start, time, i in zip(run.issue, times, instructions, strict=True)
    ]
    assert run.wr == [
        (start + time.wr, i.signal_wr) for start, time, i in zip(run.issue, times, instructions, strict=True)
    ]
    counts = [event_counts(i, config) for i in instructions]
    assert run.events == {name: sum(c.get(name, 0) for c in counts) for name in EVENTS}
    return run


def test_ports_have_the_widths_of_the_configuration():
    config = load_tile("edge")
    dut = VectorUnit(config)
    Fragment.get(dut, None)
    assert len(dut.acc_x.data) == len(dut.acc_d.data) == 32 * 16
    assert (len(dut.acc_x.addr), len(dut.acc_r.lane)) == (config.acc_addr_bits, 4)
    assert (len(dut.a_vec.data), len(dut.a_vec.slice), len(dut.a_vec.addr)) == (8 * 16, 4, config.a_addr_bits)


def test_plan_adds_up_the_pipeline():
    """By hand: counters 2, then x at 0; data 1, register 1, unpack 1, multiply 3 -> z operand; max 1, add 4,
    function 11, its factor's unpacker runs beside it; multiply 3, quantize 2, written 1, grid 2, tree
    log2(cols), sum 1, round 4."""
    z_select = 1 + 1 + 1 + 3
    w_select = z_select + 1 + 4 + 11 - 1
    assert (z_select - 2, w_select - 2) == (timing.Z_READ, timing.W_READ)
    lane_out = 2 - 1 + w_select + 1 + 3
    for name, levels in (("nano", 2), ("edge", 4), ("server", 7)):
        config = dataclasses.replace(load_tile(name), formats=("e4m3",), scales=())
        assert vector_rd_tail(config) == 2 - 1 + w_select - 2
        assert vector_wr_tail(config) == lane_out + 2 + 1 + 2 + levels + 1 + 4


@pytest.mark.parametrize(("name", "levels", "tiles"), [("edge", 4, 8), ("server", 7, 1)])
def test_plan_adds_up_the_block_quantizers(name, levels, tiles):
    """By hand, with blocks of up to 128 columns: amax waits for the block's last tile, then tree and register; scale:
    unpack 1, divide by 6 and by z, quantize 2, times z; quotient 6; errors 3 more, their sum over a block of 16, and
    the choice between two scales 1."""
    config = load_tile(name)
    amax = levels + (tiles - 1) + (tiles - 1).bit_length() + 1
    scale = 1 + Fp32DivConstant.LATENCY + 1 + Fp32Div.LATENCY + 2 + 1 + 3 + 1
    choice = 3 + (levels + 1) + 1
    lane_out = 2 - 1 + timing.W_READ + 2 + 1 + 3
    assert vector_rd_tail(config) == 2 - 1 + timing.W_READ
    assert vector_wr_tail(config) == lane_out + amax + scale + 6 + choice


@pytest.mark.parametrize("cols", [4, 8])
def test_random_instructions_back_to_back(cols, rng):
    config = make_config(cols)
    acc, a = initial_memories(config, rng)
    programs = Programs(config, rng)
    instructions = [programs.instruction() for _ in range(80 // cols)]
    run = check(config, instructions, acc, a)
    occupancies = [duration(i, config).occupancy for i in instructions]
    assert np.diff(run.issue).tolist() == occupancies[:-1]


@pytest.mark.parametrize("cols", [4, 8])
def test_every_combine_with_every_function(cols, rng):
    config = make_config(cols)
    acc, a = initial_memories(config, rng)
    programs = Programs(config, rng)
    instructions = [
        programs.instruction(combine=int(combine), func=int(func), max_rows=4, max_tiles=2)
        for combine in Combine
        for func in TWINS
        if func != Func.ANCHOR
    ]
    check(config, instructions, acc, a)


def test_every_destination_with_every_reduction(rng):
    """Ordinary numbers, so that few sums are NaN; two instructions share no state of the reduction."""
    config = make_config(4)
    acc, a = initial_memories(config, rng)
    acc[:] = (rng.standard_normal(acc.shape) * 8).astype(np.float32).view(np.uint32)
    programs = Programs(config, rng)
    plain = {"func": 0, "y_kind": 0, "y": ONE, "w_kind": 0, "w": ONE}
    instructions = [
        programs.instruction(dest=int(dest), reduce=int(reduce), **plain)
        for dest in Dest
        for reduce in (Reduce.MAX, Reduce.SUM, Reduce.ABSMAX)
        for _ in range(4)
    ]
    check(config, instructions, acc, a)


def test_every_swap_of_lanes(rng):
    config = make_config(8)
    acc, a = initial_memories(config, rng)
    programs = Programs(config, rng)
    check(config, [programs.instruction(x_swap=swap, dest=int(Dest.ACC)) for swap in range(4)], acc, a)


def test_x_squared_is_read_once(rng):
    """y at x's own rows is one read, anywhere else another; a column at x's address is read again in every row."""
    config = make_config(4)
    acc, a = initial_memories(config, rng)
    programs = Programs(config, rng)
    common = {"rows": 5, "tiles": 1, "x_addr": 40, "z_kind": int(Source.IMM), "w_kind": int(Source.IMM),
              "dest": int(Dest.ACC), "reduce": int(Reduce.NONE)}
    for y_kind, y, reads in ((Source.ACC, 40, 5), (Source.ACC, 41, 10), (Source.COLUMN, 40, 10), (Source.IMM, 40, 5)):
        run = check(config, [programs.instruction(**common, y_kind=int(y_kind), y=y)], acc, a)
        assert run.events["acc_row_reads"] == reads


def test_instructions_of_one_row(rng):
    config = make_config(4)
    acc, a = initial_memories(config, rng)
    programs = Programs(config, rng)
    instructions = [programs.instruction(rows=1, tiles=1) for _ in range(40)]
    run = check(config, instructions, acc, a)
    assert run.issue == list(range(40))


def test_gaps_between_instructions(rng):
    config = make_config(4)
    acc, a = initial_memories(config, rng)
    programs = Programs(config, rng)
    instructions = [programs.instruction(max_rows=3, max_tiles=2) for _ in range(12)]
    not_before = np.cumsum(rng.integers(0, 20, 12)).tolist()
    check(config, instructions, acc, a, not_before=not_before)


@pytest.mark.parametrize(("cols", "lanes"), [(4, 16), (8, 4)])
def test_codes_narrower_and_wider_than_a_group(cols, lanes, rng):
    """Column tiles share a group of 16 bytes, or span two of 4; rows wrap around the slices."""
    config = make_config(cols, lanes=lanes)
    acc, a = initial_memories(config, rng)
    programs = Programs(config, rng)
    check(
        config,
        [programs.instruction(dest=int(Dest.A), rows=11, tiles=tiles) for tiles in (1, 2, 3, 5)],
        acc,
        a,
    )


def test_tokens_come_in_the_cycle_of_the_last_access(rng):
    config = make_config(4)
    acc, a = initial_memories(config, rng)
    programs = Programs(config, rng)
    instruction = programs.instruction(
        func=int(Func.EXP2),
        w_kind=int(Source.ACC),
        z_kind=int(Source.ACC),
        reduce=int(Reduce.SUM),
        dest=int(Dest.ACC),
    )
    run = check(config, [instruction], acc, a)
    first = {
        port: min(cycle for cycle, name in run.reads if name == port) for port in ("acc_x", "acc_z", "acc_w")
    }
    assert first["acc_z"] - first["acc_x"] == timing.Z_READ
    assert first["acc_w"] - first["acc_x"] == timing.W_READ
    assert max(run.reads) == (run.rd[0][0], "acc_w")
    assert max(run.writes) == (run.wr[0][0], "acc_r")


def test_in_place(rng):
    config = make_config(4)
    acc, a = initial_memories(config, rng)
    instruction = Vector(
        rows=40,
        tiles=2,
        x_addr=5,
        pitch=64,
        y=ONE,
        w=ONE,
        combine=int(Combine.ADD),
        z_kind=int(Source.ACC),
        z=5,
        dest=int(Dest.ACC),
        dst_addr=5,
        dst_pitch=64,
    )
    check(config, [instruction], acc, a)


def test_softmax_as_a_chain_of_dependent_instructions(rng):
    """Each instruction issues one cycle after the wr token of the one before and reads its result."""
    config = make_config(4)
    rows, tiles, x, exponentials = 7, 2, 0, 256
    maximum, total, inverse = 512, 640, 768
    acc, a = initial_memories(config, rng)
    scores = (rng.standard_normal((tiles, rows, 4)) * 3).astype(np.float32)
    for tile in range(tiles):
        acc[x + 32 * tile : x + 32 * tile + rows] = scores[tile].view(np.uint32)
    shape = {"rows": rows, "tiles": tiles, "pitch": 32, "y": ONE, "w": ONE}
    instructions = [
        Vector(**shape, x_addr=x, reduce=int(Reduce.MAX), reduce_addr=maximum),
        Vector(
            **shape,
            x_addr=x,
            combine=int(Combine.SUB),
            z_kind=int(Source.ROW),
            z=maximum,
            func=int(Func.EXP2),
            dest=int(Dest.ACC),
            dst_addr=exponentials,
            dst_pitch=32,
            reduce=int(Reduce.SUM),
            reduce_addr=total,
        ),
        Vector(
            rows=2,
            tiles=1,
            y=ONE,
            w=ONE,
            x_addr=total,
            func=int(Func.RECIPROCAL),
            dest=int(Dest.ACC),
            dst_addr=inverse,
        ),
        Vector(
            **(shape | {"w_kind": int(Source.ROW), "w": inverse}),
            x_addr=exponentials,
            dest=int(Dest.A),
            dst_addr=0,
            dst_pitch=2,
        ),
    ]
    not_before = [0]
    for instruction in instructions[:-1]:
        not_before.append(not_before[-1] + duration(instruction, config).wr + 1)
    run = check(config, instructions, acc, a, not_before=not_before)
    assert run.issue == not_before

    flat = scores.transpose(1, 0, 2).reshape(rows, -1).astype(np.float64)
    softmax = np.exp2(flat - flat.max(axis=1, keepdims=True))
    sums = run.acc[total : total + 2].reshape(-1)[:rows].view(np.float32)
    np.testing.assert_allclose(sums, softmax.sum(axis=1), rtol=1e-6)


def test_a_wrong_length_of_the_pipe_is_noticed(rng, monkeypatch):
    """Mutation: operand w is read one cycle early."""
    config = make_config(4)
    acc, a = initial_memories(config, rng)
    acc[:] = rng.standard_normal(acc.shape).astype(np.float32).view(np.uint32)
    programs = Programs(config, rng)
    instructions = [
        programs.instruction(rows=4, tiles=1, w_kind=int(Source.ACC), func=0, dest=int(Dest.ACC))
    ]
    monkeypatch.setattr(timing, "W_READ", timing.W_READ - 1)
    with pytest.raises(AssertionError):
        check(config, instructions, acc, a)
