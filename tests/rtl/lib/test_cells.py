# amaranth: UnusedElaboratable=no
"""Cells: one component in simulation, one Verilog module and instances in an export."""

from __future__ import annotations

import re

from amaranth.back import verilog
from amaranth.hdl import Module
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from tilescore.rtl.lib.cells import CellLibrary, place

PAIR = data.StructLayout({"low": 4, "high": 4})


class Swap(wiring.Component):
    """Exchanges the fields, one cycle later."""

    def __init__(self) -> None:
        super().__init__({"source": In(PAIR), "port": Out(wiring.Signature({"pair": Out(PAIR), "ready": In(1)}))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        with m.If(self.port.ready):
            m.d.sync += [self.port.pair.low.eq(self.source.high), self.port.pair.high.eq(self.source.low)]
        return m


class Twice(wiring.Component):
    """A cell made of two cells."""

    def __init__(self) -> None:
        super().__init__({"source": In(PAIR), "result": Out(PAIR)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        first, second = (place(m, f"swap{i}", Swap, "swap_cell", platform) for i in range(2))
        m.d.comb += [
            first.source.eq(self.source), first.port.ready.eq(1),
            second.source.low.eq(first.port.pair.low), second.source.high.eq(first.port.pair.high),
            second.port.ready.eq(1), self.result.eq(second.port.pair),
        ]
        return m


class Top(wiring.Component):
    def __init__(self) -> None:
        super().__init__({"source": In(PAIR), "result": Out(8)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        cells = [place(m, f"twice{i}", Twice, "twice_cell", platform) for i in range(3)]
        for i, cell in enumerate(cells):
            m.d.comb += cell.source.eq(cells[i - 1].result if i else self.source)
        m.d.comb += self.result.eq(cells[-1].result)
        return m


def test_in_simulation_a_cell_is_its_component() -> None:
    m = Module()
    cell = place(m, "swap", Swap, "swap_cell", None)
    assert isinstance(cell, Swap)
    dut = Top()
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)

    async def testbench(ctx) -> None:
        ctx.set(dut.source, {"low": 3, "high": 9})
        await ctx.tick().repeat(6)
        assert ctx.get(dut.result) == 0x93
        ctx.set(dut.source, {"low": 1, "high": 2})
        await ctx.tick().repeat(5)
        assert ctx.get(dut.result) == 0x93
        await ctx.tick()
        assert ctx.get(dut.result) == 0x21

    simulator.add_testbench(testbench)
    simulator.run()
    simulator_of_cell = Simulator(m)
    simulator_of_cell.run()


def test_an_export_has_each_cell_once_and_instances_of_it() -> None:
    library = CellLibrary()
    top = verilog.convert(Top(), name="top", platform=library)
    text = top + library.verilog()
    assert re.findall(r"^module (\S+?)\(", text, re.MULTILINE) == ["top", "twice_cell", "swap_cell"]
    assert len(re.findall(r"^  twice_cell ", text, re.MULTILINE)) == 3
    assert len(re.findall(r"^  swap_cell ", text, re.MULTILINE)) == 2
    assert library.keys == ("twice_cell", "swap_cell")


def test_instances_have_the_ports_of_the_cell() -> None:
    library = CellLibrary()
    top = verilog.convert(Top(), name="top", platform=library)
    cells = library.verilog()
    for name, text in (("twice_cell", top), ("swap_cell", cells)):
        module = re.search(rf"^module {name}\((.*)\);", cells, re.MULTILINE)
        instance = re.search(rf"^  {name} \S+ \((.*?)\);", text, re.MULTILINE | re.DOTALL)
        assert module and instance
        assert set(re.findall(r"\.(\w+)\(", instance[1])) == set(module[1].split(", "))


def test_a_bare_interface_has_views_but_no_wire_per_field() -> None:
    library = CellLibrary()
    interface = place(Module(), "swap", Swap, "swap_cell", library)
    assert interface.source.low.shape().width == 4
    top = verilog.convert(Top(), name="top", platform=library)
    library.verilog()
    assert "twice0__result" in top and "twice0__result.low" not in top
