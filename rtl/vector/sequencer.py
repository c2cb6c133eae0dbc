"""From a VECTOR instruction to one request per cycle: addresses, and the control that rides along.

The loop is ``for row: for tile``. All addresses are sums that are kept incrementally, so the sequencer has no
multiplier. The last row's cycle accepts the next instruction: rows of consecutive instructions follow each
other without a bubble.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from ..lib.unit_port import command_layout
from ..spec.config import TileConfig
from ..spec.formats import E2M1
from ..spec.isa import HEADER, SPEC_BY_NAME, Dest, Source
from ..spec.tensor_formats import QUANT_FORMATS, built_quantizers
from .block_latency import tile_bits


def operand_layout(config: TileConfig) -> data.StructLayout:
    """One of y, z, w in one cycle.

    read: the ACC row ``word`` is read; otherwise ``word`` is the immediate. scalar: every lane gets the same
    value, the immediate or lane ``lane`` of the row.
    """
    return data.StructLayout({"read": 1, "scalar": 1, "word": 32, "lane": ceil_log2(config.cols)})


def request_layout(config: TileConfig) -> data.StructLayout:
    """Everything that the unit has to know of one row and tile.

    end: last request of its instruction, whose signal masks are ``rd_mask`` and ``wr_mask``. first, last:
    first and last tile of the row. slice, sub: of a row of codes in operand buffer A, where ``dst_addr`` is
    the group. tile: number of the column tile, the bits that a block quantizer looks at. squares: see
    `events.squares`.
    """
    bits = {field.name: field.bits for field in HEADER + SPEC_BY_NAME["VECTOR"].fields}
    return data.StructLayout(
        {
            "valid": 1,
            "end": 1,
            "rd_mask": bits["signal_rd"],
            "wr_mask": bits["signal_wr"],
            "x_addr": config.acc_addr_bits,
            "x_swap": bits["x_swap"],
            "squares": 1,
            "y": operand_layout(config),
            "z": operand_layout(config),
            "w": operand_layout(config),
            "combine": bits["combine"],
            "func": bits["func"],
            "dest": bits["dest"],
            "reduce": bits["reduce"],
            "quant": bits["quant"],
            "scale_rule": bits["scale_rule"],
            "tile": tile_bits(config),
            "first": 1,
            "last": 1,
            "dst_addr": max(config.acc_addr_bits, config.a_addr_bits),
            "slice": ceil_log2(config.rows),
            "sub": ceil_log2(config.lanes),
            "reduce_addr": config.acc_addr_bits,
            "reduce_lane": ceil_log2(config.cols),
        }
    )


class VectorSequencer(wiring.Component):
    """Steps through the rows and tiles of VECTOR instructions.

    Members
    -------
    command, start, ready
        As in `rtl/lib/unit_port.py`.
    request : Out(request_layout(config))
        The first request of an instruction that starts in cycle t is here in cycle t + 2
        (`timing.FIRST_STAGE`), and then one every cycle. ``valid`` is 0 when there is none; other members
        then mean nothing.
    """

    command: data.View
    start: Signal
    ready: Signal
    request: data.View

    def __init__(self, config: TileConfig) -> None:
        self.config = config
        super().__init__(
            {
                "command": In(command_layout("VECTOR")),
                "start": In(1),
                "ready": Out(1),
                "request": Out(request_layout(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        command = Signal.like(self.command, reset_less=True)
        busy = Signal()
        last_tile = Signal()
        last_row = Signal()
        row = Signal.like(command.rows, reset_less=True)
        tile = Signal.like(command.tiles, reset_less=True)
        m.d.comb += [
            last_tile.eq(tile == command.tiles - 1),
            last_row.eq(row == command.rows - 1),
            self.ready.eq(~busy | (last_tile & last_row)),
        ]
        with m.If(self.start):
            m.d.sync += [busy.eq(1), command.eq(self.command), row.eq(0), tile.eq(0)]
        with m.Elif(last_tile):
            m.d.sync += [tile.eq(0), row.eq(row + 1)]
            with m.If(last_row):
                m.d.sync += busy.eq(0)
        with m.Else():
            m.d.sync += tile.eq(tile + 1)

        request = Signal(request_layout(self.config), reset_less=True)
        valid = Signal()
        m.d.sync += [
            valid.eq(busy),
            request.end.eq(last_tile & last_row),
            request.rd_mask.eq(command.signal_rd),
            request.wr_mask.eq(command.signal_wr),
            request.first.eq(tile == 0),
            request.last.eq(last_tile),
        ]
        for field in ("x_swap", "combine", "func", "dest", "reduce", "quant", "scale_rule"):
            m.d.sync += request[field].eq(command[field])
        m.d.sync += request.tile.eq(tile)
        self._operands(m, request, command, row, last_tile)
        self._results(m, request, command, row, tile, last_tile)
        m.d.comb += [self.request.eq(request), self.request.valid.eq(valid)]
        return m

    def _operands(
        self, m: Module, request: data.View, command: data.View, row: Signal, last_tile: Signal
    ) -> None:
        """ACC rows of x, y, z and w; ``column`` is tile*pitch and ``element`` row + tile*pitch."""
        bits = self.config.acc_addr_bits
        lane_bits = ceil_log2(self.config.cols)
        column = Signal(bits, reset_less=True)
        element = Signal(bits, reset_less=True)
        with m.If(self.start):
            m.d.sync += [column.eq(0), element.eq(0)]
        with m.Elif(last_tile):
            m.d.sync += [column.eq(0), element.eq(row + 1)]
        with m.Else():
            m.d.sync += [column.eq(column + command.pitch), element.eq(element + command.pitch)]
        m.d.sync += [
            request.x_addr.eq(command.x_addr + element),
            request.squares.eq((command.y_kind == Source.ACC) & (command.y == command.x_addr)),
        ]
        for name in ("y", "z", "w"):
            operand, kind, base = request[name], command[f"{name}_kind"], command[name]
            offset = Signal(bits, name=f"{name}_offset")
            with m.Switch(kind):
                with m.Case(Source.ACC):
                    m.d.comb += offset.eq(element)
                with m.Case(Source.ROW):
                    m.d.comb += offset.eq(row[lane_bits:])
                with m.Case(Source.COLUMN):
                    m.d.comb += offset.eq(column)
            m.d.sync += [
                operand.read.eq(kind != Source.IMM),
                operand.scalar.eq((kind == Source.IMM) | (kind == Source.ROW)),
                operand.word.eq(Mux(kind == Source.IMM, base, (base + offset)[:bits])),
                operand.lane.eq(row[:lane_bits]),
            ]

    def _results(
        self, m: Module, request: data.View, command: data.View, row: Signal, tile: Signal, last_tile: Signal
    ) -> None:
        """Where the row goes, in ACC or A, and its reduction."""
        config = self.config
        lane_bits, slice_bits = ceil_log2(config.cols), ceil_log2(config.rows)
        row_start = Signal(request.dst_addr.shape(), reset_less=True)
        address = Signal(request.dst_addr.shape(), reset_less=True)
        next_row = Signal(request.dst_addr.shape())
        to_a = Signal()
        tile_step, sub = self._code_step(m, tile, command.quant)
        m.d.comb += to_a.eq(command.dest == Dest.A)
        with m.If(~to_a):
            m.d.comb += next_row.eq(row_start + 1)
        with m.Elif(row[:slice_bits].all()):
            m.d.comb += next_row.eq(row_start + command.dst_pitch)
        with m.Else():
            m.d.comb += next_row.eq(row_start)
        with m.If(self.start):
            m.d.sync += [row_start.eq(self.command.dst_addr), address.eq(self.command.dst_addr)]
        with m.Elif(last_tile):
            m.d.sync += [row_start.eq(next_row), address.eq(next_row)]
        with m.Else():
            m.d.sync += address.eq(address + Mux(to_a, tile_step, command.dst_pitch))
        m.d.sync += [
            request.dst_addr.eq(address),
            request.slice.eq(row[:slice_bits]),
            request.sub.eq(sub),
            request.reduce_addr.eq(command.reduce_addr + row[lane_bits:]),
            request.reduce_lane.eq(row[:lane_bits]),
        ]

    def _code_step(self, m: Module, tile: Signal, quant: Value) -> tuple[Value, Value]:
        """Groups from this column tile of codes to the next, and the byte of this one in its group.

        The address of E2M1 codes, half as many bytes, changes with every second tile.
        """
        config = self.config
        step, sub = self._slot_step(tile)
        half = [quant == kind for kind in built_quantizers(config) if QUANT_FORMATS[kind].element == E2M1]
        if not half:
            return step, sub
        packed = Signal(name="packed")
        m.d.comb += packed.eq(Cat(half).any())
        packed_step, packed_sub = self._slot_step(tile[1:])
        return Mux(packed, Mux(tile[0], packed_step, 0), step), Mux(packed, packed_sub, sub)

    def _slot_step(self, slot: Value) -> tuple[Value, Value]:
        """Groups from slot ``slot`` of ``cols`` bytes in a row to the next, and its byte in its group."""
        config = self.config
        if config.cols >= config.lanes:
            return Const(config.cols // config.lanes), Const(0)
        part = slot[: ceil_log2(config.lanes // config.cols)]
        return part.all(), Cat(Const(0, ceil_log2(config.cols)), part)
