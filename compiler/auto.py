"""Schedules of kernels chosen from shapes, formats and the tile: what `run` uses when the user gives none.

Those of a single GEMM are in `auto_gemm.py`.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from ..rtl.spec.config import TileConfig
from ..rtl.spec.errors import CompileError, DoesNotFit
from .auto_gemm import GROUP_BYTES, PIECES, apart_or_packed, gemm_schedule, has_pieces, largest_chunk
from .candidates import first_that, row_counts
from .emitter import VECTOR_TILES
from .kernels.flash_place import FlashPlacement, FlashProblem, key_unit
from .kernels.gather_add import GatherAdd
from .kernels.gemm import GemmProblem
from .kernels.grouped import grouped_buffers, operand_pitch, pair_tiles, product_tiles
from .schedule import FlashSchedule, GatherAddSchedule, GemmSchedule
from .tiles.buffers import Buffer, align, fits, why_not


def flash_schedule(problem: FlashProblem, config: TileConfig) -> FlashSchedule:
    """The cut that fits best. Raises `CompileError`, with the largest softmax block that would fit."""
    problem.check(config)
    if (best := _best_flash(problem, config) or _best_flash(problem, config, packed=True)) is not None:
        return best
    unit, block = key_unit(config), problem.block
    smaller = range((min(block, align(problem.keys, unit)) - 1) // unit * unit, 0, -unit)
    found = next((keys for keys in smaller if _best_flash(replace(problem, block=keys), config, packed=True)), None)
    raise DoesNotFit(f"{problem.name}: no tiling of head_dim = {problem.width} with softmax blocks of {block} "
                     f"keys (--softmax-block) fits tile {config.name}; the largest that does: {found or 'none'}; "
                     f"buffer A of {config.a_banks} banks of {config.a_bank_groups} groups, buffer B of "
                     f"{config.b_banks} banks of {config.b_bank_groups}, accumulator buffer of {config.acc_banks} "
                     f"banks of {config.acc_bank_rows} rows, {config.stat_banks} statistics banks of "
                     f"{config.stat_bank_rows}" + _why_not_flash(problem, config))


def _why_not_flash(problem: FlashProblem, config: TileConfig) -> str:
    """As `why_not`, for the smallest schedule."""
    try:
        FlashPlacement(config, problem, FlashSchedule(q_rows=1, kv_tile=key_unit(config), q_tiles=1))
    except CompileError as error:
        return f"; {str(error).removeprefix(f'{problem.name}: ')}"
    return ""


def _best_flash(problem: FlashProblem, config: TileConfig, packed: bool = False) -> FlashSchedule | None:
    """In this order of preference: enough work per load of keys to hide it, both copies of what array and vector unit
    take turns on, more work per load, few and long pieces, few loads."""
    unit = key_unit(config)
    hidden_load, enough = int(config.macs_per_cycle / config.dram_rate), 16 * config.rows
    best = None
    for rows in _halves(min(align(problem.rows, config.rows), 8 * config.rows), 1):
        most = -(-problem.rows // rows) * problem.heads
        for kv_tile in _halves(align(min(problem.block, problem.keys), unit), unit):
            for tiles in range(min(8, most), 0, -1):
                schedule, work = FlashSchedule(q_rows=rows, kv_tile=kv_tile, q_tiles=tiles), rows * tiles

                def merit(copies: int, work: int = work, size: int = kv_tile * rows, tiles: int = tiles) -> tuple:
                    return min(work, hidden_load), copies, min(work, enough), size, tiles

                if best is not None and merit(2) <= best[0]:
                    continue
                try:
                    found = merit(FlashPlacement(config, problem, schedule, packed).copies)
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


def grouped_schedules(config: TileConfig, gate_up: GemmProblem,
                      down: GemmProblem) -> tuple[GemmSchedule, GemmSchedule]:
    """gate_up and down with the most rows for which blocks of tokens and products fit in A, two of each if possible;
    else with one or both of them streamed."""
    choices = [*((lambda packed=packed: _grouped(config, gate_up, down, packed)) for packed in (False, True)),
               *((lambda packed=packed, kept=kept: _grouped_streamed(config, gate_up, down, packed, *kept))
                 for packed, kept in product((False, True), ((False, True), (True, False), (False, False))))]
    for choice in choices[:-1]:
        with contextlib.suppress(DoesNotFit):
            return choice()
    return choices[-1]()


def _grouped_streamed(config: TileConfig, gate_up: GemmProblem, down: GemmProblem, packed: bool, keep_tokens: bool,
                      keep_products: bool) -> tuple[GemmSchedule, GemmSchedule]:
    """The most rows with which chunks of what is not kept in A fit, then the largest groups and chunks."""
    pair = pair_tiles(config, gate_up.a, keep_products)
    groups = [pair << power for power in range(2, -1, -1) if pair << power <= VECTOR_TILES]
    chunks = [[size for size in _halves(problem.k, problem.k_unit(config, kept))
               if has_pieces(config, problem, 1, min(size, problem.k), 1 if packed else 2, packed)]
              for problem, kept in ((gate_up, keep_tokens), (down, keep_products))]

    def fitting(rows: int) -> tuple[GemmSchedule, GemmSchedule] | None:
        for group, first_k, second_k in product(groups, *chunks):
            first = GemmSchedule(m_tile=rows, k_tile=first_k, n_tiles=1, group_tiles=group, stage_banks=0,
                                 a_resident=keep_tokens, k_outer=not keep_tokens)
            second = GemmSchedule(m_tile=rows, k_tile=second_k, n_tiles=1, group_tiles=max(1, group // 2),
                                  stage_banks=0, a_resident=keep_products, k_outer=not keep_products)
            if fits(grouped_buffers(config, gate_up, down, first, second), config, packed):
                return first, second
        return None

    rows = first_that(list(row_counts(config, gate_up.m)), lambda rows: fitting(rows) is not None)
    if rows is not None and (found := fitting(rows)) is not None:
        return found
    smallest = [GemmSchedule(m_tile=1, k_tile=problem.k_unit(config, kept), n_tiles=1, stage_banks=0, group_tiles=size,
                             a_resident=kept, k_outer=not kept)
                for problem, kept, size in ((gate_up, keep_tokens, pair), (down, keep_products, 1))]
    raise DoesNotFit(_no_experts(config, gate_up, down)
                     + why_not(grouped_buffers(config, gate_up, down, *smallest), config, "experts"))


def _grouped(config: TileConfig, gate_up: GemmProblem, down: GemmProblem,
             packed: bool) -> tuple[GemmSchedule, GemmSchedule]:
    k_tile, pair = largest_chunk(config, gate_up, "gate_up", packed), 2 * product_tiles(config, gate_up.a)
    groups = [max(pair, min(align(2 * GROUP_BYTES // (4 * config.cols), pair), gate_up.n // config.cols))]
    while groups[-1] > pair:
        groups.append(max(pair, align(groups[-1] // 2, pair)))
    n_tiles = 2 if k_tile == gate_up.k and has_pieces(config, gate_up, 2, k_tile, PIECES, packed) else 1

    def fitting(rows: int, copies: tuple[int, int]) -> tuple[GemmSchedule, GemmSchedule] | None:
        for group in groups:
            first = GemmSchedule(m_tile=rows, k_tile=k_tile, n_tiles=n_tiles, group_tiles=group, stage_banks=0)
            second = _down(config, replace(gate_up, m=rows), replace(down, m=rows), first, copies, packed)
            if second is not None:
                return first, second
        return None

    for copies in ((2, 2), (2, 1), (1, 1)):
        rows = first_that(list(row_counts(config, gate_up.m)),
                          lambda rows, copies=copies: fitting(rows, copies) is not None)
        if rows is not None and (found := fitting(rows, copies)) is not None:
            return found
    raise DoesNotFit(_no_experts(config, gate_up, down))


def _no_experts(config: TileConfig, gate_up: GemmProblem, down: GemmProblem) -> str:
    x_panel, h_panel = operand_pitch(config, gate_up), operand_pitch(config, down)
    return (f"experts: no tiling of hidden = {gate_up.layer_k}, intermediate = {down.layer_k} fits tile "
            f"{config.name}: a panel of tokens and one of products need {x_panel} and {h_panel} groups per "
            f"slice of buffer A, in banks of {config.a_bank_groups}, it has "
            f"{config.a_banks * config.a_bank_groups}; buffer B has {config.b_banks} banks of "
            f"{config.b_bank_groups} groups for weights, the accumulator buffer {config.acc_banks} banks of "
            f"{config.acc_bank_rows} rows for the results of both projections")


def _down(config: TileConfig, gate_up: GemmProblem, down: GemmProblem, schedule: GemmSchedule,
          copies: tuple[int, int], packed: bool) -> GemmSchedule | None:
    """A down projection beside gate_up with ``schedule`` and so many blocks of tokens and products; None where there
    is none of as many rows at once."""
    def buffers(candidate: GemmSchedule) -> list[Buffer]:
        least = {"more gathered tokens": copies[0] - 1, "more expert products": copies[1] - 1}
        return [buffer.at_least(least.get(buffer.name, buffer.least))
                for buffer in grouped_buffers(config, gate_up, down, schedule, candidate)]

    try:
        found = gemm_schedule(config, down, "down", buffers, packed=packed)
    except DoesNotFit:
        return None
    return found if found.m_tile == schedule.m_tile and found.a_resident else None


def gather_add_schedule(kernel: GatherAdd, config: TileConfig) -> GatherAddSchedule:
    """As many rows per step as fit, then as many column tiles."""
    return apart_or_packed(lambda packed: _gather_add(kernel, config, packed))


def _gather_add(kernel: GatherAdd, config: TileConfig, packed: bool) -> GatherAddSchedule:
    def works(rows: int, tiles: int) -> bool:
        return fits(kernel.buffers(config, GatherAddSchedule(m_tile=rows, n_tiles=tiles)), config, packed)

    counts = sorted({kernel.rows, *range(1, min(kernel.rows, config.index_entries) + 1)}, reverse=True)
    whole = [rows for rows in counts if kernel.terms_at_once(config, GatherAddSchedule(m_tile=rows, n_tiles=1)) > 1]
    rows = first_that(whole, lambda rows: works(rows, 1)) or first_that(counts, lambda rows: works(rows, 1))
    if rows is None:
        raise DoesNotFit(f"{kernel.name}: no tiling fits tile {config.name}" + why_not(
            kernel.buffers(config, GatherAddSchedule(m_tile=1, n_tiles=1)), config, kernel.name))
    most = min(-(-kernel.columns // config.cols), VECTOR_TILES)
    tiles = first_that(range(most, 0, -1), lambda tiles: works(rows, tiles))
    assert tiles is not None
    return GatherAddSchedule(m_tile=rows, n_tiles=tiles)
