"""Verilog that Verilator simulates fast, made from a netlist of the tile; nothing of it is exported."""

from __future__ import annotations

from ....rtl.export.verilog_text import plain_names
from .guards import write_module
from .netlist import NAMES, Module, Register, parse
from .replicas import Loop, can_loop


def simulation_verilog(netlist: str, top: str) -> str:
    """Verilog of the design of ``netlist`` (`rtl.export.verilog.netlist`), whose top module is ``top``.

    It differs from the design in this: a cycle passes at every change of the clock, up or down; and inputs are what the
    ports were at that change, so that a model is evaluated once in a cycle.
    """
    modules = {module.name: module for module in parse(plain_names(netlist))}
    _register_inputs(modules[top])
    parts = []
    looped: set[str] = set()
    for module in modules.values():
        kinds = dict.fromkeys(instance.module for instance in module.instances)
        loops = [Loop(module, modules[kind], f"{kind}_") for kind in kinds if can_loop(module, modules[kind])]
        for loop in loops:
            loop.connect()
        looped |= {loop.cell.name for loop in loops}
        parts.append((module, loops))
    return "".join(
        write_module(module, [name for loop in loops for name in loop.copies],
                     [line for loop in loops for line in loop.lines()])
        for module, loops in parts if module.name not in looped)


def _register_inputs(top: Module) -> None:
    inputs = [name for name in top.inputs if name != top.clock]
    held = {name: f"now_{name}" for name in inputs}
    top.rewrite(lambda expression: NAMES.sub(lambda found: held.get(found[1], found[1]) + found[2], expression))
    for name, register in held.items():
        top.widths[register] = top.widths[name]
        top.registers.append(Register(register, None, name))
