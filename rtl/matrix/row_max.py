"""Running row maximum: what leaves the last lane is combined with the old value in the statistics word."""

from typing import Any

from amaranth.hdl import EnableInserter, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, Signature

from ..arith.fp32_max import Fp32Max
from ..spec.config import TileConfig
from .drain import control_layout
from .timing import STAGE_MAXIMUM, STAGE_STAT_READ, STAGE_STAT_WRITE


class RowMaximum(wiring.Component):
    """Members, in stages of the last lane
    -------
    control : In(control_layout)
        The last lane's ``control_out``: stage 1.
    maximum : In(32)
        The last lane's ``maximum_out``: `STAGE_MAXIMUM`.
    read : {en, addr, lane}, old : In(32)
        Read of the old value in `STAGE_STAT_READ`, its data one cycle later. Not done when the maximum
        starts.
    write : {en, addr, lane, data}
        In `STAGE_STAT_WRITE`.
    """

    control: data.View
    maximum: Signal
    read: Any
    old: Signal
    write: Any

    def __init__(self, config: TileConfig) -> None:
        control = control_layout(config)
        place = {"en": Out(1), "addr": Out(control["stat_addr"].shape), "lane": Out(control["stat_lane"].shape)}
        super().__init__({
            "control": In(control), "maximum": In(32),
            "read": Out(Signature(place)), "old": In(32),
            "write": Out(Signature(place | {"data": Out(32)})),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        control = self.control
        layout = data.StructLayout({
            "en": 1, "init": 1, "addr": control.stat_addr.shape(), "lane": control.stat_lane.shape()})
        stages = {1: Signal(layout, name="stage_1")}
        m.d.comb += [
            stages[1].en.eq(control.valid & control.rowmax), stages[1].init.eq(control.rowmax_init),
            stages[1].addr.eq(control.stat_addr), stages[1].lane.eq(control.stat_lane),
        ]
        for stage in range(2, STAGE_STAT_WRITE + 1):
            stages[stage] = Signal(layout, name=f"stage_{stage}")
            before = stages[stage - 1]
            m.d.sync += stages[stage].en.eq(before.en)
            with m.If(before.en):
                m.d.sync += [stages[stage][name].eq(before[name]) for name in ("init", "addr", "lane")]

        read, last = stages[STAGE_STAT_READ], stages[STAGE_STAT_WRITE]
        old = Signal(32, reset_less=True)
        combine = Fp32Max()
        m.submodules.combine = EnableInserter(stages[STAGE_MAXIMUM].en)(combine)
        with m.If(stages[STAGE_MAXIMUM - 1].en):
            m.d.sync += old.eq(self.old)
        m.d.comb += [
            self.read.en.eq(read.en & ~read.init), self.read.addr.eq(read.addr), self.read.lane.eq(read.lane),
            combine.a.eq(self.maximum),
            combine.b.eq(Mux(stages[STAGE_MAXIMUM].init, self.maximum, old)),
            self.write.en.eq(last.en), self.write.addr.eq(last.addr), self.write.lane.eq(last.lane),
            self.write.data.eq(combine.result),
        ]
        return m
