"""The self-test of a tile: one program that touches everything a tile has, whose results are known byte for byte.

It is what a board runs first: rows gathered into A, a MATMUL of every pair of formats and block scales that is built,
one in two parts with mask and row maximum, a VECTOR for every function, combination and quantizer, results scattered
and stored. The program depends on the tile alone; its data are a fixed sequence of numbers, and the results are those
of the `reference` level. Operands use all codes but NaN, so that few errors of the hardware can hide.

A layer of a model was rejected for this: it has one format, takes far longer, and most of its values are average ones.
"""

from dataclasses import dataclass
from math import lcm

import numpy as np

from ..rtl.spec.config import TileConfig
from ..rtl.spec.encoding import fp32_bits
from ..rtl.spec.formats import (
    BLOCK_ELEMENTS,
    E2M1,
    PAIRS,
    SCALE_NAMES,
    SCALE_PAIRS,
    FormatSpec,
    PairSpec,
    built_with,
    headroom,
)
from ..rtl.spec.isa import (
    Combine,
    Dest,
    Func,
    Gather,
    Load,
    Matmul,
    Quant,
    Reduce,
    Scale,
    ScaleLayout,
    Scatter,
    Source,
    Space,
    Store,
    Vector,
)
from ..rtl.spec.scale_layout import SCALE_BLOCKS
from ..rtl.spec.self_test import Expected, SelfTest
from ..rtl.spec.tensor_formats import QUANT_FORMATS, built_quantizers
from ..sim.legality.verifier import verify
from ..sim.program import Program, Segment
from ..sim.reference.run import run_reference
from ..sim.timing import time_program
from .builder import ProgramBuilder

_VECTOR_ROWS = 8
"""Rows of the VECTORs, at the most: every lane is used from the first row on."""

_LAYOUTS = {1: ScaleLayout.G1, 2: ScaleLayout.G2, 4: ScaleLayout.G4, 16: ScaleLayout.G16}


def self_test_program(config: TileConfig) -> Program:
    """The program for ``config``, verified; the same in every run and on every machine."""
    program = _Writer(config).program()
    verify(program)
    return program


