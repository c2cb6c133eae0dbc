"""GEMM schedules chosen from shapes, formats and the tile.

Rules, not search: each picks the largest piece that fits, because bytes are what a wrong choice costs most. What fits
is asked of the buffers that the kernel declares. B is read once per block of A rows, so ``m_tile`` is as large as
buffers A and ACC allow, then evened out over the blocks; B pieces are cut so that at least `PIECES` of them fit and
loads run ahead.
"""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from ..rtl.spec.config import TileConfig
from ..rtl.spec.errors import CompileError, DoesNotFit
from .candidates import first_that, row_counts
from .kernels.gemm import GemmProblem
from .operands import k_unit
from .schedule import GemmSchedule
from .tiles.buffers import Buffer, align, copies_that_fit, fits, why_not

PIECES = 4
"""Pieces of B that should fit in buffer B at once."""

GROUP_BYTES = 256
"""Aim for the bytes of FP32 results per row and epilogue: long enough bursts for the store port."""

T = TypeVar("T")

Buffers = Callable[[GemmSchedule], list[Buffer]]
"""What a kernel needs on chip with a schedule of its GEMM."""


def apart_or_packed(choose: Callable[[bool], T]) -> T:
    """``choose(False)``; ``choose(True)``, with packed buffers, where that raises `DoesNotFit`."""
    try:
        return choose(False)
    except DoesNotFit:
        return choose(True)


def has_pieces(config: TileConfig, problem: GemmProblem, n_tiles: int, k_tile: int, count: int,
               packed: bool = False) -> bool:
    """Do ``count`` pieces of B fit?"""
    cut = GemmSchedule(m_tile=1, k_tile=k_tile, n_tiles=n_tiles, group_tiles=n_tiles)
    piece = replace(problem.b_pieces(cut, config), most=count)
    return copies_that_fit(piece, config, packed) == count


