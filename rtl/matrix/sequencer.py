"""The matrix unit's sequencer: MATMUL instructions to k steps and result tiles.

A result tile takes a *slot* of max(k_steps, rows) cycles (`plan.matmul_slot`); the idle cycles come first.
Slots follow each other without a gap, also across instructions: for each column tile, for each row panel, a
slot. All addresses advance by additions; there is no multiplication and no division.
"""

from typing import Any

from amaranth.hdl import Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import Out

from ..lib.delayed_queue import DelayedQueue
from ..lib.unit_port import command_layout, unit_signature
from ..spec.array_formats import built_pairs, built_scales, has_one_lsb
from ..spec.config import TileConfig
from ..spec.events import PAIR_EVENTS, TERM_EVENTS
from ..spec.formats import E4M3, PAIRS
from ..spec.isa import Pair, Scale
from .drain import LIMIT_BITS, tile_layout
from .operand_edge import a_step_layout, b_step_layout, has_halves
from .scale_edge import HEADROOM_BITS
from .timing import rd_tail, wr_tail

MATMUL_COMMAND = command_layout("MATMUL")


def step_event_bits(config: TileConfig) -> dict[str, range]:
    """{"ev_" + event: shape} of the events of the k steps of this tile's element pairs and of their blocks."""
    names = [PAIR_EVENTS[pair] for pair in built_pairs(config)]
    names += [TERM_EVENTS[scale] for scale in (Scale.NONE, *built_scales(config))]
    return {f"ev_{name}": range(config.rows + 1) for name in dict.fromkeys(names)}


