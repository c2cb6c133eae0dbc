"""The bodies of `bodies.py` on the compiled tile: another memory model, other latencies, many more runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from tilescore.rtl.axi.channels import BUS_LATENCY
from tilescore.rtl.spec.config import TileConfig
from tilescore.sim.hardware.toolchain import missing_for_verilator
from tilescore.sim.host.bus import run_now
from tilescore.sim.host.tile import Tile
from tilescore.sim.host.verilator_bus import AxiMemory, VerilatorBus
from tilescore.tests.cosim import bodies
from tilescore.tests.cosim.tiles import LAYERS, NANO, TILES, layer_program

pytestmark = pytest.mark.skipif(bool(missing_for_verilator()),
                                reason="the compiled tile lacks " + ", ".join(missing_for_verilator()))
BASE = 7 << 12
WINDOW = 1 << 16


@dataclass
class CompiledBoard:
    """A `bodies.Board`."""

    bus: VerilatorBus
    latency: int

    def __post_init__(self) -> None:
        self.tile = Tile(self.bus)
        self.stall(None)
        self.fail([])
        self.hang(False)

    def stall(self, seed: int | None) -> None:
        if seed is None:
            self.bus.behave(AxiMemory(latency=self.latency))
        else:
            rng = np.random.default_rng(seed)
            self.bus.behave(AxiMemory(latency=int(rng.integers(1, 40)), seed=seed,
                                      stall_per_mille=int(rng.choice([20, 200, 500, 800]))))

    def fail(self, ranges: Sequence[tuple[int, int]]) -> None:
        self.bus.fail([(BASE + low, BASE + high) for low, high in ranges])

    def hang(self, hung: bool) -> None:
        self.bus.hang(hung)

    def reset_memory(self) -> None:
        self.bus.reset_memory()

    def trace(self) -> tuple[np.ndarray, int]:
        return self.bus.trace()

    def violations(self) -> list[str]:
        return []


@pytest.fixture(scope="module")
def boards() -> Iterator[Callable[..., CompiledBoard]]:
    """``boards(tile, latency=...)``: a board just out of reset; the process is shared."""
    buses: dict[str, VerilatorBus] = {}

    def board(tile: TileConfig, latency: int = tile_latency(NANO)) -> CompiledBoard:
        if tile.name not in buses:
            buses[tile.name] = VerilatorBus(tile, memory_bytes=WINDOW, memory_base=BASE)
        made = CompiledBoard(buses[tile.name], latency)
        run_now(made.tile.reset(hardware=True))
        return made

    yield board
    for bus in buses.values():
        bus.close()


def tile_latency(tile: TileConfig) -> int:
    """Of a memory on which the tile runs as with its reference DRAM."""
    return tile.dram_latency - BUS_LATENCY


def cases(tile: TileConfig) -> list[bodies.Case]:
    return [bodies.Case(layer_program(tile, kind)) for kind in LAYERS]


def test_layers_under_stalls(boards: Callable, seed: int) -> None:
    result = run_now(bodies.layers(boards(NANO), cases(NANO), range(seed % 1000, seed % 1000 + 10)))
    assert result["runs"] == 20


@pytest.mark.parametrize("latency", [1, tile_latency(NANO), 61])
def test_an_ideal_memory(latency: int, boards: Callable) -> None:
    """Of several latencies; one is that of the tile's configuration."""
    assert run_now(bodies.ideal(boards(NANO, latency), cases(NANO)))["runs"] == 2


def test_mishaps(boards: Callable, seed: int) -> None:
    board, (attention, moe) = boards(NANO), cases(NANO)
    assert min(run_now(bodies.errors(board, moe, seed % 1000, 10)).values()) > 0
    assert run_now(bodies.resets(board, attention, seed % 1000, 20))["resets"] == 20
    assert run_now(bodies.hangs(board, moe, seed % 1000, 6))["hangs"] == 6
    assert run_now(bodies.corrupted(board, attention, seed % 1000, 20))["ILLEGAL"] >= 10


@pytest.mark.slow
@pytest.mark.parametrize("width", [width for width in TILES if width < 512])
def test_narrow_buses(width: int, boards: Callable, seed: int, depth: int) -> None:
    """The widest bus is on a tile that takes a minute to build; `test_exported.py` has it."""
    tile = TILES[width]
    for latency in (1, 30):
        run_now(bodies.ideal(boards(tile, latency), cases(tile)))
    assert run_now(bodies.layers(boards(tile), cases(tile), range(seed, seed + 15 * depth)))["runs"] == 30 * depth


@pytest.mark.slow
def test_many_mishaps(boards: Callable, seed: int, depth: int) -> None:
    board, (attention, moe) = boards(NANO), cases(NANO)
    assert min(run_now(bodies.errors(board, attention, seed, 30 * depth)).values()) > 0
    assert run_now(bodies.resets(board, moe, seed, 80 * depth))["resets"] == 80 * depth
    assert run_now(bodies.hangs(board, attention, seed, 8 * depth))["hangs"] == 8 * depth
    assert run_now(bodies.corrupted(board, moe, seed, 80 * depth))["ILLEGAL"] >= 40 * depth
