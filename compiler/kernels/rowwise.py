"""The rowwise kernel: FP32 rows from DRAM, added, normalized, and written back as FP32 values and as codes.

Each block of rows goes through up to four steps: load the rows; add ``scale`` times those of a second matrix, and store
the sum; normalize, for which the squares of whole rows are needed first, and before them, for a LayerNorm, their sums;
write what comes out to every target. A block whose rows do not fit the accumulator buffer goes through them in pieces
of columns, twice, or three times.

A row sum of the vector unit is exact on a grid of 2**-24 and holds up to 2**23. Values and squares are scaled so that
`SUM_BLOCK` of them add up to 2**22 if all have the largest magnitude. Sums of blocks are added in FP32, block by block,
so that no schedule and no tile changes a bit. A variance is that of the differences from the mean, not the difference
of two means, which loses all digits where the mean is large.

Codes as sums of E4M3 terms (`logits.py`) need the value of a code that was just made. The vector unit writes codes
and cannot read them, so the array multiplies them by an identity matrix; the difference is exact in FP32.

Matrices have ``columns`` columns, with zeros behind those of the layer: whole column tiles, blocks and bus beats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import cycle

import numpy as np

from ...rtl.spec.errors import CompileError
from ...rtl.spec.isa import Reduce, ScaleRule, Space
from ..builder import ProgramBuilder
from ..dram import Matrix
from ..emitter import VECTOR_TILES, Emitter
from ..formats import matmul_mode
from ..operands import Operand, place_operand
from ..quantize import StoredTensor
from ..schedule import RowwiseSchedule
from ..tiles.expr import Assign, Codes, Col, Elem, Expr, Imm, Reduction, Row, Shape, rsqrt
from .rowwise_place import (
    IDENTITY_CODE,
    SUM_BLOCK,
    TERM,
    CodesTarget,
    NormRows,
    RowwiseProblem,
    identity_width,
)


def place_identity(builder: ProgramBuilder) -> Operand:
    """The identity matrix in DRAM."""
    width = identity_width(builder.config)
    codes = np.eye(width, dtype=np.uint8) * np.uint8(IDENTITY_CODE)
    return place_operand(builder, "identity", width, width, TERM,
                         lambda: StoredTensor(codes, np.zeros((width, 0), np.uint8)))


class Rowwise:
    """One kernel on one tile.

    inputs: the rows, and those that are added to them times ``scale``; their sum is stored in ``total``. norm: None to
    leave the rows as they are. floats, codes: where the result goes. identity: where a target has terms.
    """

    def __init__(self, emitter: Emitter, problem: RowwiseProblem, schedule: RowwiseSchedule, *,
                 inputs: Sequence[Matrix], scale: float = 1.0, total: Matrix | None = None,
                 norm: NormRows | None = None, floats: Matrix | None = None, codes: Sequence[CodesTarget] = (),
                 identity: Operand | None = None, scale_rule: ScaleRule = ScaleRule.FLOOR):
        config, name = emitter.config, problem.name
        tiles, unit = problem.tiles(config), problem.unit(config)
        if schedule.n_tiles < tiles and schedule.n_tiles % unit:
            raise CompileError(f"{name}: n_tiles must be a multiple of {unit}, column tiles of {SUM_BLOCK} squares, or "
                               f"at least {tiles}, got {schedule.n_tiles}")
        self.emitter, self.config, self.problem, self.name = emitter, config, problem, name
        self.inputs, self.scale, self.total, self.norm = inputs, scale, total, norm
        self.floats, self.codes, self.identity, self.scale_rule = floats, codes, identity, scale_rule
        self.rows, self.step = problem.block(schedule), min(schedule.n_tiles, tiles)
        self.pitch = problem.pitch(schedule, config)
        self.tiles = tiles
        self.place = problem.place(schedule, config)
        self.turns = {key: cycle(addresses) for key, addresses in self.place.items()}
        self._ones: int | None = None

    @property
    def resident(self) -> bool:
        """Are whole rows on chip?"""
        return self.step == self.tiles

    def emit(self) -> None:
        """All blocks of rows."""
        if self.problem.terms > 1:
            self._load_identity()
        if self.norm is not None and self.resident:
            self._load_vectors(0, self.tiles)
        pieces = [(first, min(self.step, self.tiles - first)) for first in range(0, self.tiles, self.step)]
        for m0 in range(0, self.problem.rows, self.rows):
            block = _Block(self, m0, min(self.rows, self.problem.rows - m0))
            if self.norm is None:
                for first, tiles in pieces:
                    block.write(block.fetch(first, tiles), first, tiles)
                continue
            found = [block.fetch(first, tiles) for first, tiles in pieces]
            if self.centered:
                block.finish_mean()
                found = [block.again(x, first, tiles) for x, (first, tiles) in zip(found, pieces, strict=True)]
            block.finish_norm()
            for x, (first, tiles) in zip(found, pieces, strict=True):
                block.write(x if self.resident else block.again(x, first, tiles, squares=False), first, tiles)

    def next(self, key: str) -> int:
        """Address of the next copy of a buffer."""
        return next(self.turns[key])

    def spans(self, tiles: int) -> Iterator[tuple[int, int]]:
        """(first, number) of column tiles of every VECTOR over ``tiles``."""
        unit = self.problem.unit(self.config)
        step = max(unit, VECTOR_TILES // unit * unit)
        for first in range(0, tiles, step):
            yield first, min(step, tiles - first)

    @property
    def centered(self) -> bool:
        """Is the mean subtracted?"""
        return self.problem.norm is not None and self.problem.norm.centered

    def _vectors(self) -> dict[str, Matrix]:
        """Vectors of the norm that a piece is written with, by their buffers."""
        norm = self.norm
        assert norm is not None
        return {"norm weights": norm.weights} | ({"norm bias": norm.bias} if norm.bias is not None else {})

    def _load_vector(self, key: str, source: Matrix, first: int, tiles: int) -> int:
        addr = self.next(key)
        self.emitter.load_rows(source, first_row=0, rows=1, addr=addr, pitch=self.pitch,
                               first_byte=4 * first * self.config.cols, row_bytes=4 * tiles * self.config.cols,
                               label=f"{self.name} {key.removeprefix('norm ')}")
        return addr

    def _load_vectors(self, first: int, tiles: int) -> dict[str, int]:
        return {key: self._load_vector(key, source, first, tiles) for key, source in self._vectors().items()}

    def vectors(self, first: int, tiles: int) -> dict[str, int]:
        """Addresses of the vectors of a piece."""
        if self.resident:
            return {key: self.place[key][0] for key in self._vectors()}
        return self._load_vectors(first, tiles)

    def ones(self, first: int, tiles: int) -> int | None:
        """Address of the ones of a piece that has columns behind the features; None for another."""
        if self.norm is None or self.norm.ones is None or (first + tiles) * self.config.cols <= self.norm.features:
            return None
        if not self.resident or self._ones is None:
            self._ones = self._load_vector("ones for features", self.norm.ones, first, tiles)
        return self._ones

    def _load_identity(self) -> None:
        assert self.identity is not None
        (addr,), width = self.place["identity matrix"], self.identity.k
        self.emitter.load_piece(Space.B, self.identity, first_row=0, rows=width, addr=addr,
                                pitch=width // self.config.lanes, label="identity")


def _gain(power: int) -> float:
    """Of values of magnitude up to 1, whose powers are summed."""
    return 2.0 ** ((22 - (SUM_BLOCK - 1).bit_length()) // power)


class _Block:
    """``rows`` rows from row ``m0`` on."""

    def __init__(self, kernel: Rowwise, m0: int, rows: int):
        self.kernel, self.emitter, self.config, self.m0, self.rows = kernel, kernel.emitter, kernel.config, m0, rows
        self.norm, self._first = kernel.norm, True
        self._sums: list[int] = []
        if self.norm is not None:
            self.total, self.rstd = kernel.next("sums of rows"), kernel.next("norms")
            self.amax = self.norm.amax * (2 if kernel.centered else 1)  # of what is squared
        if kernel.centered:
            self.mean = kernel.next("means")

    def shape(self, tiles: int) -> Shape:
        return Shape(rows=self.rows, tiles=tiles, pitch=self.kernel.pitch)

    def _at(self, addr: int, tile: int) -> int:
        return addr + tile * self.kernel.pitch

    def _load(self, source: Matrix, key: str, first: int, tiles: int) -> int:
        addr, cols = self.kernel.next(key), self.config.cols
        self.emitter.load_rows(source, first_row=self.m0, rows=self.rows, addr=addr, pitch=self.kernel.pitch,
                               first_byte=4 * first * cols, row_bytes=4 * tiles * cols,
                               label=f"{self.kernel.name} load {key}")
        return addr

    def _store(self, target: Matrix, addr: int, first: int, tiles: int) -> None:
        cols = self.config.cols
        self.emitter.store_acc(target, first_row=self.m0, rows=self.rows, first_byte=4 * first * cols,
                               row_bytes=4 * tiles * cols, addr=addr, pitch=self.kernel.pitch,
                               label=f"{self.kernel.name} store")

    def fetch(self, first: int, tiles: int) -> int:
        """Load a piece, add, store the sum, take its squares, or its sums for a mean; its address."""
        kernel, x = self.kernel, self._load(self.kernel.inputs[0], "rows", first, tiles)
        if len(kernel.inputs) == 2:
            addend = self._load(kernel.inputs[1], "addends", first, tiles)
            for tile, count in kernel.spans(tiles):
                own = Elem(self._at(x, tile))
                self.emitter.compute(self.shape(count), Assign(
                    to=own, value=Elem(self._at(addend, tile), "y") * kernel.scale + own, label="add"))
            assert kernel.total is not None
            self._store(kernel.total, x, first, tiles)
        if self.norm is not None and kernel.centered:
            self._add_rows(x, tiles, lambda own: own, _gain(1) / self.norm.amax, "sum")
        elif self.norm is not None:
            self._add_squares(x, tiles)
        return x

    def again(self, x: int, first: int, tiles: int, *, squares: bool = True) -> int:
        """A piece that `fetch` has brought before to ``x``, where it may be still; less the mean of a row where that is
        subtracted, and, for the first time, with its squares taken."""
        kernel = self.kernel
        if not kernel.resident:
            x = self._load(kernel.total or kernel.inputs[0], "rows", first, tiles)
        if kernel.centered:
            ones = kernel.ones(first, tiles)
            for tile, count in kernel.spans(tiles):
                own = Elem(self._at(x, tile))
                value = own - Row(self.mean, "mean")
                self.emitter.compute(self.shape(count), Assign(
                    to=own, value=value if ones is None else value * Col(self._at(ones, tile), "ones"), label="center"))
            if squares:
                self._add_squares(x, tiles)
        return x

    def finish_mean(self) -> None:
        """The mean of every row."""
        norm = self.norm
        assert norm is not None
        while self._sums:
            self._add_sum()
        self.emitter.compute(self._words, Assign(to=Elem(self.mean), value=Elem(self.total), label="mean",
                                                 scale=norm.amax / _gain(1) / norm.features))
        self._first = True

    @property
    def _words(self) -> Shape:
        return Shape(rows=-(-self.rows // self.config.cols))

    def _add_squares(self, x: int, tiles: int) -> None:
        self._add_rows(x, tiles, lambda own: own * own, (_gain(2) / self.amax) ** 2, "sum of squares")

    def _add_rows(self, x: int, tiles: int, value: Callable[[Elem], Expr], scale: float, label: str) -> None:
        """Sums of a piece's rows."""
        kernel = self.kernel
        unit = kernel.problem.unit(self.config)
        for tile in range(0, tiles, unit):
            sums = self.total if self._first else kernel.next("row sums")
            self.emitter.compute(self.shape(min(unit, tiles - tile)), Assign(
                value=value(Elem(self._at(x, tile))), scale=scale, reduce=Reduction(Reduce.SUM, sums), label=label))
            if not self._first:
                self._sums.append(sums)
            self._first = False
            if len(self._sums) == len(kernel.place["row sums"]):
                self._add_sum()

    def _add_sum(self) -> None:
        """The oldest sum that is left, into that of all: late, since a row sum takes its time."""
        total = Elem(self.total)
        self.emitter.compute(self._words, Assign(to=total, value=total + Elem(self._sums.pop(0)), label="sum of all"))

    @property
    def _folded(self) -> float:
        """What the norm multiplies by beside 1 / rms: the inverse factor of codes that it makes at once."""
        apart = self._in_place or (self.norm is not None and self.norm.bias is not None)
        return 1.0 if apart or self.kernel.codes[0].format.scaled else 1 / self.kernel.codes[0].factor

    @property
    def _in_place(self) -> bool:
        """Is the normalized row needed in FP32, since it goes to several places?"""
        kernel = self.kernel
        return kernel.floats is not None or len(kernel.codes) != 1 or kernel.codes[0].terms > 0

    def finish_norm(self) -> None:
        """1 / rms of every row."""
        norm = self.norm
        assert norm is not None
        while self._sums:
            self._add_sum()
        mean = (self.amax / _gain(2)) ** 2 / norm.features
        self.emitter.compute(self._words, Assign(to=Elem(self.rstd), value=rsqrt(Elem(self.total) * mean + norm.eps),
                                                 scale=self._folded, label="1 / rms"))

    def write(self, x: int, first: int, tiles: int) -> None:
        """A piece, normalized where that is wanted, to every target."""
        kernel, normed = self.kernel, self.norm is not None
        vectors = kernel.vectors(first, tiles) if normed else {}
        bias = vectors.get("norm bias")

        def scaled(tile: int) -> Expr:
            return Elem(self._at(x, tile)) * Row(self.rstd, "1/rms")

        def value(tile: int) -> Expr:
            weight = Col(self._at(vectors["norm weights"], tile), "weight")
            if bias is None:
                return scaled(tile) * weight
            return Elem(self._at(x, tile)) * weight + Col(self._at(bias, tile), "bias")

        if bias is not None:
            self._in_place_of(x, tiles, scaled)
        if normed and not self._in_place:
            code = kernel.codes[0]
            self._quantize(code, value, first, tiles,
                           scale=None if bias is None or code.format.scaled else 1 / code.factor)
            return
        if normed:
            self._in_place_of(x, tiles, value)
        if kernel.floats is not None:
            self._store(kernel.floats, x, first, tiles)
        for target in kernel.codes:
            if target.terms:
                self._split(target, x, first, tiles)
            else:
                self._quantize(target, lambda tile: Elem(self._at(x, tile)), first, tiles,
                               scale=None if target.format.scaled else 1 / target.factor)

    def _in_place_of(self, x: int, tiles: int, value: Callable[[int], Expr]) -> None:
        """``value(tile)`` of every column tile of a piece in its place."""
        for tile, count in self.kernel.spans(tiles):
            self.emitter.compute(self.shape(count), Assign(to=Elem(self._at(x, tile)), value=value(tile),
                                                           label="normalize"))

    def _quantize(self, target: CodesTarget, value: Callable[[int], Expr], first: int, tiles: int,
                  scale: float | None) -> None:
        """Codes of ``value(tile) * scale`` from every column tile on."""
        stage = self._codes(target, value, tiles, scale)
        for to in (target.to, *target.also):
            self._store_codes(to, stage, first * self.config.cols, tiles, to.k)

    def _codes(self, target: CodesTarget, value: Callable[[int], Expr], tiles: int, scale: float | None) -> int:
        kernel, tensor_format = self.kernel, target.format
        stage = kernel.next(f"staged {tensor_format.name} codes")
        for tile, count in kernel.spans(tiles):
            codes = Codes(addr=stage + tensor_format.bytes_of(tile * self.config.cols) // self.config.lanes,
                          pitch=kernel.problem.stage_pitch(self.config, tensor_format, kernel.step),
                          quant=tensor_format.quant, scale_rule=kernel.scale_rule,
                          relative_to=Imm(target.factor) if tensor_format.scaled else None)
            self.emitter.compute(self.shape(count), Assign(to=codes, value=value(tile), scale=scale, label="quantize"))
        return stage

    def _store_codes(self, to: Operand, stage: int, k0: int, tiles: int, most: int) -> None:
        """Staged codes of ``tiles`` column tiles to elements ``k0`` on below ``most``, a chunk of block scales at a
        time."""
        kernel, tensor_format = self.kernel, to.format
        pitch = kernel.problem.stage_pitch(self.config, tensor_format, kernel.step)
        end = min(k0 + tiles * self.config.cols, most)
        chunk = to.scales.chunk if to.scales is not None else end
        start = k0
        while start < end:
            stop = min(end, (start // chunk + 1) * chunk)
            part = to if to.scales is None else replace(to, scales=replace(
                to.scales, addr=to.scales.at(0, start) - tensor_format.scale_bytes_of(start // chunk * chunk)))
            self.emitter.store_operand(part, first_row=self.m0, rows=self.rows, k0=start, size=stop - start,
                                       addr=stage + tensor_format.bytes_of(start - k0) // self.config.lanes,
                                       pitch=pitch, label=f"{kernel.name} store codes")
            start = stop

    def _split(self, target: CodesTarget, x: int, first: int, tiles: int) -> None:
        """The terms of a piece, each the E4M3 rounding of what those before it left."""
        kernel, k = self.kernel, target.to.k // target.terms
        rest, scale = x, 1 / target.factor
        for term in range(target.terms):
            own, factor = rest, scale if rest == x else None
            stage = self._codes(target, lambda tile, own=own: Elem(self._at(own, tile)), tiles, factor)
            last = term + 1 == target.terms
            if not last:  # before the store: the next term waits for it
                self._decode(stage, kernel.place["decoded terms"][0], tiles)
            self._store_codes(target.to, stage, term * k + first * self.config.cols, tiles, (term + 1) * k)
            if last:
                return
            decoded, left = kernel.place["decoded terms"][0], kernel.place["what terms leave"][0]
            for tile, count in kernel.spans(tiles):
                value = Elem(self._at(rest, tile))
                self.emitter.compute(self.shape(count), Assign(
                    to=Elem(self._at(left, tile)), label="what terms leave",
                    value=(value * scale if rest == x else value) - Elem(self._at(decoded, tile), "term")))
            rest = left

    def _decode(self, stage: int, to: int, tiles: int) -> None:
        """Values of staged E4M3 codes, by an identity matrix."""
        kernel, config = self.kernel, self.config
        (identity,), width = kernel.place["identity matrix"], identity_width(config)
        mode = matmul_mode(TERM, TERM, width, config, kernel.name)
        for tile in range(0, tiles, width // config.cols):
            columns = min(width, (tiles - tile) * config.cols)  # of fewer, the corner of the matrix
            self.emitter.matmul(
                label="decode terms", a_addr=stage + tile * config.cols // config.lanes, b_addr=identity,
                a_pitch=kernel.problem.stage_pitch(config, TERM, kernel.step), b_pitch=width // config.lanes,
                k_steps=columns // mode.k_per_step, m_rows=self.rows, n_tiles=columns // config.cols,
                acc_addr=self._at(to, tile), acc_pitch=kernel.pitch, **mode.fields)
