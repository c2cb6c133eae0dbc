"""GEMM schedules chosen from shapes, formats and the tile.

Rules, not search: each picks the largest piece that fits, because bytes are what a wrong choice costs most.
B is read once per block of A rows, so ``m_tile`` is as large as buffers A and ACC allow, then evened out over the
blocks; B pieces are cut so that at least `PIECES` of them fit and loads run ahead.
"""

from collections.abc import Callable, Iterator

from ..rtl.spec.config import TileConfig
from ..rtl.spec.errors import DoesNotFit
from ..rtl.spec.tensor_formats import TENSOR_FORMATS, TensorFormat
from .operands import k_unit
from .placement import align, places_fit
from .schedule import GemmSchedule

PLAIN = TENSOR_FORMATS["e4m3"]

PIECES = 4
"""Pieces of B that should fit in buffer B at once."""

GROUP_BYTES = 256
"""Aim for the bytes of FP32 results per row and epilogue: long enough bursts for the store port."""


def pieces(config: TileConfig, n_tiles: int, k_tile: int, b: TensorFormat) -> int:
    """B pieces that fit."""
    groups = n_tiles * -(-b.bytes_of(k_tile) // config.lanes)
    return config.b_banks // -(-groups // config.b_bank_groups)


def largest_chunk(config: TileConfig, k: int, name: str, a: TensorFormat, b: TensorFormat) -> int:
    """The largest chunk of k of which `PIECES` single-tile pieces fit (at least two must)."""
    unit = k_unit(config, a, b)
    for wanted in (PIECES, 3, 2):
        for chunks in range(1, k // unit + 1):
            size = align(-(-k // chunks), unit)
            if pieces(config, 1, size, b) >= wanted:
                return size
    raise DoesNotFit(f"{name}: buffer B of tile {config.name} does not hold two pieces of {unit} elements of k for "
                     f"{config.cols} columns")


def row_counts(config: TileConfig, m: int) -> Iterator[int]:
    """Rows of A that a block may have, most first: whole panels, then parts of one."""
    for panels in range(-(-m // config.rows), 0, -1):
        yield min(panels * config.rows, m)
    rows = config.rows // 2
    while rows:
        if rows < m:
            yield rows
        rows //= 2


def _even(config: TileConfig, m: int, rows: int) -> int:
    """At most ``rows`` rows, so that the blocks of ``m`` rows have about the same number."""
    even = -(-m // -(-m // rows))
    return min(m, align(even, config.rows)) if rows >= config.rows else even


def gemm_schedule(config: TileConfig, *, name: str, m: int, n: int, k: int, a: TensorFormat = PLAIN,
                  b: TensorFormat = PLAIN, group_tiles: int | None = None, acc_banks_used: int = 0,
                  extra_tiles: tuple[int, ...] = (), stage: bool = False, terms: int = 1) -> GemmSchedule:
    """A `GemmSchedule` for C (m, n); ``k`` counts elements and is rounded up to the formats' unit.

    group_tiles: fixed size of an epilogue group, else chosen.
    acc_banks_used: accumulator banks taken by others; extra_tiles: column tiles of ``m_tile`` rows of each region
    that the epilogue needs besides two groups; stage: results are quantized (to bytes) through buffer A;
    terms: of both operands (`gemm.py`), each of ``k`` elements.
    """
    k = align(k, k_unit(config, a, b))
    total_tiles = -(-n // config.cols)
    k_tile = largest_chunk(config, k, name, a, b)
    panel = align(a.bytes_of(terms * k), max(config.bus_bytes, config.a_word_bytes)) // config.lanes
    raw = k_tile < k or terms > 1
    groups = [group_tiles] if group_tiles else _group_sizes(config, total_tiles)

    def streamed() -> GemmSchedule:
        group = groups[-1]
        stage_panel = align(group * config.cols, config.a_word_bytes) // config.lanes if stage else 0
        return _streamed(config, name=name, m=m, k=k, a=a, b=b, group_tiles=group, total_tiles=total_tiles,
                         extra_tiles=extra_tiles, stage_panel=stage_panel, acc_banks_used=acc_banks_used, terms=terms)

    for rows in row_counts(config, m):
        panels = -(-rows // config.rows)
        for group in groups:
            stage_panel = align(group * config.cols, config.a_word_bytes) // config.lanes if stage else 0
            stage_banks = -(-panels * stage_panel // config.a_bank_groups)
            a_banks = -(-panels * panel // config.a_bank_groups)
            fits = _acc_fits(config, name, rows, group, raw, extra_tiles, acc_banks_used, -(-total_tiles // group))
            if a_banks + stage_banks <= config.a_banks and fits:
                found = GemmSchedule(m_tile=_even(config, m, rows), k_tile=k_tile,
                                     n_tiles=_n_tiles(config, k, k_tile, group, b), group_tiles=group,
                                     stage_banks=max(stage_banks, int(stage)))
                one_group = group_tiles is not None and group_tiles >= total_tiles
                return _taller(found, streamed) if one_group and found.m_tile < m else found
    return streamed()


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


def _n_tiles(config: TileConfig, k: int, k_tile: int, group_tiles: int, b: TensorFormat) -> int:
    """Column tiles per B piece: more than one when k is not cut and enough pieces still fit."""
    n_tiles = 1
    if k_tile == k:
        while group_tiles % (2 * n_tiles) == 0 and pieces(config, 2 * n_tiles, k, b) >= PIECES:
            n_tiles *= 2
    return n_tiles


def _acc_fits(config: TileConfig, name: str, rows: int, group_tiles: int, raw: bool, extra_tiles: tuple[int, ...],
              used: int, groups: int = 2) -> bool:
    def banks(tiles: int) -> int:
        return -(-tiles * rows // config.acc_bank_rows)

    if rows > config.stat_bank_rows * config.cols:
        return False
    result = min(2, groups) * banks(group_tiles)
    if raw and result > config.acc_plane_banks:
        return False
    extra = sum(banks(tiles) for tiles in extra_tiles)
    if result * (config.acc_planes if raw else 1) + extra + used > config.acc_banks:
        return False
    takes = [(group_tiles * rows, raw)] * min(2, groups) + [(tiles * rows, False) for tiles in extra_tiles]
    return places_fit(config, name, takes)


def _streamed(config: TileConfig, *, name: str, m: int, k: int, a: TensorFormat, b: TensorFormat, group_tiles: int,
              total_tiles: int, extra_tiles: tuple[int, ...], stage_panel: int, acc_banks_used: int,
              terms: int) -> GemmSchedule:
    """A is read again for every group of column tiles: the last resort, for k too long to keep a panel on chip."""
    for rows in row_counts(config, m):
        panels = -(-rows // config.rows)
        stage_banks = -(-panels * stage_panel // config.a_bank_groups)
        for k_tile in _chunk_sizes(k, k_unit(config, a, b)):
            chunk_banks = -(-terms * panels * (a.bytes_of(k_tile) // config.lanes) // config.a_bank_groups)
            fits = _acc_fits(config, name, rows, group_tiles, k_tile < k or terms > 1, extra_tiles, acc_banks_used,
                             -(-total_tiles // group_tiles))
            if fits and stage_banks + 2 * chunk_banks <= config.a_banks and pieces(config, 1, k_tile, b) >= 2:
                return GemmSchedule(m_tile=_even(config, m, rows), k_tile=k_tile, n_tiles=1, group_tiles=group_tiles,
                                    a_resident=False, k_outer=True, stage_banks=max(stage_banks, int(stage_panel > 0)))
    raise DoesNotFit(f"{name}: no tiling of m = {m}, n = {total_tiles * config.cols}, k = {k} with "
                     f"{min(group_tiles, total_tiles)} column tiles per epilogue fits tile {config.name}: buffer A "
                     f"has {config.a_banks * config.a_bank_groups} groups per slice, buffer B {config.b_banks} "
                     f"banks of {config.b_bank_groups}, the accumulator buffer {config.acc_banks} banks of "
                     f"{config.acc_bank_rows} rows")


def _chunk_sizes(k: int, unit: int) -> list[int]:
    sizes = {align(-(-k // chunks), unit) for chunks in range(1, k // unit + 1)}
    return sorted(sizes, reverse=True)
