"""The exported tile in a simulator, with cocotbext-axi's memory and register master on its ports.

The bodies are in `bodies.py`; each checks every result against the reference level, every cycle against the timing
model with the recorded durations of DMA, and every cycle on the pins against the rules of AXI. All of it runs with
``--slow``; `test_compiled.py` plays the same bodies on the compiled tile in every run.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tilescore.compiler.self_test import self_test_program
from tilescore.tests.cosim.simulators import SIMULATORS, exported_verilog, needs, run_job
from tilescore.tests.cosim.tiles import LAYERS, TILES, layer_program

simulators = pytest.mark.parametrize("simulator", [pytest.param(name, marks=needs(name)) for name in SIMULATORS])
pytestmark = pytest.mark.slow
other_widths = pytest.mark.parametrize("width", [width for width in TILES if width != 128])


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Any]:
    """``job(simulator, width, body, kinds, ...)``: what the body returns for programs of those layers."""
    def run(simulator: str, width: int, body: str, kinds: Any = tuple(LAYERS), **arguments: Any) -> Any:
        tile = TILES[width]
        programs = [layer_program(tile, kind) for kind in kinds]
        return run_job(simulator, exported_verilog(tile), tmp_path, body, programs, **arguments)

    return run


@simulators
def test_an_ideal_memory(simulator: str, job: Callable) -> None:
    """Fixed latency, no stalls: every cycle, counter and event of the plain timing model."""
    assert job(simulator, 128, "ideal")["runs"] == 2


@simulators
def test_the_self_test(simulator: str, tmp_path: Path) -> None:
    """Its bytes, and every cycle of it, on an ideal memory."""
    assert run_job(simulator, exported_verilog(TILES[128]), tmp_path, "ideal",
                   [self_test_program(TILES[128])])["runs"] == 1


@simulators
def test_many_seeds(simulator: str, job: Callable, seed: int, depth: int) -> None:
    """An attention and an MoE layer under random stalls."""
    base, count = seed % 1000, {"icarus": 2, "verilator": 10}[simulator] * depth
    assert job(simulator, 128, "layers", seeds=list(range(base, base + count)))["runs"] == 2 * count


@simulators
@other_widths
def test_other_widths(simulator: str, width: int, job: Callable, seed: int, depth: int) -> None:
    """Ideal memory and random stalls on buses of 32 and 512 bits; fewer seeds where the simulator is slow: Icarus plays
    some 800 cycles of nano per second, and 200 of the tile with 512 bits, where it gets an ideal memory alone."""
    base = seed % 1000
    if (width, simulator) == (512, "icarus"):
        assert job(simulator, width, "ideal", ["moe"])["runs"] == 1
        return
    assert job(simulator, width, "ideal")["runs"] == 2
    count = {(32, "icarus"): 1, (32, "verilator"): 4, (512, "verilator"): 2}[width, simulator]
    count *= depth
    assert job(simulator, width, "layers", seeds=list(range(base, base + count)))["runs"] == 2 * count


@simulators
def test_resets(simulator: str, job: Callable, seed: int, depth: int) -> None:
    """At random cycles, soft and hard, most while the program runs; fewer where the simulator is slow."""
    count = {"icarus": 2, "verilator": 20}[simulator] * depth
    result = job(simulator, 128, "resets", ["moe"], seed=seed % 1000, count=count)
    assert result["resets"] == count and result["running"] > count // 2


@simulators
def test_error_responses(simulator: str, job: Callable, seed: int, depth: int) -> None:
    count = {"icarus": 2, "verilator": 10}[simulator] * depth
    result = job(simulator, 128, "errors", ["moe"], seed=seed % 1000, count=count)
    assert sum(result.values()) == count and min(result.values()) > 0


@simulators
def test_hung_memories(simulator: str, job: Callable, seed: int, depth: int) -> None:
    count = {"icarus": 1, "verilator": 3}[simulator] * depth
    assert job(simulator, 128, "hangs", ["attention"], seed=seed % 1000, count=count)["hangs"] == count


@simulators
def test_corrupted_programs(simulator: str, job: Callable, seed: int, depth: int) -> None:
    count = {"icarus": 2, "verilator": 12}[simulator] * depth
    result = job(simulator, 128, "corrupted", ["moe"], seed=seed % 1000, count=count)
    assert result["ILLEGAL"] >= count // 2 and sum(result.values()) == count
