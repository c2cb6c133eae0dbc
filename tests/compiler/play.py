"""Compile and play, for the compiler's tests: every program is verified, then run at reference level."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tilescore.compiler.compile import CompiledLayer, compile_layer
from tilescore.compiler.layer_readers import LAYERS
from tilescore.compiler.layers import Layer, Workload
from tilescore.compiler.models import list_models, load_model
from tilescore.rtl.spec.config import TileConfig, load_tile
from tilescore.rtl.spec.errors import WorkloadError
from tilescore.rtl.spec.formats import BUILD_NAMES, SCALE_NAMES
from tilescore.sim.legality.verifier import verify
from tilescore.sim.program import Program
from tilescore.sim.reference.run import run_reference

NANO, EDGE, SERVER = (load_tile(name) for name in ("nano", "edge", "server"))

SQUAT = TileConfig(name="squat", rows=4, cols=32, lanes=4, acc_bits=80, a_buffer_bytes=32768, a_banks=8,
                   b_buffer_bytes=65536, b_banks=4, acc_banks=24, acc_bank_rows=32, stat_banks=9, stat_bank_rows=16,
                   index_entries=256, imem_page=64, bus_bytes=64, dram_latency=30, dma_outstanding=3)
"""Narrow groups, a bus wider than a vector row of codes, accumulators of three planes, 9 statistics banks."""

TALL = TileConfig(name="tall", rows=8, cols=32, lanes=8, a_buffer_bytes=32768, a_banks=8, b_buffer_bytes=65536,
                  b_banks=8, acc_banks=16, acc_bank_rows=64, index_entries=256, imem_page=64, bus_bytes=16,
                  dram_latency=9)
"""A vector row of codes wider than the bus."""

EVERY_FORMAT = TileConfig(name="every", rows=4, cols=8, lanes=8, acc_bits=80, formats=BUILD_NAMES,
                          scales=tuple(SCALE_NAMES.values()), a_buffer_bytes=65536, a_banks=8, b_buffer_bytes=65536,
                          b_banks=4, acc_banks=24, acc_bank_rows=32, stat_banks=8, stat_bank_rows=8,
                          index_entries=256, imem_page=64, bus_bytes=32, dram_latency=12, dma_outstanding=4)
"""Every format on 32 processing elements, for the RTL."""

TILES = {tile.name: tile for tile in (NANO, EDGE, SQUAT, TALL)}


def bundled_layers(*kinds: str) -> Iterator[Layer]:
    """Every layer of these kinds that is built, of the bundled models."""
    for name in list_models():
        for kind in kinds:
            try:
                yield LAYERS[kind](load_model(name))
            except WorkloadError:
                continue


def play(program: Program) -> np.ndarray:
    """The first output of a program, which must be verified; the memories hold the worst that one may leave."""
    verify(program)
    return program.outputs[0].read(run_reference(program, poison=True).dram)


def compile_and_play(workload: Workload, tile: TileConfig, **options) -> tuple[CompiledLayer, np.ndarray]:
    """A compiled layer and its (rows, hidden) float32 result; ``options`` are those of `compile_layer`."""
    compiled = compile_layer(workload, tile, **options)
    return compiled, play(compiled.program)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal shapes and bytes (NaN equals itself, -0 does not equal 0)."""
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