def self_test(config: TileConfig) -> SelfTest:
    """The program as memory content, with what is in memory after it."""
    program = self_test_program(config)
    state, bus = run_reference(program), config.bus_bytes
    memory = program.initial_dram().tobytes()
    after = state.dram.tobytes()
    expected = tuple(Expected(region.name, region.addr, after[region.addr:-(-region.end // bus) * bus])
                     for region in program.outputs)
    return SelfTest(memory=memory, program_addr=program.program_addr, expected=expected, flags=int(state.status.value),
                    write_beats=time_program(program).events["dram_write_beats"])


@dataclass(frozen=True)
class _Product:
    """A MATMUL of one pair of formats and kind of block scale: ``steps`` k steps, blocks of ``block`` steps."""

    spec: PairSpec
    scale: Scale
    steps: int
    block: int

    @property
    def name(self) -> str:
        scale = f" with {SCALE_NAMES[self.scale]} scales" if self.scale != Scale.NONE else ""
        return f"{self.spec.a.name} x {self.spec.b.name}{scale}"


def _products(config: TileConfig) -> list[_Product]:
    """Every pair and scale that is built and whose blocks fit a bank of A and of B."""
    found, beat = [], max(1, config.bus_bytes // config.lanes)
    for scale in (Scale.NONE, *(scale for scale, name in SCALE_NAMES.items() if name in config.scales)):
        for spec in built_with(config.formats):
            if spec.pair not in SCALE_PAIRS.get(scale, tuple(PAIRS)):
                continue
            block = BLOCK_ELEMENTS[scale][0] // spec.products_per_step(config.lanes) if scale != Scale.NONE else 1
            unit = lcm(block, spec.b_steps)
            most = min(config.a_bank_groups, config.b_bank_groups * spec.b_steps)
            steps = min(max(unit, 2 * beat), most) // unit * unit
            if steps:
                found.append(_Product(spec, scale, steps, block))
    return found


class _Writer:
    """Writes the program. Bank 0 of ACC holds what a MATMUL or VECTOR gave, the last one what VECTORs read, the first
    statistics bank values per row or column."""

    def __init__(self, config: TileConfig) -> None:
        self.config, self.builder = config, ProgramBuilder(config)
        self._numbers = np.random.PCG64(2024)
        self.rows = min(config.rows, config.acc_bank_rows, config.index_entries)
        self.few = min(self.rows, _VECTOR_ROWS, config.cols * config.stat_bank_rows)
        if self.few > config.cols:
            self.few -= self.few % config.cols
        self.result, self.operand = config.acc_addr(0), config.acc_addr(config.acc_banks - 1)
        self.statistics = config.acc_addr(config.acc_banks)

    def program(self) -> Program:
        self._load_index()
        products = _products(self.config)
        for product in products:
            self._load_operands(product)
            if product is products[0]:
                self._in_parts(product)
            self._matmul(product)
            self._scatter(product.name, self.rows)
        self._vectors(products[-1])
        self._quantizers()
        return self.builder.finish()

    # Data ------------------------------------------------------------------------------------------

    def _bytes(self, count: int) -> np.ndarray:
        return self._numbers.random_raw(-(-count // 8)).astype("<u8").view(np.uint8)[:count]

    def _codes(self, element: FormatSpec, count: int) -> np.ndarray:
        """All codes but NaN and infinities."""
        codes = self._bytes(count).copy()
        if element.has_infinity:
            codes[(codes & 0x7C) == 0x7C] ^= 0x40
        elif element is not E2M1:
            codes[(codes & 0x7F) == 0x7F] ^= 0x01
        return codes

    def _scales(self, scale: Scale, count: int) -> np.ndarray:
        if scale == Scale.FP32:
            raw = self._bytes(count).view("<u4")
            return (raw >> 9 | np.uint32(0x3E800000) | (raw & np.uint32(1)) << 23).astype("<u4").view(np.uint8)
        codes = self._bytes(count).copy()
        if scale == Scale.E8M0:
            return codes & 0x0F
        codes[(codes & 0x7F) == 0x7F] ^= 0x01
        return codes

    def _rows(self, name: str, data: np.ndarray, rows: int) -> tuple[Segment, int]:
        """DRAM with ``rows`` rows of ``data`` at multiples of the bus, and their stride."""
        size = data.size // rows
        stride = -(-size // self.config.bus_bytes) * self.config.bus_bytes
        table = np.zeros((rows, stride), np.uint8)
        table[:, :size] = data.reshape(rows, size)
        return self.builder.dram(name, data=table), stride

    # Parts -----------------------------------------------------------------------------------------

    def _load_index(self) -> None:
        """The rows backwards, the first one staying in its place."""
        order = (-np.arange(self.rows) % self.rows).astype("<u4")
        size = -(-order.nbytes // self.config.bus_bytes) * self.config.bus_bytes
        segment = self.builder.dram("row numbers", size, order)
        self.builder.emit(Load(space=Space.INDEX, dram_addr=segment.addr, rows=1, row_bytes=order.nbytes), "index")

    def _load_operands(self, product: _Product) -> None:
        config = self.config
        for side, space, rows, element, groups, block in (
                ("A", Space.A, self.rows, product.spec.a, product.steps, product.block),
                ("B", Space.B, config.cols, product.spec.b, product.steps // product.spec.b_steps,
                 product.block // product.spec.b_steps)):
            size, name = groups * config.lanes, f"{side} of {product.name}"
            segment, stride = self._rows(name, self._codes(element, rows * size), rows)
            fields = {"space": space, "dram_addr": segment.addr, "row_stride": stride, "rows": rows, "row_bytes": size}
            if product.scale != Scale.NONE:
                layout = ScaleLayout.FP32 if product.scale == Scale.FP32 else _LAYOUTS[block]
                count = -(-groups // SCALE_BLOCKS[layout].groups) * SCALE_BLOCKS[layout].size
                scales, stride = self._rows(f"scales of {name}", self._scales(product.scale, rows * count), rows)
                fields |= {"scale": layout, "scale_addr": scales.addr, "scale_stride": stride}
            self.builder.emit(Gather(**fields) if space == Space.A else Load(**fields), name)

    def _fields(self, product: _Product, steps: int) -> dict:
        fields = {"k_steps": steps, "m_rows": self.rows, "n_tiles": 1, "acc_addr": self.result, "acc_pitch": self.rows,
                  "pair": product.spec.pair}
        if product.scale == Scale.NONE:
            return fields
        elements = product.block * product.spec.products_per_step(self.config.lanes)
        try:
            shift = headroom(product.spec.pair, product.scale, elements, steps // product.block, self.config.acc_bits)
        except ValueError:
            shift = 0
        return fields | {"scale": product.scale, "a_scaled": 1, "b_scaled": 1, "headroom": shift,
                         "block": product.block.bit_length() - 1}

    def _matmul(self, product: _Product) -> None:
        self.builder.emit(Matmul(**self._fields(product, product.steps)), product.name)

    def _in_parts(self, product: _Product) -> None:
        """Two MATMULs along k, with a causal mask of a window and the maximum of each row."""
        cols, b_steps = self.config.cols, product.spec.b_steps
        half = product.steps // 2 // b_steps * b_steps
        if half:
            self.builder.emit(Matmul(**self._fields(product, half), raw=1), "first part")
        fields = self._fields(product, product.steps - half) | {"merge": int(half > 0), "a_addr": half,
                                                                "b_addr": half // b_steps}
        maximum = self.rows <= cols * self.config.stat_bank_rows and (self.rows <= cols or self.rows % cols == 0)
        if maximum:
            fields |= {"rowmax": 1, "rowmax_init": 1, "rowmax_addr": self.statistics}
        window = {"mask_low": 1, "mask_low_step": 1, "mask_low_base": min(0, cols - self.rows)}  # a value is left
        self.builder.emit(Matmul(**fields, mask=1, mask_step=1, **window), "second part")
        self._scatter("masked", self.rows)
        if maximum:
            self._store_statistics("row maximum", self.rows)

    def _scatter(self, name: str, rows: int) -> None:
        """Rows of the result bank to their places in DRAM."""
        config, size = self.config, 4 * self.config.cols
        segment = self.builder.dram(name, self.rows * size)
        self.builder.emit(Scatter(space=Space.ACC, dram_addr=segment.addr, row_stride=size, rows=rows, row_bytes=size,
                                  addr=self.result, pitch=1), name)
        self.builder.output(name, segment.addr, (self.rows, config.cols), "float32")

    def _store_statistics(self, name: str, count: int) -> None:
        """``count`` values per row; they are all of a memory row, or fewer than one."""
        cols = self.config.cols
        rows, width = -(-count // cols), min(count, cols)
        segment = self.builder.dram(name, rows * 4 * cols)
        self.builder.emit(Store(space=Space.ACC, dram_addr=segment.addr, row_stride=4 * cols, rows=rows,
                                row_bytes=4 * width, addr=self.statistics, pitch=1), name)
        self.builder.output(name, segment.addr, (rows, width), "float32", row_stride=4 * cols)

    def _vectors(self, product: _Product) -> None:
        """Results of ``product``, made about 1, plus a value per column; then every function of them."""
        cols = self.config.cols
        bias = (self._bytes(4 * cols).view("<u4") & np.uint32(0x80FFFFFF)) | np.uint32(0x3E000000)
        segment = self.builder.dram("value per column", data=bias.astype("<u4"))
        self.builder.emit(Load(space=Space.ACC, dram_addr=segment.addr, row_stride=4 * cols, rows=1, row_bytes=4 * cols,
                               addr=self.statistics), "value per column")
        imm = {name: {f"{name}_kind": Source.IMM} for name in "yzw"}
        self._vector("scaled", dst_addr=self.operand, x_addr=self.result, y=fp32_bits(_to_one(product)),
                     combine=Combine.ADD, z_kind=Source.COLUMN, z=self.statistics)
        self._vector("exp2", func=Func.EXP2, combine=Combine.SUB, z=fp32_bits(0.5), reduce=Reduce.SUM)
        self._vector("product with the row's sum", y_kind=Source.ROW, y=self.statistics, x_swap=1)
        self._vector("reciprocal", func=Func.RECIPROCAL, combine=Combine.RSUB, z=fp32_bits(0.125), reduce=Reduce.MAX)
        self._vector("sigmoid", func=Func.SIGMOID, combine=Combine.MAX, z=fp32_bits(-2.0), reduce=Reduce.ABSMAX)
        self._vector("silu", func=Func.SILU, combine=Combine.ADD, z=fp32_bits(-0.25), **imm["w"])
        self._vector("rsqrt", func=Func.RSQRT, y_kind=Source.ACC, y=self.operand, combine=Combine.MAX,
                     z=fp32_bits(2.0**-10), w_kind=Source.ROW, w=self.statistics, x_swap=2)
        anchored = [quant for quant in built_quantizers(self.config) if QUANT_FORMATS[quant].anchored]
        for quant in anchored[:1]:
            self._vector("anchor", func=Func.ANCHOR, quant=quant)

    def _vector(self, name: str, **fields: int) -> None:
        """out = func(combine(x*y, z)) * w; what a field leaves open is 1. The results are scattered, or operands."""
        base = {"rows": self.few, "tiles": 1, "pitch": self.few, "x_addr": self.operand, "y": fp32_bits(1.0),
                "w": fp32_bits(1.0), "dest": Dest.ACC, "dst_addr": self.result, "dst_pitch": self.few}
        if fields.get("reduce"):
            base["reduce_addr"] = self.statistics
        merged = base | fields
        self.builder.emit(Vector(**merged), name)
        if merged["dst_addr"] == self.result:
            self._scatter(name, self.few)
        if fields.get("reduce"):
            self._store_statistics(f"{name}, by row", self.few)

    def _quantizers(self) -> None:
        config = self.config
        for quant in built_quantizers(config):
            form = QUANT_FORMATS[quant]
            tiles = max(1, form.block // config.cols)
            size, bus = form.bytes_of(tiles * config.cols), config.bus_bytes
            if size > config.a_bank_groups * config.lanes:
                continue
            name = f"codes of {form.name}"
            self.builder.emit(Vector(
                rows=self.few, tiles=tiles, pitch=0, x_addr=self.operand, y=fp32_bits(16.0), z=fp32_bits(1.0),
                w=fp32_bits(1.0), dest=Dest.A, quant=quant), name)
            stride = -(-size // bus) * bus
            segment = self.builder.dram(name, self.few * stride)
            fields = {"space": Space.A, "dram_addr": segment.addr, "row_stride": stride, "rows": self.few,
                      "row_bytes": size}
            self.builder.output(name, segment.addr, (self.few, size), "uint8", row_stride=stride)
            if form.block:
                layout, count = form.layout(config.lanes), form.scale_bytes_of(tiles * config.cols)
                width = -(-count // bus) * bus
                scales = self.builder.dram(f"scales of {name}", self.few * width)
                fields |= {"scale": layout, "scale_addr": scales.addr, "scale_stride": width}
                self.builder.output(f"scales of {name}", scales.addr, (self.few, count), "uint8", row_stride=width)
            self.builder.emit(Store(**fields), name)
            if quant == Quant.E4M3:
                self._store_part()

    def _store_part(self) -> None:
        """Bytes from the middle of a beat of A to the middle of a beat of DRAM."""
        bus, count = self.config.bus_bytes, 2
        segment = self.builder.dram("two codes", self.few * bus)
        self.builder.emit(Store(space=Space.A, dram_addr=segment.addr + 2, row_stride=bus, rows=self.few,
                                row_bytes=count, src_byte=1), "two codes")
        self.builder.output("two codes", segment.addr, (self.few, bus), "uint8")


def _to_one(product: _Product) -> float:
    """A power of two that makes results of ``product`` about 1."""
    largest = product.spec.max_product * product.steps * 2.0**product.spec.lsb_exponent
    return 2.0 ** (4 - int(np.ceil(np.log2(largest))))
