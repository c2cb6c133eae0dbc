"""The vector unit: sequencer, operand reads, ``cols`` lanes, row reduction, writes.

There is one control pipeline for all lanes: every request of the sequencer travels down stage by stage beside
the data, and each consumer taps it in the stage (`timing`) in which it is needed. A field's registers end
where its last tap is.

While no row is anywhere in the pipe, all that works on data stands still: rows come in runs, so an enable per stage
would save little more than this one.
"""

from typing import Any

from amaranth.hdl import Cat, EnableInserter, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, Signature
from amaranth.utils import ceil_log2

from ..lib.cells import place
from ..lib.unit_port import command_layout, unit_signature
from ..spec.config import TileConfig
from ..spec.isa import Combine, Dest, Func, Quant, Reduce
from ..spec.tensor_formats import block_quantizers, built_quantizers
from . import timing
from .block import BlockStage, vec_port
from .lane import VectorLane
from .reduce import RowReduction
from .sequencer import VectorSequencer, request_layout

LANE_KEY = "tilescore_vector_lane"
"""Name of the lane's module in the Verilog."""

_EVENT_BITS = {
    "ev_vector_rows": 1,
    "ev_acc_row_reads": 3,
    "ev_acc_row_writes": 1,
    "ev_statistic_writes": 1,
    "ev_a_row_writes": 1,
    "ev_vector_adds": 1,
    "ev_vector_functions": 1,
    "ev_vector_reductions": 1,
    "ev_vector_quantizations": 1,
    "ev_block_quantizations": 1,
}


class ControlPipeline:
    """Fields of a record, delayed on demand; ``at(path, stage)`` is a field ``stage`` cycles later.

    Fields named in ``reset`` start from zero again when the design is reset, the others keep what they have. All but
    ``valid`` move on only with a valid record.
    """

    def __init__(self, m: Module, record: data.View, *, reset: tuple[str, ...]) -> None:
        self._m = m
        self._record = record
        self._reset = reset
        self._stages: dict[str, list[Value]] = {}

    def at(self, path: str, stage: int) -> Value:
        """``path`` is a field name, or several joined by dots for fields of fields."""
        if path not in self._stages:
            value = self._record
            for name in path.split("."):
                value = value[name]
            self._stages[path] = [Value.cast(value)]
        stages = self._stages[path]
        while len(stages) <= stage:
            register = Signal(
                stages[0].shape(),
                name=f"{path.replace('.', '_')}_{len(stages)}",
                reset_less=path not in self._reset,
            )
            if path == "valid":
                self._m.d.sync += register.eq(stages[-1])
            else:
                with self._m.If(self.at("valid", len(stages) - 1)):
                    self._m.d.sync += register.eq(stages[-1])
            stages.append(register)
        return stages[stage]