def chunk_sizes(k: int, unit: int) -> list[int]:
    """Sizes of about equal chunks of ``k``, largest first."""
    return sorted({min(k, align(-(-k // chunks), unit)) for chunks in range(1, max(1, k // unit) + 1)}, reverse=True)


def largest_chunk(config: TileConfig, problem: GemmProblem, purpose: str, packed: bool = False) -> int:
    """The largest chunk of k of which `PIECES` single-tile pieces fit, or fewer, but two, or one if ``packed``."""
    unit = k_unit(config, problem.a, problem.b)
    sizes = chunk_sizes(problem.k, unit)
    for wanted in range(PIECES, 0 if packed else 1, -1):
        size = first_that(sizes, lambda size, wanted=wanted: has_pieces(config, problem, 1, size, wanted, packed))
        if size is not None:
            return size
    pieces = "a piece" if packed else "two pieces"
    raise DoesNotFit(f"{purpose}: buffer B of tile {config.name} does not hold {pieces} of {unit} elements of k for "
                     f"{config.cols} columns")


def _even(config: TileConfig, m: int, rows: int) -> int:
    """At most ``rows`` rows, so that the blocks of ``m`` rows have about the same number."""
    even = -(-m // -(-m // rows))
    return min(m, align(even, config.rows)) if rows >= config.rows else even


def gemm_schedule(config: TileConfig, problem: GemmProblem, purpose: str, buffers: Buffers, *,
                  group_tiles: int | None = None, stage: Callable[[int, int], int] | None = None,
                  by_bytes: bool = False, packed: bool = False) -> GemmSchedule:
    """A schedule with which ``buffers`` fit, apart or ``packed``. Raises `DoesNotFit` naming ``purpose``.

    group_tiles: fixed size of an epilogue group, else chosen. stage: banks of buffer A that one staging region for
    (rows, group_tiles) of quantized results takes; None where nothing is quantized. by_bytes: of A resident and A
    streamed the one that reads less, for k so long that few rows of A stay on chip; else A is resident where that fits.
    """
    try:
        return _gemm_schedule(config, problem, purpose, buffers, group_tiles, stage, by_bytes, packed,
                              largest_chunk(config, problem, purpose, packed))
    except DoesNotFit:
        if not packed or not has_pieces(config, problem, 1, problem.k, 1, packed):
            raise
        return _gemm_schedule(config, problem, purpose, buffers, group_tiles, stage, by_bytes, packed, problem.k)


def _gemm_schedule(config: TileConfig, problem: GemmProblem, purpose: str, buffers: Buffers, group_tiles: int | None,
                   stage: Callable[[int, int], int] | None, by_bytes: bool, packed: bool, k_tile: int) -> GemmSchedule:
    """With chunks of at most ``k_tile``: whole rows of k need no raw accumulators, which lie in several banks."""
    total_tiles = -(-problem.n // config.cols)
    groups = [group_tiles] if group_tiles else _group_sizes(config, total_tiles)

    def candidate(rows: int, group: int) -> GemmSchedule:
        return GemmSchedule(m_tile=rows, k_tile=k_tile, n_tiles=1, group_tiles=group,
                            stage_banks=stage(rows, group) if stage else 0)

    def fitting(rows: int) -> GemmSchedule | None:
        tried = (candidate(rows, group) for group in groups)
        return next((found for found in tried if fits(_whole_groups(buffers(found), problem, found), config, packed)),
                    None)

    def streamed(group: int = groups[-1]) -> GemmSchedule:
        return _streamed(config, problem, purpose, buffers, lambda rows, k_tile: replace(
            candidate(rows, group), k_tile=k_tile, a_resident=False, k_outer=True), packed)

    rows = first_that(list(row_counts(config, problem.m)), lambda rows: fitting(rows) is not None)
    if rows is None:
        return _least_bytes(config, problem, [], streamed, groups) if by_bytes else streamed()
    found = fitting(rows)
    assert found is not None
    found = replace(found, m_tile=_even(config, problem.m, rows),
                    n_tiles=_n_tiles(config, problem, k_tile, found.group_tiles, packed))
    if by_bytes and found.m_tile < problem.m:
        return _least_bytes(config, problem, [found], streamed, groups)
    one_group = group_tiles is not None and group_tiles >= total_tiles
    return _taller(found, streamed) if one_group and found.m_tile < problem.m else found


def _least_bytes(config: TileConfig, problem: GemmProblem, resident: list[GemmSchedule],
                 streamed: Callable[[int], GemmSchedule], groups: list[int]) -> GemmSchedule:
    """The schedule that reads least: A is read once, or once per group; B once per block of rows. resident: those of
    the first kind that fit. Raises `DoesNotFit` where none of any kind does."""
    def read_bytes(schedule: GemmSchedule) -> int:
        times = 1 if schedule.a_resident else -(-problem.n // (schedule.group_tiles * config.cols))
        return (times * problem.m * problem.a.bytes_of(problem.terms * problem.k)
                + -(-problem.m // schedule.m_tile) * problem.n * problem.b.bytes_of(problem.k))

    found = list(resident)
    for group in (groups[0] * 4, groups[0] * 2, *groups):
        with contextlib.suppress(DoesNotFit, CompileError):
            found.append(streamed(group))
    return min(found, key=read_bytes) if found else streamed(groups[-1])


def _whole_groups(buffers: list[Buffer], problem: GemmProblem, schedule: GemmSchedule) -> list[Buffer]:
    """With results of ``group_tiles`` tiles also where there are fewer: a choice that holds for more columns too."""
    size = schedule.group_tiles * problem.rows(schedule)
    name = f"{problem.name} result group"
    return [replace(buffer, sizes=(size,)) if buffer.name == name and buffer.sizes != (size,) else buffer
            for buffer in buffers]


def _taller(resident: GemmSchedule, streamed: Callable[[], GemmSchedule]) -> GemmSchedule:
    """The one with more rows at once: a single group reads A once either way, and streamed it leaves room for rows."""
    try:
        return max(resident, streamed(), key=lambda schedule: schedule.m_tile)
    except DoesNotFit:
        return resident


def _group_sizes(config: TileConfig, total_tiles: int) -> list[int]:
    """Column tiles per epilogue group, best first: long rows for the store port, then what fits."""
    step = max(config.bus_bytes // config.cols, 1)
    sizes = [min(align(max(GROUP_BYTES // (4 * config.cols), 1), step), align(total_tiles, step))]
    while sizes[-1] > step:
        sizes.append(max(step, align(sizes[-1] // 2, step)))
    return sizes


def _n_tiles(config: TileConfig, problem: GemmProblem, k_tile: int, group_tiles: int, packed: bool) -> int:
    """Column tiles per B piece: more than one when k is not cut and enough pieces still fit."""
    n_tiles = 1
    if k_tile == problem.k:
        while group_tiles % (2 * n_tiles) == 0 and has_pieces(config, problem, 2 * n_tiles, k_tile, PIECES, packed):
            n_tiles *= 2
    return n_tiles


def _streamed(config: TileConfig, problem: GemmProblem, purpose: str, buffers: Buffers,
              candidate: Callable[[int, int], GemmSchedule], packed: bool) -> GemmSchedule:
    """A is read again for every group of column tiles: the last resort, for k too long to keep a panel on chip. Two
    chunks of A and two pieces of B fit, so that loads and matmuls take turns; ``packed``, one will do."""
    def works(rows: int, k_tile: int) -> bool:
        schedule = candidate(rows, k_tile)
        declared = [buffer.at_least(max(buffer.least, 1 if packed else 2)) if buffer.name in operands else buffer
                    for buffer in _whole_groups(buffers(schedule), problem, schedule)]
        return fits(declared, config, packed)

    operands = (f"{problem.name} A block", f"{problem.name} B piece")
    sizes = chunk_sizes(problem.k, problem.k_unit(config, resident=False))
    rows = first_that(list(row_counts(config, problem.m)), lambda rows: works(rows, sizes[-1]) or works(rows, sizes[0]))
    if rows is not None:
        k_tile = next((size for size in sizes[:1] if works(rows, size)), None) or first_that(
            sizes[1:], lambda size: works(rows, size))
        assert k_tile is not None
        return replace(candidate(rows, k_tile), m_tile=_even(config, problem.m, rows))
    raise DoesNotFit(f"{purpose}: no tiling of m = {problem.m}, n = {-(-problem.n // config.cols) * config.cols}, k = "
                     f"{problem.k} with {candidate(1, sizes[-1]).group_tiles} column tiles per epilogue fits tile "
                     f"{config.name}: buffer A has {config.a_banks * config.a_bank_groups} groups per slice, buffer B "
                     f"{config.b_banks} banks of {config.b_bank_groups}, the accumulator buffer {config.acc_banks} "
                     f"banks of {config.acc_bank_rows} rows, stat_banks = {config.stat_banks}"
                     + why_not(buffers(candidate(1, sizes[-1])), config, purpose))
