"""Schedules of layers chosen from shapes, formats and the tile: what `run` uses when the user gives none."""

from itertools import product

from ..rtl.config import TileConfig
from ..rtl.errors import CompileError, DoesNotFit
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
    head_tiles = max(1, layer.head_dim // cols)
    half = max(1, head_tiles // 2)
    if layer.head_dim > cols:
        group = align(head_tiles, max(1, config.bus_bytes // cols))
    else:
        group = max(1, config.bus_bytes // cols)
    # Cosines, sines and a temporary, each of half a head (or one tile), lie in banks of their own.
    rotary = {"group_tiles": group, "extra_tiles": (half,) * 3, "stage": True, "a": x, "b": weights}
    q = gemm_schedule(config, name="projection q", m=workload.rows, n=layer.q_width, k=hidden, **rotary)
    k = gemm_schedule(config, name="projection k", m=workload.rows, n=layer.kv_width, k=hidden, **rotary)
    v = gemm_schedule(config, name="projection v", m=layer.kv_width, n=workload.rows, k=hidden, a=wv, b=x,
                      stage=True)
    out = gemm_schedule(config, name="output projection", m=workload.rows, n=layer.hidden, a=x,
                        b=weights, k=layer.heads * align(layer.head_dim, config.bus_bytes))
    return AttentionSchedule(q=q, k=k, v=v, core=core_schedule(workload, config), out=out)


def core_schedule(workload: Workload, config: TileConfig) -> CoreSchedule:
    """Sub-tiles as tall, blocks as long and as many sub-tiles per pass as fit, in this order of preference."""
    layer, cols = workload.attention, config.cols
    unit = max(config.bus_bytes, cols, config.lanes)
    most_rows = layer.group if workload.tokens == 1 else workload.tokens
    tallest = min(align(most_rows, config.rows), 8 * config.rows)
    longest = min(align(workload.keys, unit), max(unit, 16 * config.rows))
    best = None
    rows = tallest
    while rows >= config.rows or best is None:
        keys = longest
        while keys >= unit:
            tiles = _core_tiles(workload, config, rows, keys)
            if tiles:
                # Work that one load of keys serves, then the length of a block (fewer merges).
                merit = (min(rows * tiles, 16 * config.rows), keys * rows, -tiles)
                if best is None or merit > best[0]:
                    best = (merit, CoreSchedule(q_rows=rows, kv_cols=keys, q_tiles=tiles))
            keys = align(keys // 2, unit) if keys > unit else 0
        if rows <= 1:
            break
        rows //= 2
    if best is None:
        raise DoesNotFit(f"attention core: no tiling of head_dim = {layer.head_dim} with {unit} keys per block fits "
                         f"tile {config.name}: buffer A of {config.a_banks} banks of {config.a_bank_groups} groups, "
                         f"buffer B of {config.b_banks} banks of {config.b_bank_groups} (two blocks of keys and "
                         f"values), accumulator buffer of {config.acc_banks} banks of {config.acc_bank_rows} rows, "
                         f"{config.stat_banks} statistics banks of {config.stat_bank_rows} (8 are used)")
    return best[1]


def _core_tiles(workload: Workload, config: TileConfig, rows: int, keys: int) -> int:
    """Sub-tiles per pass that fit, at most 8, 0 when not even one does."""
    layer = workload.attention
    head_tiles, head_bytes = -(-layer.head_dim // config.cols), align(layer.head_dim, config.bus_bytes)

    def acc(tiles: int) -> int:
        return -(-tiles * rows // config.acc_bank_rows)

    def a_banks(panels: int, row_bytes: int) -> int:
        pitch = align(row_bytes, config.a_word_bytes) // config.lanes
        return -(-panels * pitch // config.a_bank_groups)

    def b_banks(groups: int) -> int:
        return -(-groups // config.b_bank_groups)

    panels = -(-rows // config.rows)
    k_banks = b_banks(keys // config.cols * (head_bytes // config.lanes))
    if 2 * (k_banks + b_banks(head_tiles * (keys // config.lanes))) > config.b_banks or config.stat_banks < 8:
        return 0
    fixed = 2 * acc(keys // config.cols) + 2 * acc(head_tiles)
    fixed_a = 2 * a_banks(panels, keys) + 2 * a_banks(panels, head_tiles * config.cols)
    words = -(-rows // config.cols)
    most = max(1, -(-workload.tokens // rows) * layer.group) if workload.tokens > 1 else -(-layer.group // rows)
    for tiles in range(min(8, most), 0, -1):
        q_pitch = align(head_bytes, config.a_word_bytes) // config.lanes
        q_banks = 2 * -(-tiles * panels * q_pitch // config.a_bank_groups)
        if (fixed + tiles * acc(head_tiles) <= config.acc_banks and fixed_a + q_banks <= config.a_banks
                and max(2, tiles) * words <= config.stat_bank_rows):
            return tiles
    return 0


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