class VectorUnit(wiring.Component):
    """Executes VECTOR instructions, one row of ``cols`` elements per cycle, back to back.

    Durations are those of `plan.duration`. Values are those of `sim/reference/vector_model.py`, provided that no
    instruction reads what it, or one whose wr token it did not wait for, writes.

    Members (``cols * 32`` bits of data have lane 0 lowest)
    -------
    unit : Out(unit_signature(command_layout("VECTOR")))
    acc_x, acc_y, acc_z, acc_w : read ports of ACC
        ``en`` and ``addr`` in cycle t, ``data`` in t + 1. x and y are read together, z and w `timing.Z_READ`
        and `timing.W_READ` cycles later.
    acc_d : write port of ACC, all lanes of one row; acc_r : one lane of one row (reductions).
    a_vec : write port of operand buffer A, see `operand_slice.slice_ports`
        A row of codes, and the scale bytes of the blocks that begin with it.
    ev_* : events of this cycle (`rtl/spec/events.py`).
    """

    unit: Any
    acc_x: Any
    acc_y: Any
    acc_z: Any
    acc_w: Any
    acc_d: Any
    acc_r: Any
    a_vec: Any
    ev_vector_rows: Signal
    ev_acc_row_reads: Signal
    ev_acc_row_writes: Signal
    ev_statistic_writes: Signal
    ev_a_row_writes: Signal
    ev_vector_adds: Signal
    ev_vector_functions: Signal
    ev_vector_reductions: Signal
    ev_vector_quantizations: Signal
    ev_block_quantizations: Signal

    def __init__(self, config: TileConfig) -> None:
        self.config = config
        request = request_layout(config)
        acc_addr, word = config.acc_addr_bits, 32 * config.cols
        read = Out(Signature({"en": Out(1), "addr": Out(acc_addr), "data": In(word)}))
        super().__init__(
            {
                "unit": Out(unit_signature(command_layout("VECTOR"))),
                **{f"acc_{name}": read for name in "xyzw"},
                "acc_d": Out(Signature({"en": Out(1), "addr": Out(acc_addr), "data": Out(word)})),
                "acc_r": Out(
                    Signature(
                        {
                            "en": Out(1),
                            "addr": Out(acc_addr),
                            "lane": Out(request["reduce_lane"].shape),
                            "data": Out(32),
                        }
                    )
                ),
                "a_vec": Out(vec_port(config)),
                **{name: Out(bits) for name, bits in _EVENT_BITS.items()},
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.sequencer = sequencer = VectorSequencer(self.config)
        m.d.comb += [
            sequencer.command.eq(self.unit.command),
            sequencer.start.eq(self.unit.start),
            self.unit.ready.eq(sequencer.ready),
        ]
        control = ControlPipeline(m, sequencer.request, reset=("valid", "end"))
        active = Signal()
        rows = [control.at("valid", stage) for stage in range(timing.last_write(self.config) + 1)]
        m.d.comb += active.eq(Cat(rows).any())
        quantizers = built_quantizers(self.config)
        lanes = [place(m, f"lane{c}", lambda: VectorLane(quantizers), LANE_KEY, platform)
                 for c in range(self.config.cols)]
        self._operand_x(m, control, lanes)
        self._operand(m, control, lanes, "y", 0)
        z = self._operand(m, control, lanes, "z", timing.Z_READ)
        self._operand(m, control, lanes, "w", timing.W_READ)
        self._lane_control(m, control, lanes)
        m.d.comb += [lane.active.eq(active) for lane in lanes]
        self._write_rows(m, control, lanes)
        if block_quantizers(self.config):
            self._write_blocks(m, control, lanes, z, active)
        else:
            self._write_codes(m, control, lanes)
        self._reduce(m, control, lanes, active)
        self._tokens_and_events(m, control)
        return m

    def _operand_x(self, m: Module, control: ControlPipeline, lanes: list) -> None:
        """Read a row for x, with blocks of 2**(x_swap - 1) lanes exchanged."""
        m.d.comb += [self.acc_x.en.eq(control.at("valid", 0)), self.acc_x.addr.eq(control.at("x_addr", 0))]
        swap = control.at("x_swap", timing.MEMORY_LATENCY)
        for c, lane in enumerate(lanes):
            m.d.comb += lane.x.eq(self.acc_x.data.word_select(c, 32))
            with m.Switch(swap):
                for bit in range(ceil_log2(self.config.cols)):
                    with m.Case(bit + 1):
                        m.d.comb += lane.x.eq(self.acc_x.data.word_select(c ^ (1 << bit), 32))

    def _operand(self, m: Module, control: ControlPipeline, lanes: list, name: str, stage: int) -> Signal:
        """Read a row for y, z or w in ``stage``; an immediate or one lane of the row goes to all lanes.

        Returns that scalar, in the cycle of its use.
        """
        port = getattr(self, f"acc_{name}")
        arrival = stage + timing.MEMORY_LATENCY
        use = arrival + timing.OPERAND_LATENCY
        scalar = Signal(32, name=f"{name}_scalar", reset_less=True)
        row_word = port.data.word_select(control.at(f"{name}.lane", arrival), 32)
        m.d.comb += [
            port.en.eq(control.at("valid", stage) & control.at(f"{name}.read", stage)),
            port.addr.eq(control.at(f"{name}.word", stage)),
        ]
        m.d.sync += scalar.eq(
            Mux(control.at(f"{name}.read", arrival), row_word, control.at(f"{name}.word", arrival))
        )
        for c, lane in enumerate(lanes):
            m.d.comb += [
                getattr(lane, name).eq(port.data.word_select(c, 32)),
                getattr(lane, f"{name}_scalar").eq(scalar),
                getattr(lane, f"{name}_is_scalar").eq(control.at(f"{name}.scalar", use)),
            ]
        return scalar

    def _lane_control(self, m: Module, control: ControlPipeline, lanes: list) -> None:
        def tap(path: str, lane_cycle: int) -> Value:
            return control.at(path, lane_cycle + timing.MEMORY_LATENCY)

        silu = Signal()
        quantized = Signal()
        e5m2 = Signal()
        m.d.comb += [
            silu.eq(tap("func", timing.LANE_W_SELECT) == Func.SILU),
            quantized.eq(tap("dest", timing.LANE_CODE) == Dest.A),
            e5m2.eq(tap("quant", timing.LANE_CODE) == Quant.E5M2),
        ]
        for lane in lanes:
            m.d.comb += [
                lane.combine.eq(tap("combine", timing.LANE_Z_SELECT)),
                lane.func.eq(tap("func", timing.LANE_U)),
                lane.quant.eq(tap("quant", timing.LANE_U)),
                lane.scale_rule.eq(tap("scale_rule", timing.LANE_U)),
                lane.silu.eq(silu),
                lane.quantized.eq(quantized),
                lane.e5m2.eq(e5m2),
            ]

    def _write_rows(self, m: Module, control: ControlPipeline, lanes: list) -> None:
        acc = timing.ACC_WRITE
        m.d.comb += [
            self.acc_d.en.eq(control.at("valid", acc) & (control.at("dest", acc) == Dest.ACC)),
            self.acc_d.addr.eq(control.at("dst_addr", acc)),
            self.acc_d.data.eq(Cat(lane.out for lane in lanes)),
        ]

    def _write_codes(self, m: Module, control: ControlPipeline, lanes: list) -> None:
        """Rows of codes without scales, as soon as they are there."""
        a = timing.a_write(self.config)
        m.d.comb += [
            self.a_vec.valid.eq(control.at("valid", a) & (control.at("dest", a) == Dest.A)),
            self.a_vec.slice.eq(control.at("slice", a)),
            self.a_vec.addr.eq(control.at("dst_addr", a)),
            self.a_vec.sub.eq(control.at("sub", a)),
            self.a_vec.data.eq(Cat(lane.code for lane in lanes)),
            self.a_vec.mask.eq(~0),
        ]

    def _write_blocks(self, m: Module, control: ControlPipeline, lanes: list, z: Signal, active: Signal) -> None:
        """Rows of codes by way of the block quantizer, with or without scales."""
        stage = timing.ACC_WRITE
        m.submodules.block = block = BlockStage(self.config, z_lead=timing.LANE_OUT - timing.LANE_Z_SELECT)
        m.d.comb += [
            block.words.eq(Cat(lane.out for lane in lanes)),
            block.casts.eq(Cat(lane.code for lane in lanes)),
            block.z.eq(z),
            block.active.eq(active),
            block.valid.eq(control.at("valid", stage)),
            block.request.to_a.eq(control.at("dest", stage) == Dest.A),
            block.request.addr.eq(control.at("dst_addr", stage)),
            *(block.request[name].eq(control.at(name, stage))
              for name in ("quant", "scale_rule", "tile", "slice", "sub")),
            *(getattr(self.a_vec, name).eq(getattr(block.a_vec, name)) for name in self.a_vec.signature.members),
        ]

    def _reduce(self, m: Module, control: ControlPipeline, lanes: list, active: Signal) -> None:
        start, end = timing.REDUCE_START, timing.reduce_write(self.config.cols)
        reduce = RowReduction(self.config.cols)
        m.submodules.reduce = EnableInserter(active)(reduce)
        m.d.comb += [
            reduce.written.eq(Cat(lane.written for lane in lanes)),
            reduce.fixed.eq(Cat(lane.fixed for lane in lanes)),
            reduce.special.eq(Cat(lane.special for lane in lanes)),
            reduce.first.eq(control.at("first", start)),
            reduce.sum.eq(control.at("reduce", start) == Reduce.SUM),
            reduce.magnitude.eq(control.at("reduce", start) == Reduce.ABSMAX),
            self.acc_r.en.eq(
                control.at("valid", end)
                & control.at("last", end)
                & (control.at("reduce", end) != Reduce.NONE)
            ),
            self.acc_r.addr.eq(control.at("reduce_addr", end)),
            self.acc_r.lane.eq(control.at("reduce_lane", end)),
            self.acc_r.data.eq(reduce.result),
        ]

    def _tokens_and_events(self, m: Module, control: ControlPipeline) -> None:
        for kind, stage in (("rd", timing.W_READ), ("wr", timing.last_write(self.config))):
            m.d.comb += [
                getattr(self.unit, kind).eq(control.at("valid", stage) & control.at("end", stage)),
                getattr(self.unit, f"{kind}_mask").eq(control.at(f"{kind}_mask", stage)),
            ]
        valid = control.at("valid", 0)
        m.d.comb += [
            self.ev_vector_rows.eq(valid),
            self.ev_acc_row_reads.eq(
                self.acc_x.en + (self.acc_y.en & ~control.at("squares", 0)) + self.acc_z.en + self.acc_w.en),
            self.ev_acc_row_writes.eq(self.acc_d.en),
            self.ev_statistic_writes.eq(self.acc_r.en),
            self.ev_a_row_writes.eq(self.a_vec.valid),
            self.ev_vector_adds.eq(valid & (control.at("combine", 0) != Combine.NONE)),
            self.ev_vector_functions.eq(valid & (control.at("func", 0) != Func.NONE)),
            self.ev_vector_reductions.eq(valid & (control.at("reduce", 0) != Reduce.NONE)),
            self.ev_vector_quantizations.eq(self.a_vec.valid),
            self.ev_block_quantizations.eq(
                valid & (control.at("dest", 0) == Dest.A)
                & Cat(control.at("quant", 0) == fmt.quant for fmt in block_quantizers(self.config)).any()
            ),
        ]
