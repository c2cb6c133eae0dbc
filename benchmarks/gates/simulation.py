"""Toggles of every net of a netlist on given inputs, by a simulator for mapped netlists (`toggles.cpp`).

Inputs change where registers before the part would change them: just after the rising edge. In zero delay a net moves
at most once per cycle; with one unit of delay in every cell it may move more often, as glitches do. Unit delays are not
those of the cells: the true number of glitches lies elsewhere, and wires balance or unbalance paths as well.

Up to 64 stimuli, such as those of all elements of an array, run side by side in the bits of a word, which is what makes
whole programs affordable; an event-driven simulator of Verilog, some hundred times slower, finds the same toggles
(`tests/test_gates_simulation.py`). Registers start at 0; clocks are ideal, gated ones included.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tilescore.benchmarks.gates import expression
from tilescore.benchmarks.gates.delays import in_order
from tilescore.benchmarks.gates.expression import Expression
from tilescore.benchmarks.gates.netlist import Instance, Net, Netlist
from tilescore.rtl.spec.errors import ToolError

RESET_CYCLES = 4

LANES = 64
"""Stimuli of one run."""

_OPERATORS = {"not": -1, "and": -2, "or": -3, "xor": -4}
_CONSTANTS = (-5, -6)
_END = -7

_INT = np.int32


class _CNetlist(ctypes.Structure):
    _fields_ = [*((name, ctypes.c_int32) for name in (
        "nets", "gates", "flip_flops", "outputs", "clock_gates", "inputs", "clock")),
        *((name, ctypes.c_void_p) for name in (
            "code", "gate", "flip_flop", "output", "clock_gate", "input", "fanout_start", "fanout"))]


@cache
def _library() -> ctypes.CDLL:
    """Raises `ToolError` if there is no C++ compiler."""
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        raise ToolError("no C++ compiler: install g++ or clang++")
    with TemporaryDirectory() as name:
        target = Path(name, "toggles.so")
        source = Path(__file__).with_name("toggles.cpp")
        result = subprocess.run([compiler, "-O2", "-std=c++17", "-shared", "-fPIC", "-o", str(target), str(source)],
                                capture_output=True, text=True, check=False)
        if result.returncode:
            raise ToolError(f"{compiler} failed: {result.stderr[-300:]}")
        return ctypes.CDLL(str(target))


def check_tools() -> None:
    """Raises `ToolError` if the simulator cannot be built."""
    _library()


class Simulation:
    """A netlist made ready to run."""

    def __init__(self, netlist: Netlist) -> None:
        self._netlist = netlist
        self._code: list[int] = []
        self._nets = 1 + max((net for instance in netlist.instances for net in instance.pins.values()
                              if isinstance(net, int)), default=0)
        for bits in (*netlist.inputs.values(), *netlist.outputs.values()):
            self._nets = max([self._nets, *(net + 1 for net in bits if isinstance(net, int))])
        self.nets = self._nets
        clock_gates = {instance.pins[gate.output]: number for number, instance in enumerate(netlist.clock_gates)
                       if (gate := instance.cell.clock_gate)}
        gates = [row for instance in in_order(netlist) if not instance.cell.flip_flop and not instance.cell.clock_gate
                 for row in self._outputs(instance)]
        flip_flops, outputs = [], []
        for instance in netlist.flip_flops:
            state, rows = self._flip_flop(instance)
            clock = instance.pins[instance.cell.clock_pin or ""]
            flip_flops.append((*state, clock_gates.get(clock, -1)))
            outputs += rows
        enables = [(int(instance.pins[gate.output]), self._compile(self._bound(gate.enable, instance)), 0)
                   for instance in netlist.clock_gates if (gate := instance.cell.clock_gate)]
        self._bits = [net for bits in netlist.data_inputs.values() for net in bits]
        fanout_start, fanout = self._fanout(gates)
        self._arrays = [np.array(rows, _INT).ravel() for rows in (
            self._code, gates, flip_flops, outputs, enables,
            [net if isinstance(net, int) else self._nets for net in self._bits], fanout_start, fanout)]
        clock = netlist.clock if isinstance(netlist.clock, int) else -1
        self._c = _CNetlist(self._nets + 1, len(gates), len(flip_flops), len(outputs), len(enables), len(self._bits),
                            clock, *(array.ctypes.data for array in self._arrays))

    def count(self, stimuli: Sequence[Sequence[dict[str, int]]], *, skip: int, delay: bool) -> dict[int, int]:
        """Toggles by net, of all stimuli together, in the cycles from ``skip`` on; nets without any are left out.

        stimuli: at most `LANES` equally long lists of values of the input ports (`Netlist.data_inputs`) in each cycle;
        a port that is not named is 0. A port ``rst`` is high for `RESET_CYCLES` cycles before the first.
        delay: gates take a unit of time. Raises `ToolError` if there is no C++ compiler.
        """
        words = np.stack([self._words(stimulus) for stimulus in stimuli])
        lanes = np.zeros(words.shape[1:], np.uint64)
        for lane, bits in enumerate(words):
            lanes |= bits.astype(np.uint64) << np.uint64(lane)
        lanes = np.ascontiguousarray(lanes)
        counts = np.zeros(self._nets + 1, np.uint64)
        failed = _library().count_toggles(
            ctypes.byref(self._c), ctypes.c_int32(len(lanes)), ctypes.c_int32(RESET_CYCLES + skip + 1),
            ctypes.c_void_p(lanes.ctypes.data), ctypes.c_uint64((1 << len(stimuli)) - 1), ctypes.c_int32(delay),
            ctypes.c_void_p(counts.ctypes.data))
        if failed:
            raise ToolError("the netlist does not settle")
        return {net: int(counts[net]) for net in np.flatnonzero(counts[:self.nets]).tolist()}

    def _words(self, stimulus: Sequence[dict[str, int]]) -> np.ndarray:
        """bool (cycles, bits): reset, the cycles, and the last once more, as its edge takes the last word."""
        cycles = [{**stimulus[0], "rst": 1}] * RESET_CYCLES + [*stimulus, stimulus[-1]]
        columns = []
        for name, nets in self._netlist.data_inputs.items():
            size = -(-len(nets) // 8)
            values = [cycle.get(name, 0) for cycle in cycles]
            for value in values:
                if not 0 <= value < 1 << len(nets):
                    raise ValueError(f"port {name} of {len(nets)} bits: {value} does not fit")
            raw = np.frombuffer(b"".join(value.to_bytes(size, "little") for value in values), np.uint8)
            columns.append(np.unpackbits(raw.reshape(len(values), size), axis=1, bitorder="little")[:, :len(nets)])
        return np.concatenate(columns, axis=1) if columns else np.zeros((len(cycles), 0), np.uint8)

    def _outputs(self, instance: Instance) -> list[tuple[int, int, int]]:
        cell = instance.cell
        return [(net, self._compile(self._bound(expression.parse(cell.pins[pin].function), instance)), 0)
                for pin, net in instance.outputs]

    def _flip_flop(self, instance: Instance) -> tuple[tuple[int, int], list[tuple[int, int, int]]]:
        """Its state's net and function, and its outputs."""
        ff = instance.cell.flip_flop
        assert ff is not None
        state, self._nets = self._nets, self._nets + 1
        known: dict[str, Expression] = {ff.state: ("net", state), ff.inverse: ("not", ("net", state))}

        def bound(text: str) -> Expression:
            return self._bound(expression.parse(text), instance, known) if text else ("constant", 0)

        following = ("and", ("not", bound(ff.clear)), ("or", bound(ff.preset), bound(ff.next_state)))
        rows = [(net, self._compile(bound(instance.cell.pins[pin].function)), 0) for pin, net in instance.outputs]
        return (state, self._compile(following)), rows

    def _bound(self, function: Expression, instance: Instance,
               known: dict[str, Expression] | None = None) -> Expression:
        """The function with nets for pins."""
        if function[0] == "name":
            if known and function[1] in known:
                return known[function[1]]
            net: Net = instance.pins.get(function[1], "x")
            return ("net", net) if isinstance(net, int) else ("constant", int(net == "1"))
        if function[0] == "constant":
            return function
        return (function[0], *(self._bound(part, instance, known) for part in function[1:]))

    def _compile(self, function: Expression) -> int:
        """Offset of its code."""
        start = len(self._code)

        def emit(part: Expression) -> None:
            if part[0] == "net":
                self._code.append(part[1])
            elif part[0] == "constant":
                self._code.append(_CONSTANTS[part[1]])
            else:
                for operand in part[1:]:
                    emit(operand)
                self._code.append(_OPERATORS[part[0]])

        emit(function)
        self._code.append(_END)
        return start

    def _fanout(self, gates: list[tuple[int, int, int]]) -> tuple[list[int], list[int]]:
        """For each net, where the numbers of the gates behind it start; and these."""
        behind: list[list[int]] = [[] for _ in range(self._nets + 1)]
        for number, (_, offset, _) in enumerate(gates):
            while self._code[offset] != _END:
                if self._code[offset] >= 0 and number not in behind[self._code[offset]][-1:]:
                    behind[self._code[offset]].append(number)
                offset += 1
        starts = [0]
        for numbers in behind:
            starts.append(starts[-1] + len(numbers))
        return starts, [number for numbers in behind for number in numbers]
