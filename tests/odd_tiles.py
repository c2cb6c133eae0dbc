"""Small tiles that differ from the presets, and from each other, in every parameter."""

from __future__ import annotations

from tilescore.rtl.spec.config import TileConfig

ODD_TILES = {tile.name: tile for tile in (
    # Wider than high, three planes, bank depths that are no powers of two, small queues, two DMAs in flight, one DRAM
    # port for all.
    TileConfig(
        name="4x8x4", rows=4, cols=8, lanes=4, acc_bits=80, a_buffer_bytes=4 * 3 * 16 * 5, a_banks=3,
        b_buffer_bytes=8 * 2 * 16 * 6, b_banks=2, acc_banks=12, acc_bank_rows=11, stat_banks=3, stat_bank_rows=5,
        index_entries=24, imem_page=8, queue_depth=3, bus_bytes=16, dram_shared=True, dram_latency=7,
        dma_outstanding=2),
    # Higher than wide, a bus as narrow as a group, the smallest queues, one DMA in flight, the fastest
    # answers from a DRAM slower than its ports.
    TileConfig(
        name="8x4x8", rows=8, cols=4, lanes=8, a_buffer_bytes=8 * 2 * 8 * 9, a_banks=2, b_buffer_bytes=4 * 3 * 8 * 7,
        b_banks=3, acc_banks=6, acc_bank_rows=19, stat_banks=2, stat_bank_rows=3, index_entries=20, imem_page=16,
        queue_depth=2, bus_bytes=8, dram_bytes_per_cycle=5, dram_latency=1, dma_outstanding=1),
)}
