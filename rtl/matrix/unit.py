"""The matrix unit: operand buffers, sequencer, array, drain and accumulator buffer.

::

    MatrixSequencer -> A slices -> | array | <- B slices
        |                         |
        +--> tile queue -> head -> ACC lanes -> row maximum

The sequencer describes a result tile when it sequences the tile's last k step. The description waits in a
queue of fixed delay while the step travels through the array, and starts the drain in the cycle in which the
bottom row's values are there.
"""

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from ..lib.delayed_queue import DelayedQueue
from ..lib.unit_port import unit_signature
from ..spec.config import TileConfig
from .acc_buffer import AccBuffer, acc_ports, drain_event_bits
from .array import SystolicArray
from .drain import STATUS, DrainHead, tile_layout
from .operand_buffer import OperandBuffer, operand_ports
from .sequencer import MATMUL_COMMAND, MatrixSequencer, step_event_bits
from .timing import tile_delay


class MatrixUnit(wiring.Component):
    """Executes MATMUL and holds the operand and accumulator buffers for all units.

    Members
    -------
    unit : Out(unit_signature(MATMUL_COMMAND))
        Durations are those of `plan.duration`.
    a_load, b_load, a_vec, a_store
        Ports of `OperandBuffer`.
    acc_x, acc_y, acc_z, acc_w, acc_d, acc_r, acc_load, acc_store
        Ports of `AccBuffer`; see `acc_ports`.
    status_inexact, status_overflow, status_nan, status_inf : Out(1)
        A result was rounded that has met this, see `drain.STATUS`; one cycle each, before the wr token.
    conflict : Out(1)
        Two reads or two writes of this cycle are in the same bank of a buffer; never with a verified program.
    ev_* : Out
        Events (`rtl/spec/events.py`) of one cycle, each counted once somewhere between issue and the wr token.
        ``ev_compute`` is the exception: see `MatrixSequencer`.
    """

    unit: Any
    status_inexact: Signal
    status_overflow: Signal
    status_nan: Signal
    status_inf: Signal
    conflict: Signal
    ev_compute: Signal
    ev_a_group_reads: Signal
    ev_b_group_reads: Signal

    def __init__(self, config: TileConfig) -> None:
        self.config = config
        super().__init__({
            "unit": Out(unit_signature(MATMUL_COMMAND)),
            **{f"a_{name}": port for name, port in operand_ports(config, "a").items()},
            **{f"b_{name}": port for name, port in operand_ports(config, "b").items()},
            **{f"acc_{name}": port for name, port in acc_ports(config).items()},
            **{f"status_{name}": Out(1) for name, _ in STATUS},
            "conflict": Out(1), "ev_compute": Out(1),
            "ev_a_group_reads": Out(range(config.rows + 1)), "ev_b_group_reads": Out(range(config.cols + 1)),
            **{name: Out(bits) for name, bits in (step_event_bits(config) | drain_event_bits(config)).items()},
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        m.submodules.sequencer = sequencer = MatrixSequencer(config)
        m.submodules.a_buffer = a_buffer = OperandBuffer(config, buffer="a")
        m.submodules.b_buffer = b_buffer = OperandBuffer(config, buffer="b")
        m.submodules.array = array = SystolicArray(config)
        m.submodules.tiles = tiles = DelayedQueue(
            layout=tile_layout(config), delay=tile_delay(config), gap=config.rows)
        m.submodules.drain_head = head = DrainHead(config)
        m.submodules.acc_buffer = acc = AccBuffer(config)

        for buffer, prefix in ((a_buffer, "a"), (b_buffer, "b")):
            for name in operand_ports(config, prefix):
                wiring.connect(m, wiring.flipped(getattr(self, f"{prefix}_{name}")), getattr(buffer, name))
        for name in acc_ports(config):
            wiring.connect(m, wiring.flipped(getattr(self, f"acc_{name}")), getattr(acc, name))
        wiring.connect(m, wiring.flipped(self.unit), sequencer.unit)

        m.d.comb += [
            a_buffer.step.eq(sequencer.a_step), b_buffer.step.eq(sequencer.b_step),
            tiles.push.eq(sequencer.tile_done), tiles.push_data.eq(sequencer.tile),
            head.start.eq(tiles.valid), head.tile.eq(tiles.popped),
            acc.control.eq(head.control), array.start.eq(acc.start), array.shift.eq(acc.shift),
            self.conflict.eq(a_buffer.conflict | b_buffer.conflict | acc.conflict),
            self.ev_compute.eq(sequencer.ev_compute),
            self.ev_a_group_reads.eq(a_buffer.ev_group_reads), self.ev_b_group_reads.eq(b_buffer.ev_group_reads),
        ]
        m.d.comb += [array.a[r].eq(a_buffer.operand[r]) for r in range(config.rows)]
        m.d.comb += [array.b[c].eq(b_buffer.operand[c]) for c in range(config.cols)]
        m.d.comb += [getattr(self, f"status_{name}").eq(acc.status[name]) for name, _ in STATUS]
        if config.scales:
            m.d.comb += [array.a_scale[r].eq(a_buffer.scale[r]) for r in range(config.rows)]
            m.d.comb += [array.b_scale[c].eq(b_buffer.scale[c]) for c in range(config.cols)]
        m.d.comb += [acc.column[c].eq(array.drain[c]) for c in range(config.cols)]
        m.d.comb += [getattr(self, name).eq(getattr(acc, name)) for name in drain_event_bits(config)]
        m.d.comb += [getattr(self, name).eq(getattr(sequencer, name)) for name in step_event_bits(config)]
        return m
