"""Requests of the sequencer against the address formulas of the instruction table."""

import numpy as np
import pytest
from amaranth.sim import Simulator

from tilescore.rtl.lib.unit_port import command_layout
from tilescore.rtl.spec.encoding import encode
from tilescore.rtl.spec.isa import Dest, Source
from tilescore.rtl.vector import timing
from tilescore.rtl.vector.block_latency import tile_bits
from tilescore.rtl.vector.sequencer import VectorSequencer
from tilescore.tests.rtl.vector.bench import Programs, make_config


def expected_requests(config, i):
    """One dictionary per cycle, straight from the meaning of the fields."""
    acc = (1 << config.acc_addr_bits) - 1
    for row in range(i.rows):
        for tile in range(i.tiles):
            offset = {
                Source.ACC: row + tile * i.pitch,
                Source.ROW: row // config.cols,
                Source.COLUMN: tile * i.pitch,
            }
            request = {
                "x_addr": (i.x_addr + row + tile * i.pitch) & acc,
                "first": int(tile == 0),
                "last": int(tile == i.tiles - 1),
                "end": int((row, tile) == (i.rows - 1, i.tiles - 1)),
                "x_swap": i.x_swap,
                "squares": int(i.y_kind == Source.ACC and i.y == i.x_addr),
                "rd_mask": i.signal_rd,
                "wr_mask": i.signal_wr,
                "combine": i.combine,
                "func": i.func,
                "dest": i.dest,
                "reduce": i.reduce,
                "quant": i.quant,
                "scale_rule": i.scale_rule,
                "tile": tile & ((1 << tile_bits(config)) - 1),
                "reduce_addr": (i.reduce_addr + row // config.cols) & acc,
                "reduce_lane": row % config.cols,
            }
            for name in "yzw":
                kind, value = Source(getattr(i, f"{name}_kind")), getattr(i, name)
                word = value if kind is Source.IMM else (value + offset[kind]) & acc
                request[name] = {
                    "read": int(kind is not Source.IMM),
                    "word": word,
                    "lane": row % config.cols,
                    "scalar": int(kind in (Source.IMM, Source.ROW)),
                }
            if i.dest == Dest.ACC:
                request["dst_addr"] = i.dst_addr + row + tile * i.dst_pitch
            elif i.dest == Dest.A:
                codes = tile * config.cols
                request["dst_addr"] = i.dst_addr + row // config.rows * i.dst_pitch + codes // config.lanes
                request |= {"slice": row % config.rows, "sub": codes % config.lanes}
            yield request


@pytest.mark.parametrize(("cols", "lanes"), [(4, 16), (4, 4), (16, 4)])
def test_requests_follow_each_other(cols, lanes, rng):
    config = make_config(cols, lanes=lanes)
    programs = Programs(config, rng)
    instructions = [programs.instruction(max_rows=12, max_tiles=6) for _ in range(20)]
    expected = [request for i in instructions for request in expected_requests(config, i)]
    starts = np.cumsum([0] + [i.rows * i.tiles for i in instructions]).tolist()
    dut = VectorSequencer(config)
    layout = command_layout("VECTOR")

    async def testbench(ctx):
        for cycle in range(len(expected) + timing.FIRST_STAGE + 2):
            assert ctx.get(dut.ready) == (cycle in starts or cycle >= starts[-1])
            ctx.set(dut.start, cycle in starts[:-1])
            if cycle in starts[:-1]:
                word = encode(instructions[starts.index(cycle)]) & ((1 << layout.size) - 1)
                ctx.set(dut.command, layout.from_bits(word))
            index = cycle - timing.FIRST_STAGE
            inside = 0 <= index < len(expected)
            assert ctx.get(dut.request.valid) == inside
            for name, value in expected[index].items() if inside else ():
                if isinstance(value, dict):
                    found = {part: ctx.get(dut.request[name][part]) for part in value}
                else:
                    found = ctx.get(dut.request[name])
                assert found == value, (index, name)
            await ctx.tick()

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