class MatrixSequencer(wiring.Component):
    """Slot cycle u of an instruction issued at cycle I is cycle I + 1 + u.

    Members
    -------
    unit : Out(unit_signature(MATMUL_COMMAND))
        rd and wr come `timing.rd_tail` and `timing.wr_tail` cycles after the occupancy.
    a_step, b_step : Out(a_step_layout, b_step_layout)
        The k step of slot cycle u in cycle I + 2 + u (`timing.SEQUENCER`), for slice 0.
    tile_done : Out(1), tile : Out(tile_layout)
        A result tile, in the cycle of its last k step's ``a_step``.
    ev_compute : Out(1)
        Slot cycle u is a k step, in cycle I + u, so that it lies within the occupancy.
    ev_* : Out
        Those of `step_event_bits`, with the k step that causes them.
    """

    unit: Any
    a_step: data.View
    b_step: data.View
    tile_done: Signal
    tile: data.View
    ev_compute: Signal

    def __init__(self, config: TileConfig) -> None:
        self.config = config
        self.tile_layout = tile_layout(config)
        super().__init__({
            "unit": Out(unit_signature(MATMUL_COMMAND)),
            "a_step": Out(a_step_layout(config)), "b_step": Out(b_step_layout(config)),
            "tile_done": Out(1), "tile": Out(self.tile_layout), "ev_compute": Out(1),
            **{name: Out(bits) for name, bits in step_event_bits(config).items()},
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rows = self.config.rows
        unit, new = self.unit, self.unit.command
        active = Signal()
        command = Signal(MATMUL_COMMAND, reset_less=True)
        slot_last = Signal(range(max(rows, 1 << len(new.k_steps))), reset_less=True)
        left = Signal.like(slot_last)        # slot cycles after this one
        tiles_left = Signal.like(new.n_tiles, reset_less=True)
        rows_left = Signal.like(new.m_rows, reset_less=True)  # of the result, from this panel on

        slot_end = Signal()
        panel_end = Signal()
        end = Signal()
        full = Signal()  # no idle cycles
        compute = Signal()
        new_slot_last = Signal.like(slot_last)
        m.d.comb += [
            slot_end.eq(active & (left == 0)),
            panel_end.eq(slot_end & (rows_left <= rows)),
            end.eq(panel_end & (tiles_left == 1)),
            compute.eq(active & (left < command.k_steps)),
            full.eq(command.k_steps >= rows),
            unit.ready.eq(~active | end),
            new_slot_last.eq(Mux(new.k_steps > rows, new.k_steps, rows) - 1),
        ]
        with m.If(unit.start):
            m.d.comb += self.ev_compute.eq(new.k_steps >= rows)
            m.d.sync += [
                active.eq(1), command.eq(new), slot_last.eq(new_slot_last), left.eq(new_slot_last),
                tiles_left.eq(new.n_tiles), rows_left.eq(new.m_rows),
            ]
        with m.Elif(active):
            m.d.comb += self.ev_compute.eq(~end & Mux(slot_end, full, left <= command.k_steps))
            m.d.sync += [active.eq(~end), left.eq(Mux(slot_end, slot_last, left - 1))]
            with m.If(panel_end):
                m.d.sync += [tiles_left.eq(tiles_left - 1), rows_left.eq(command.m_rows)]
            with m.Elif(slot_end):
                m.d.sync += rows_left.eq(rows_left - rows)

        panel_rows = Mux(rows_left > rows, rows, rows_left)
        m.d.sync += [
            self.a_step.rows.eq(Mux(compute, panel_rows, 0)), self.a_step.last.eq(slot_end),
            self.b_step.valid.eq(compute),
            self.tile_done.eq(slot_end), self.tile.rows.eq(panel_rows),
        ]
        block_last = self._modes(m, command, left)
        self._events(m, command, Mux(compute, panel_rows, 0), block_last)
        self._addresses(m, command, compute, slot_end, panel_end)
        self._tile(m, command, slot_end, panel_end)
        self._limits(m, command, slot_end, panel_end)
        self._tokens(m, command, end)
        return m

    def _modes(self, m: Module, command: data.View, left: Signal) -> Value:
        """What a step says about its elements and block; ``left`` steps follow it. Returns: it ends its block."""
        a_step, b_step = self.a_step, self.b_step
        if len(built_pairs(self.config)) > 1:
            m.d.sync += [a_step.pair.eq(command.pair), b_step.pair.eq(command.pair)]
        if not self.config.scales:
            m.d.sync += a_step.first.eq(left + 1 == command.k_steps)
            return Const(1)
        block_mask = Signal((1 << len(command.block)) - 1, name="block_mask", reset_less=True)
        with m.If(self.unit.start):
            m.d.sync += block_mask.eq((1 << self.unit.command.block) - 1)
        block_last = (left & block_mask) == 0
        m.d.sync += [
            a_step.first.eq(left + block_mask + 1 >= command.k_steps), a_step.block_last.eq(block_last),
            a_step.mode.headroom.eq(command.headroom),
        ]
        for step, scaled in ((a_step, command.a_scaled), (b_step, command.b_scaled)):
            m.d.sync += [
                step.mode.kind.eq(command.scale), step.mode.scaled.eq(scaled),
                step.mode.first.eq((~left & block_mask) == 0)]
        return block_last

    def _events(self, m: Module, command: data.View, rows: Value, block_last: Value) -> None:
        """``rows`` of the array have a k step in this cycle."""
        events: dict[str, Value] = {}
        for pair in built_pairs(self.config):
            name = PAIR_EVENTS[pair]
            events[name] = events.get(name, Const(0)) | (command.pair == pair)
        for scale in (Scale.NONE, *built_scales(self.config)):
            events[TERM_EVENTS[scale]] = block_last & (command.scale == scale)
        for name, counts in events.items():
            m.d.sync += getattr(self, f"ev_{name}").eq(Mux(counts, rows, 0))

    def _addresses(self, m: Module, command: data.View, compute: Signal, slot_end: Signal, panel_end: Signal) -> None:
        """Groups of the k steps: A restarts with every column tile, B with every panel."""
        new = self.unit.command
        a_panel = Signal(self.config.a_addr_bits, reset_less=True)  # k = 0 of this panel
        b_tile = Signal(self.config.b_addr_bits, reset_less=True)   # k = 0 of this column tile
        a_addr = Signal.like(a_panel)
        b_addr = Signal.like(b_tile)
        next_a = Signal.like(a_panel)
        next_b = Signal.like(b_tile)
        m.d.comb += [
            next_a.eq(Mux(panel_end, command.a_addr, a_panel + command.a_pitch)),
            next_b.eq(Mux(panel_end, b_tile + command.b_pitch, b_tile)),
        ]
        m.d.sync += [self.a_step.addr.eq(a_addr), self.b_step.addr.eq(b_addr)]
        b_next: Value = b_addr + 1
        if has_halves(self.config):
            half = Signal()
            with m.If(self.unit.start | slot_end):
                m.d.sync += half.eq(0)
            with m.Elif(compute):
                m.d.sync += half.eq(~half & (command.pair == Pair.E4M3_E2M1))
            m.d.sync += self.b_step.half.eq(half)
            b_next = Mux((command.pair == Pair.E4M3_E2M1) & ~half, b_addr, b_addr + 1)
        with m.If(self.unit.start):
            m.d.sync += [a_panel.eq(new.a_addr), a_addr.eq(new.a_addr), b_tile.eq(new.b_addr), b_addr.eq(new.b_addr)]
        with m.Elif(slot_end):
            m.d.sync += [a_panel.eq(next_a), a_addr.eq(next_a), b_tile.eq(next_b), b_addr.eq(next_b)]
        with m.Elif(compute):
            m.d.sync += [a_addr.eq(a_addr + 1), b_addr.eq(b_next)]

    def _tile(self, m: Module, command: data.View, slot_end: Signal, panel_end: Signal) -> None:
        """The result tile of this slot: its ACC row and its first row."""
        rows = self.config.rows
        new, tile = self.unit.command, self.tile
        column_addr = Signal(self.config.acc_addr_bits, reset_less=True)    # of panel 0
        addr = Signal.like(column_addr)
        row = Signal.like(tile.row, reset_less=True)
        first_column = Signal(reset_less=True)
        with m.If(self.unit.start):
            m.d.sync += [
                column_addr.eq(new.acc_addr), addr.eq(new.acc_addr), row.eq(0), first_column.eq(1),
            ]
        with m.Elif(panel_end):
            m.d.sync += [
                column_addr.eq(column_addr + command.acc_pitch), addr.eq(column_addr + command.acc_pitch),
                row.eq(0), first_column.eq(0),
            ]
        with m.Elif(slot_end):
            m.d.sync += [addr.eq(addr + rows), row.eq(row + rows)]
        m.d.sync += [
            tile.addr.eq(addr), tile.merge.eq(command.merge), tile.raw.eq(command.raw),
            tile.rowmax.eq(command.rowmax), tile.rowmax_init.eq(command.rowmax_init & first_column),
            tile.rowmax_addr.eq(command.rowmax_addr), tile.row.eq(row),
        ]
        if not has_one_lsb(self.config):
            lsb = Signal.like(tile.lsb, name="lsb", reset_less=True)
            with m.If(self.unit.start):
                m.d.sync += lsb.eq(self._lsb(m, new))
            m.d.sync += tile.lsb.eq(lsb)

    def _limits(self, m: Module, command: data.View, slot_end: Signal, panel_end: Signal) -> None:
        """The mask's limits for the tile's first row, counted from its first column."""
        new, tile, start = self.unit.command, self.tile, self.unit.start
        for name, mask, first in (("limit", "mask", new.mask_base + 1), ("low", "mask_low", new.mask_low_base)):
            column = Signal(signed(LIMIT_BITS), name=f"column_{name}", reset_less=True)
            limit = Signal.like(column, name=name)
            step = command[f"{mask}_step"]
            with m.If(start):
                m.d.sync += [column.eq(first), limit.eq(first)]
            with m.Elif(panel_end):
                m.d.sync += [column.eq(column - self.config.cols), limit.eq(column - self.config.cols)]
            with m.Elif(slot_end):
                m.d.sync += limit.eq(limit + Mux(step, self.config.rows, 0))
            m.d.sync += [tile[mask].eq(command[mask]), tile[f"{mask}_step"].eq(step), tile[name].eq(limit)]

    def _lsb(self, m: Module, new: data.View) -> Value:
        """Weight of the accumulators' lowest bit, see `formats.result_lsb`."""
        product = Signal(signed(8), name="product_lsb")
        lowered = Signal(HEADROOM_BITS, name="lowered")
        with m.Switch(new.pair):
            for pair in built_pairs(self.config):
                with m.Case(pair):
                    m.d.comb += product.eq(PAIRS[pair].lsb_exponent)
        if self.config.scales:
            factor = -E4M3.lsb_exponent
            with m.If(new.scale == Scale.E4M3):
                m.d.comb += lowered.eq(Mux(new.a_scaled, factor, 0) + Mux(new.b_scaled, factor, 0))
            with m.Else():
                m.d.comb += lowered.eq(new.headroom)
        return product - lowered

    def _tokens(self, m: Module, command: data.View, end: Signal) -> None:
        unit = self.unit
        for name, delay in (("rd", rd_tail(self.config)), ("wr", wr_tail(self.config))):
            layout = data.StructLayout({"mask": 5})
            m.submodules[name] = queue = DelayedQueue(layout=layout, delay=delay, gap=self.config.rows)
            m.d.comb += [
                queue.push.eq(end), queue.push_data.mask.eq(command[f"signal_{name}"]),
                getattr(unit, name).eq(queue.valid),
                getattr(unit, f"{name}_mask").eq(queue.popped.mask),
            ]
