"""Back end: the tile with its AXI ports under Verilator, in a process of its own, with a memory written in C++.

Some hundred times faster than a test bench in Python, so it is the one for whole layers; `driver/axi.cpp` says how
the memory behaves.
"""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from ...rtl.axi.channels import PAGE_BITS
from ...rtl.spec.config import TileConfig
from ...rtl.spec.errors import ConfigError, SimulationError
from ..hardware.verilated import simulation_verilog
from ..hardware.verilator_build import Model, build_executable
from .bus import response_error

_PORTS = (
    "aclk", "aresetn", "interrupt", "trace_start", "trace_done", "trace_dispatch", "trace_issue", "trace_rd",
    "trace_wr",
    *(f"s_axi_{name}" for name in (
        "awaddr", "awvalid", "awready", "wdata", "wstrb", "wvalid", "wready", "bresp", "bvalid", "bready",
        "araddr", "arvalid", "arready", "rdata", "rresp", "rvalid", "rready")),
    *(f"m_axi_{name}" for name in (
        "awaddr", "awlen", "awvalid", "awready", "wdata", "wstrb", "wlast", "wvalid", "wready", "bresp", "bvalid",
        "bready", "araddr", "arlen", "arvalid", "arready", "rdata", "rresp", "rlast", "rvalid", "rready")))


def _verilog(config: TileConfig) -> str:
    from ...rtl.axi.top import TileAxi
    from ...rtl.export import verilog  # needs Amaranth's Yosys, which a cached model does not
    from ...rtl.export.folder import TOP

    return simulation_verilog(verilog.netlist(TileAxi(config), TOP), TOP)


MODEL = Model(kind="verilator-axi", verilog=_verilog, top="tilescore_axi", prefix="AXI", ports=_PORTS,
              driver=Path(__file__).parents[1] / "hardware" / "driver" / "axi.cpp")


@dataclass(frozen=True, kw_only=True)
class AxiMemory:
    """How the memory behaves.

    latency: cycles from an address to its first beat, and from the last beat of a write to its response; the timing
    model's ``dram_latency`` is `BUS_LATENCY` more. stall_per_mille: how often a READY is low and an answer is late by
    1 to 24 cycles. seed: of the stalls.
    """

    latency: int = 1
    stall_per_mille: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.latency < 1:
            raise SimulationError(f"latency must be at least 1, got {self.latency}")
        if not 0 <= self.stall_per_mille <= 900:
            raise SimulationError(f"stall_per_mille must be in 0..900, got {self.stall_per_mille}")


class VerilatorBus:
    """A `Bus` that never suspends; use `bus.run_now`. A context manager: leaving it ends the process.

    The first use of a configuration compiles it (half a minute for nano). Raises `ToolError` when Verilator or a C++
    compiler is missing, and `SimulationError` when the process has ended, with its last words.
    """

    def __init__(self, config: TileConfig, *, memory_bytes: int, memory_base: int = 0,
                 memory: AxiMemory | None = None) -> None:
        if memory_base % (1 << PAGE_BITS) or memory_base < 0:
            raise ConfigError(f"memory_base must be a multiple of {1 << PAGE_BITS}, got {memory_base}")
        self.config, self.memory_base, self.memory_bytes = config, memory_base, memory_bytes
        # Loads read whole beats, so the last one may reach past the window.
        size = -(-memory_bytes // config.bus_bytes) * config.bus_bytes
        command = [str(build_executable(MODEL, config)), f"bus_bytes={config.bus_bytes}", f"memory_bytes={size}",
                   f"memory_base={memory_base}"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         stderr=subprocess.PIPE)
        self.behave(memory or AxiMemory())

    def __enter__(self) -> "VerilatorBus":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        self._process.wait()

    # Bus -------------------------------------------------------------------------------------------

    async def read(self, offset: int) -> int:
        value, response = self._ask(f"read {offset}").split()
        if int(response):
            raise response_error("read", offset, int(response))
        return int(value)

    async def write(self, offset: int, value: int) -> None:
        response = int(self._ask(f"write {offset} {value}"))
        if response:
            raise response_error("write", offset, response)

    async def read_memory(self, address: int, size: int) -> bytes:
        self._check(address, size)
        self._tell(f"peek {address} {size}")
        return self._bytes(size)

    async def write_memory(self, address: int, data: bytes) -> None:
        self._check(address, len(data))
        self._ask(f"poke {address} {len(data)}", data)

    async def sleep(self, cycles: int) -> None:
        self._ask(f"run {cycles}")

    async def interrupt(self, cycles: int) -> bool:
        return self._ask(f"interrupt {cycles}") == "1"

    async def reset(self) -> None:
        self._ask("reset")

    # The memory ------------------------------------------------------------------------------------

    def behave(self, memory: AxiMemory) -> None:
        """Change how the memory behaves."""
        self._ask(f"memory {memory.latency} {memory.stall_per_mille} {memory.seed}")

    def fail(self, ranges: Sequence[tuple[int, int]]) -> None:
        """From now on answer beats at bus addresses low <= address < high with SLVERR, and no others."""
        self._ask(f"faults {len(ranges)} " + " ".join(f"{low} {high}" for low, high in ranges))

    def hang(self, hung: bool) -> None:
        """While hung, the memory takes and answers nothing."""
        self._ask(f"hang {int(hung)}")

    def reset_memory(self) -> None:
        """The memory forgets the bursts that it has taken."""
        self._ask("forget")

    def trace(self) -> tuple[np.ndarray, int]:
        """(cycle and bits, as in `hardware.run.RawRun.trace`; cycles until done or 0) of the last program."""
        count, cycles = self._ask("trace").split()
        return np.frombuffer(self._bytes(16 * int(count)), "<i8").reshape(-1, 2), int(cycles)

    # The process -----------------------------------------------------------------------------------

    def _check(self, address: int, size: int) -> None:
        if address < self.memory_base or address + size > self.memory_base + self.memory_bytes:
            raise SimulationError(f"memory: bytes {address}..{address + size - 1} are outside of "
                                  f"{self.memory_base}..{self.memory_base + self.memory_bytes - 1}")

    def _tell(self, line: str, payload: bytes = b"") -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n" + payload)
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            raise self._ended() from None

    def _ask(self, line: str, payload: bytes = b"") -> str:
        self._tell(line, payload)
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            raise self._ended()
        return answer.decode().strip()

    def _bytes(self, size: int) -> bytes:
        assert self._process.stdout is not None
        data = self._process.stdout.read(size)
        if len(data) != size:
            raise self._ended()
        return data

    def _ended(self) -> SimulationError:
        status = self._process.wait()
        stderr = self._process.stderr
        words = stderr.read().decode(errors="replace").strip() if stderr is not None and not stderr.closed else ""
        return SimulationError(f"the compiled tile has ended with status {status}: {words[-400:] or 'no message'}")
