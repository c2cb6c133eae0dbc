"""Schedules of layers chosen from shapes, formats and the tile: what `run` uses when the user gives none."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from math import lcm

from ..rtl.spec.config import TileConfig
from ..rtl.spec.errors import CompileError, DoesNotFit
from .attention.heads import mixed_head, rotated_head
from .attention.place import CorePlacement, check_block, key_unit
from .auto_gemm import GROUP_BYTES, PIECES, gemm_schedule, largest_chunk, pieces, row_counts
from .emitter import VECTOR_TILES
from .formats import LayerFormat, value_weights
from .layers import MoELayer, Workload
from .moe.inputs import padded_width, product_tiles
from .numerics import DEFAULT, Numerics
from .operands import padded_k
from .placement import align, places_fit
from .routing import Routing
from .schedule import AttentionSchedule, CoreSchedule, GemmSchedule, MoESchedule


def attention_schedule(workload: Workload, config: TileConfig, numerics: Numerics = DEFAULT) -> AttentionSchedule:
    """A schedule for an attention layer. Raises `CompileError` when no tiling fits."""
    layer, cols, formats = workload.attention, config.cols, numerics.formats
    x, weights, wv = formats.activations, formats.weights, value_weights(formats)
    hidden = padded_k(layer.hidden, config, x, weights, wv)
    rotated = rotated_head(layer, config)
    head_tiles = max(1, rotated // cols)
    half = max(1, head_tiles // 2)
    group = lcm(head_tiles, max(1, config.bus_bytes // cols))
    # Cosines, sines and a temporary, each of half a head (or one tile), lie in banks of their own.
    rotary = {"group_tiles": group, "extra_tiles": (half,) * 3, "stage": True, "a": x, "b": weights}
    q = gemm_schedule(config, name="projection q", m=workload.rows, n=layer.heads * rotated, k=hidden, **rotary)
    k = gemm_schedule(config, name="projection k", m=workload.rows, n=layer.kv_heads * rotated, k=hidden, **rotary)
    v = gemm_schedule(config, name="projection v", m=layer.kv_width, n=workload.rows, k=hidden, a=wv, b=x,
                      stage=True)
    out = gemm_schedule(config, name="output projection", m=workload.rows, n=layer.hidden, a=x,
                        b=weights, k=layer.heads * mixed_head(layer.head_dim, config.bus_bytes, formats))
    return AttentionSchedule(q=q, k=k, v=v, core=core_schedule(workload, config, numerics),
                             out=out)


def core_schedule(workload: Workload, config: TileConfig, numerics: Numerics = DEFAULT) -> CoreSchedule:
    """The cut of the core that fits best. Raises `CompileError`, with the largest softmax block that would fit."""
    check_block(workload, config, numerics)
    if (best := _best_core(workload, config, numerics)) is not None:
        return best
    layer, unit, block = workload.attention, key_unit(config), numerics.softmax_block
    smaller = range((min(block, align(workload.keys, unit)) - 1) // unit * unit, 0, -unit)
    fits = next((keys for keys in smaller if _best_core(workload, config, replace(numerics, softmax_block=keys))), None)
    raise DoesNotFit(f"attention core: no tiling of head_dim = {layer.head_dim} with softmax blocks of {block} "
                     f"keys (--softmax-block) fits tile {config.name}; the largest that does: {fits or 'none'}; "
                       f"buffer A of {config.a_banks} banks of {config.a_bank_groups} groups, buffer B of "
                       f"{config.b_banks} banks of {config.b_bank_groups}, accumulator buffer of {config.acc_banks} "
                       f"banks of {config.acc_bank_rows} rows, {config.stat_banks} statistics banks of "
                       f"{config.stat_bank_rows} (8 are used)")


def _best_core(workload: Workload, config: TileConfig, numerics: Numerics) -> CoreSchedule | None:
    """In this order of preference: enough work per load of keys to hide it, both copies of what array and vector unit
    take turns on, more work per load, few and long pieces, few loads."""
    layer, unit = workload.attention, key_unit(config)
    one_token = workload.tokens == 1
    most_rows = layer.group if one_token else workload.tokens
    hidden_load, enough = config.macs_per_cycle // config.bus_bytes, 16 * config.rows
    best = None
    for rows in _halves(min(align(most_rows, config.rows), 8 * config.rows), 1):
        most = -(-layer.group // rows) if one_token else -(-workload.tokens // rows) * layer.group
        for kv_tile in _halves(align(min(numerics.softmax_block, workload.keys), unit), unit):
            for tiles in range(min(8, most), 0, -1):
                schedule, work = CoreSchedule(q_rows=rows, kv_tile=kv_tile, q_tiles=tiles), rows * tiles

                def merit(copies: int, work: int = work, size: int = kv_tile * rows, tiles: int = tiles) -> tuple:
                    return min(work, hidden_load), copies, min(work, enough), size, tiles

                if best is not None and merit(2) <= best[0]:
                    continue
                try:
                    found = merit(CorePlacement(config, workload, schedule, numerics).copies)
                except CompileError:
                    continue
                if best is None or found > best[0]:
                    best = (found, schedule)
    return best[1] if best else None


def _halves(most: int, unit: int) -> Iterator[int]:
    """``most``, then about half of the one before, in multiples of ``unit``."""
    while most > unit:
        yield most
        most = align(most // 2, unit)
    yield unit


def moe_schedule(workload: Workload, routing: Routing, config: TileConfig, numerics: Numerics = DEFAULT) -> MoESchedule:
    """A schedule for an MoE layer. Raises `CompileError` when no tiling fits."""
    moe, cols, formats = workload.moe, config.cols, numerics.formats
    hidden = padded_k(moe.hidden, config, formats.activations, formats.weights)
    width = padded_width(moe.intermediate, config, numerics)
    most = int(routing.counts.max())
    router_tiles = -(-moe.experts // cols)
    router = gemm_schedule(config, name="router", m=workload.rows, n=router_tiles * cols, k=moe.hidden,
                           group_tiles=router_tiles, extra_tiles=(router_tiles,), terms=numerics.router_terms)
    gate_up = _expert_gemm(config, formats, moe, most, hidden, width)
    down = _down(config, formats, gate_up, moe, hidden, width)
    combine_rows, combine_tiles = _combine_shape(workload, config)
    return MoESchedule(router=router, gate_up=gate_up, down=down, combine_rows=combine_rows,
                       combine_tiles=combine_tiles)


def _expert_acc(config: TileConfig, gate_up: GemmSchedule, hidden: int) -> int:
    """Accumulator banks of the gate and up groups, the gated values and the combine weights."""
    def banks(tiles: int) -> int:
        return -(-tiles * gate_up.m_tile // config.acc_bank_rows)

    planes = config.acc_planes if gate_up.k_tile < hidden else 1
    return 2 * planes * banks(gate_up.group_tiles) + banks(gate_up.group_tiles) + banks(1)


def _expert_gemm(config: TileConfig, formats: LayerFormat, moe: MoELayer, most: int, hidden: int,
                 width: int) -> GemmSchedule:
    """gate_up with the most rows for which blocks of tokens and products fit in A, two of each if possible, and down
    fits too."""
    x, weights = formats.activations, formats.weights
    x_panel, h_panel = (align(x.bytes_of(size), config.a_word_bytes) // config.lanes for size in (hidden, width))
    k_tile = largest_chunk(config, hidden, "gate_up", x, weights)
    pair = 2 * product_tiles(config, x)
    groups = [max(pair, min(align(2 * GROUP_BYTES // (4 * config.cols), pair), 2 * width // config.cols))]
    while groups[-1] > pair:
        groups.append(max(pair, align(groups[-1] // 2, pair)))
    for (x_copies, h_copies), rows in product(((2, 2), (2, 1), (1, 1)), row_counts(config, most)):
        panels = -(-rows // config.rows)
        a_banks = (x_copies * -(-panels * x_panel // config.a_bank_groups)
                   + h_copies * -(-panels * h_panel // config.a_bank_groups))
        entries = align(rows, config.bus_bytes // 4)
        if a_banks > config.a_banks or rows > config.stat_bank_rows * config.cols or 2 * entries > config.index_entries:
            continue
        for group in groups:
            n_tiles = 2 if k_tile == hidden and pieces(config, 2, k_tile, weights) >= PIECES else 1
            schedule = GemmSchedule(m_tile=rows, k_tile=k_tile, n_tiles=n_tiles, group_tiles=group, stage_banks=0)
            if _down_fits(config, formats, schedule, moe, hidden, width):
                return schedule
    raise DoesNotFit(f"experts: no tiling of hidden = {moe.hidden}, intermediate = {moe.intermediate} fits tile "
                     f"{config.name}: a panel of tokens and one of products need {x_panel} and {h_panel} groups per "
                     f"slice of buffer A, in banks of {config.a_bank_groups}, it has "
                     f"{config.a_banks * config.a_bank_groups}; buffer B has {config.b_banks} banks of "
                     f"{config.b_bank_groups} groups for weights, the accumulator buffer {config.acc_banks} banks of "
                     f"{config.acc_bank_rows} rows for the results of both projections")


def _down_fits(config: TileConfig, formats: LayerFormat, gate_up: GemmSchedule, moe: MoELayer, hidden: int,
               width: int) -> bool:
    """Is there a down projection beside ``gate_up``, with the results of both in the accumulator buffer?"""
    try:
        down = _down(config, formats, gate_up, moe, hidden, width)
    except CompileError:
        return False
    if down.m_tile != gate_up.m_tile or not down.a_resident:
        return False
    takes = []
    for gemm, k, n in ((gate_up, hidden, 2 * width), (down, width, moe.hidden)):
        tiles = -(-n // config.cols)
        size = min(gemm.group_tiles, tiles) * gemm.m_tile
        takes += [(size, gemm.k_tile < k)] * min(2, -(-tiles // gemm.group_tiles))
    gated = min(gate_up.group_tiles, 2 * width // config.cols) * gate_up.m_tile
    return places_fit(config, "experts", [*takes, (gated, False), (gate_up.m_tile, False)])


def _down(config: TileConfig, formats: LayerFormat, gate_up: GemmSchedule, moe: MoELayer, hidden: int,
          width: int) -> GemmSchedule:
    return gemm_schedule(config, name="down", m=gate_up.m_tile, n=moe.hidden, k=width, a=formats.activations,
                         b=formats.weights,
                         acc_banks_used=_expert_acc(config, gate_up, hidden))


def _combine_shape(workload: Workload, config: TileConfig) -> tuple[int, int]:
    """Tokens and column tiles per combine step: five regions in ACC, two index lists."""
    moe = workload.moe
    per_token = 2 * moe.top_k
    rows = min(workload.rows, config.index_entries // per_token // (config.bus_bytes // 4) * (config.bus_bytes // 4))
    if rows < 1:
        raise DoesNotFit(f"combine: index_entries = {config.index_entries} of tile {config.name} do not hold two "
                         f"lists of top_k = {moe.top_k} indices per token for a bus beat of tokens")
    banks = config.acc_banks // 5
    rows = min(rows, banks * config.acc_bank_rows)
    tiles = max(1, banks * config.acc_bank_rows // rows)
    return rows, min(tiles, -(-moe.hidden // config.cols), VECTOR_TILES)
