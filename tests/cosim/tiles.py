"""Small tiles with buses of 32, 128 and 512 bits, and layers that take about a thousand cycles on them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from tilescore.compiler.compile import compile_layer
from tilescore.compiler.feed_forward import MoELayer
from tilescore.compiler.layers import AttentionLayer, Workload
from tilescore.rtl.spec.config import TileConfig, load_tile
from tilescore.sim.legality.verifier import verify
from tilescore.sim.program import Program

NANO = load_tile("nano")
NARROW = replace(NANO, name="narrow", lanes=4, bus_bytes=4)
WIDE = TileConfig(name="wide", rows=4, cols=16, lanes=4, a_buffer_bytes=8192, a_banks=8, b_buffer_bytes=16384,
                  b_banks=4, acc_banks=16, acc_bank_rows=16, stat_banks=8, stat_bank_rows=16, index_entries=128,
                  imem_page=32, bus_bytes=64, dram_latency=20, dma_outstanding=4)
TILES = {8 * tile.bus_bytes: tile for tile in (NARROW, NANO, WIDE)}

LAYERS = {
    "attention": Workload(layer=AttentionLayer(hidden=16, heads=1, kv_heads=1, head_dim=16), tokens=2),
    "moe": Workload(layer=MoELayer(hidden=16, experts=4, top_k=2, intermediate=16, norm_topk=True), tokens=2)}


@cache
def layer_program(tile: TileConfig, kind: str) -> Program:
    """A verified program; ``kind`` is of `LAYERS`."""
    workload = LAYERS[kind]
    if kind == "attention" and tile.cols > 8:  # half a head is a multiple of the columns
        workload = replace(workload, layer=replace(workload.attention, head_dim=2 * tile.cols))
    program = compile_layer(workload, tile, seed=1).program
    verify(program)
    return program
