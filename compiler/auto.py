"""Schedules of layers chosen from shapes, formats and the tile: what `run` uses when the user gives none."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import lcm

from ..rtl.spec.config import TileConfig
from ..rtl.spec.errors import CompileError, DoesNotFit
from .attention.heads import rotated_head
from .attention.place import CorePlacement, check_block, key_unit
from .attention.problems import projection_problems
from .attention.project import rotary_buffers, stage_banks, value_buffers
from .auto_gemm import GROUP_BYTES, PIECES, first_that, gemm_schedule, has_pieces, largest_chunk, row_counts
from .emitter import VECTOR_TILES
from .gemm import GemmProblem
from .layers import Workload
from .moe.combine import combine_buffers
from .moe.experts import expert_buffers
from .moe.problems import expert_problems, operand_pitch, product_tiles, router_problem
from .moe.router import router_buffers
from .numerics import DEFAULT, Numerics
from .routing import Routing
from .schedule import AttentionSchedule, CoreSchedule, GemmSchedule, MoESchedule
from .tiles.buffers import Buffer, align, fits


def attention_schedule(workload: Workload, config: TileConfig, numerics: Numerics = DEFAULT) -> AttentionSchedule:
    """A schedule for an attention layer. Raises `CompileError` when no tiling fits."""
    layer, cols = workload.attention, config.cols
    problems = projection_problems(workload, config, numerics.formats)
    head_tiles = max(1, rotated_head(layer, config) // cols)
    group = lcm(head_tiles, max(1, config.bus_bytes // cols))

    def projection(name: str, purpose: str, buffers: Callable[[GemmSchedule], list[Buffer]],
                   group_tiles: int | None = None) -> GemmSchedule:
        staged = None if name == "out" else lambda rows, tiles: stage_banks(config, rows, tiles)
        return gemm_schedule(config, problems[name], purpose, buffers, group_tiles=group_tiles, stage=staged)

    q, k = (projection(name, f"projection {name}", lambda schedule, name=name: rotary_buffers(
        workload, config, problems[name], schedule), group) for name in ("q", "k"))
    v = projection("v", "projection v", lambda schedule: value_buffers(config, problems["v"], schedule))
    out = projection("out", "output projection", lambda schedule: problems["out"].buffers(schedule, config))
    return AttentionSchedule(q=q, k=k, v=v, core=core_schedule(workload, config, numerics), out=out)


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
    problem = router_problem(workload, config, numerics)
    router = gemm_schedule(config, problem, "router", lambda schedule: router_buffers(config, problem, schedule),
                           group_tiles=problem.n // config.cols)
    gate_up, down = _expert_schedules(workload, config, numerics, int(routing.counts.max()))
    combine_rows, combine_tiles = _combine_shape(workload, config)
    return MoESchedule(router=router, gate_up=gate_up, down=down, combine_rows=combine_rows,
                       combine_tiles=combine_tiles)


def _expert_schedules(workload: Workload, config: TileConfig, numerics: Numerics,
                      most: int) -> tuple[GemmSchedule, GemmSchedule]:
    """gate_up and down with the most rows for which blocks of tokens and products fit in A, two of each if
    possible."""
    moe, formats = workload.moe, numerics.formats
    gate_up, down = expert_problems(workload, config, numerics, most)
    k_tile, pair = largest_chunk(config, gate_up, "gate_up"), 2 * product_tiles(config, formats.activations)
    groups = [max(pair, min(align(2 * GROUP_BYTES // (4 * config.cols), pair), gate_up.n // config.cols))]
    while groups[-1] > pair:
        groups.append(max(pair, align(groups[-1] // 2, pair)))
    n_tiles = 2 if k_tile == gate_up.k and has_pieces(config, gate_up, "gate_up", 2, k_tile, PIECES) else 1

    def fitting(rows: int, copies: tuple[int, int]) -> tuple[GemmSchedule, GemmSchedule] | None:
        for group in groups:
            first = GemmSchedule(m_tile=rows, k_tile=k_tile, n_tiles=n_tiles, group_tiles=group, stage_banks=0)
            second = _down(config, replace(gate_up, m=rows), replace(down, m=rows), first, copies)
            if second is not None:
                return first, second
        return None

    for copies in ((2, 2), (2, 1), (1, 1)):
        rows = first_that(list(row_counts(config, most)), lambda rows, copies=copies: fitting(rows, copies) is not None)
        if rows is not None and (found := fitting(rows, copies)) is not None:
            return found
    x_panel, h_panel = operand_pitch(config, gate_up), operand_pitch(config, down)
    raise DoesNotFit(f"experts: no tiling of hidden = {moe.hidden}, intermediate = {moe.intermediate} fits tile "
                     f"{config.name}: a panel of tokens and one of products need {x_panel} and {h_panel} groups per "
                     f"slice of buffer A, in banks of {config.a_bank_groups}, it has "
                     f"{config.a_banks * config.a_bank_groups}; buffer B has {config.b_banks} banks of "
                     f"{config.b_bank_groups} groups for weights, the accumulator buffer {config.acc_banks} banks of "
                     f"{config.acc_bank_rows} rows for the results of both projections")


def _down(config: TileConfig, gate_up: GemmProblem, down: GemmProblem, schedule: GemmSchedule,
          copies: tuple[int, int]) -> GemmSchedule | None:
    """A down projection beside gate_up with ``schedule`` and so many blocks of tokens and products; None where there
    is none of as many rows at once."""
    def buffers(candidate: GemmSchedule) -> list[Buffer]:
        least = {"more gathered tokens": copies[0] - 1, "more expert products": copies[1] - 1}
        return [replace(buffer, least=least.get(buffer.name, buffer.least))
                for buffer in expert_buffers(config, gate_up, down, schedule, candidate)]

    try:
        found = gemm_schedule(config, down, "down", buffers)
    except DoesNotFit:
        return None
    return found if found.m_tile == schedule.m_tile and found.a_resident else None


def _combine_shape(workload: Workload, config: TileConfig) -> tuple[int, int]:
    """Tokens and column tiles per combine step: as many tokens as fit, then as many column tiles."""
    moe, beat = workload.moe, config.bus_bytes // 4

    def works(rows: int, tiles: int) -> bool:
        return fits(combine_buffers(workload, config, rows, tiles), config, "combine")

    counts = sorted({workload.rows, *range(1, min(workload.rows, config.index_entries) + 1)}, reverse=True)
    rows = first_that(counts, lambda rows: works(rows, 1))
    if rows is None:
        raise DoesNotFit(f"combine: index_entries = {config.index_entries} of tile {config.name} do not hold two "
                         f"lists of top_k = {moe.top_k} indices per token for a bus beat of {beat} tokens, or its "
                         f"accumulator buffer of {config.acc_banks} banks five regions")
    most = min(-(-moe.hidden // config.cols), VECTOR_TILES)
    tiles = first_that(range(most, 0, -1), lambda tiles: works(rows, tiles))
    assert tiles is not None
    return rows, tiles
