"""`UartBus`: words on the line against a bridge written here, and the self-test of a tile behind LiteX's own bridge."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tilescore.compiler.self_test import self_test, self_test_program
from tilescore.rtl.export.folder import export_tile
from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.errors import ConfigError, SimulationError
from tilescore.rtl.spec.registers import offset
from tilescore.sim.hardware.toolchain import missing_for_verilator
from tilescore.sim.hardware.verilator_build import Model, build_executable
from tilescore.sim.host.bus import run_now
from tilescore.sim.host.memory_file import compare_outputs
from tilescore.sim.host.tile import Tile
from tilescore.sim.host.uart_bus import UartBus
from tilescore.sim.reference.run import run_reference
from tilescore.tests.sim.host.test_tile import NANO

HERE = Path(__file__).parent
PLACES: dict = {"registers": 0x30000000, "memory_base": 0x40000000, "memory_bytes": 0x10000, "clock_hz": 1e6,
                "baudrate": 250_000}


class Bridge:
    """Stream2Wishbone in Python, words in a dictionary; silent from ``dies_after`` commands on."""

    def __init__(self, dies_after: int = 1 << 30) -> None:
        self.words: dict[int, int] = {}
        self.commands: list[tuple[int, int, int]] = []
        self.dies_after = dies_after
        self._in, self._out = b"", b""

    def write(self, data: bytes) -> None:
        self._in += data
        while len(self._in) >= 6:
            operation, count, address = self._in[0], self._in[1], int.from_bytes(self._in[2:6], "big")
            size = 6 + (4 * count if operation == 1 else 0)
            if len(self._in) < size:
                return
            self.commands.append((operation, count, 4 * address))
            body, self._in = self._in[6:size], self._in[size:]
            for n in range(count):
                if operation == 1:
                    self.words[address + n] = int.from_bytes(body[4 * n:4 * n + 4], "big")
                elif len(self.commands) <= self.dies_after:
                    self._out += self.words.get(address + n, 0).to_bytes(4, "big")

    def read(self, size: int) -> bytes:
        """A line hands over what it has, at times less than asked for."""
        size = min(size, 7)
        piece, self._out = self._out[:size], self._out[size:]
        return piece


def test_memory_at_any_address_and_of_any_size(rng: np.random.Generator) -> None:
    bridge = Bridge()
    bus = UartBus(bridge, **PLACES)
    model = bytearray(4096)
    for _ in range(200):
        at, size = int(rng.integers(0, 3000)), int(rng.choice([1, 2, 3, 4, 5, 8, 9, 1020, 1021, 1023]))
        data = rng.bytes(size)
        run_now(bus.write_memory(0x40000000 + at, data))
        model[at:at + size] = data
        low = int(rng.integers(0, 3000))
        size = int(rng.integers(1, 1050))
        assert run_now(bus.read_memory(0x40000000 + low, size)) == bytes(model[low:low + size])
    assert max(count for _, count, _ in bridge.commands) <= 255
    assert {operation for operation, _, _ in bridge.commands} == {1, 2}


def test_registers_and_interrupt() -> None:
    bridge = Bridge()
    bus = UartBus(bridge, **PLACES)
    run_now(bus.write(offset("INTERRUPT_STATUS"), 0x01020304))
    assert bridge.words[(0x30000000 + offset("INTERRUPT_STATUS")) // 4] == 0x01020304
    assert run_now(bus.read(offset("INTERRUPT_STATUS"))) == 0x01020304
    assert not run_now(bus.interrupt(10_000)), "no cause is enabled"
    run_now(bus.write(offset("INTERRUPT_ENABLE"), 4))
    assert run_now(bus.interrupt(10_000))


def test_what_goes_wrong() -> None:
    with pytest.raises(SimulationError, match=r"no answer to a read of 2 words at 0x40000000: expected 8 bytes, got 0"):
        run_now(UartBus(Bridge(dies_after=0), **PLACES).read_memory(0x40000000, 8))
    with pytest.raises(SimulationError, match="does not reach the tile's reset line"):
        run_now(UartBus(Bridge(), **PLACES).reset())
    for name, value, message in (("registers", 5, "registers must be a multiple of 4096 below 2\\*\\*32, got 0x5"),
                                 ("memory_base", 0xFFFF_F000, "memory_base must be .* got 0xFFFFF000"),
                                 ("memory_bytes", 6, "memory_bytes must be a positive multiple of 4, got 6"),
                                 ("baudrate", 2e6, r"baudrate must be above 0 and at most clock_hz \(1e\+06\)")):
        with pytest.raises(ConfigError, match=message):
            UartBus(Bridge(), **(PLACES | {name: value}))


class Process:
    """The serial line of a simulated SoC."""

    def __init__(self, binary: Path) -> None:
        self._process = subprocess.Popen([str(binary)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout

    def write(self, data: bytes) -> None:
        self._stdin.write(b"w" + len(data).to_bytes(4, "little") + data)

    def read(self, size: int) -> bytes:
        self._stdin.write(b"r" + size.to_bytes(4, "little") + (100_000).to_bytes(4, "little"))
        self._stdin.flush()
        return self._stdout.read(int.from_bytes(self._stdout.read(4), "little"))

    def close(self) -> None:
        self._stdin.close()
        self._stdout.close()
        self._process.wait()


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """nano in a LiteX SoC with UARTBone, under Verilator; from the cache when nothing changed."""
    pytest.importorskip("litex", reason="litex is not installed")
    if missing := missing_for_verilator():
        pytest.skip(f"Verilator level: missing {', '.join(missing)}")
    folder = tmp_path_factory.mktemp("uart")

    def verilog(config) -> str:
        export = export_tile(config, folder / "ip", self_test(config))
        subprocess.run([sys.executable, str(HERE / "uart_soc.py"), str(export)], cwd=folder, check=True,
                       capture_output=True)
        soc = re.sub(r"\$readmemh\(.*?\);", "", (folder / "soc.v").read_text())
        return soc + (export / "tilescore_axi.v").read_text()

    model = Model(kind=f"litex-{importlib.metadata.version('litex')}", verilog=verilog, top="top", prefix="UART",
                  driver=HERE / "uart.cpp", ports=("sys_clk", "sys_rst", "serial_rx", "serial_tx"))
    process = Process(build_executable(model, NANO))
    yield process
    process.close()


@pytest.mark.slow
def test_self_test_through_the_bridge(line: Process) -> None:
    """Registers, memory and program of a tile on LiteX's bus, over its UART: the bytes of the reference."""
    program = self_test_program(load_tile("nano"))
    bus = UartBus(line, **PLACES)
    tile = Tile(bus)
    run = run_now(tile.run(program, counters=False))
    state = run_reference(program)
    assert run.flags == state.status
    memory = np.frombuffer(run_now(tile.read(0, program.dram_bytes)), np.uint8)
    assert compare_outputs(program, state.dram, memory) > 500
    run_now(tile.write(program.outputs[0].addr + 1, b"\xff"))
    spoiled = np.frombuffer(run_now(tile.read(0, program.dram_bytes)), np.uint8)
    with pytest.raises(SimulationError, match=rf"result {program.outputs[0].name}: row 0, byte 1"):
        compare_outputs(program, state.dram, spoiled)
