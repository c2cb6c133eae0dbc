"""The block quantizer: rows of FP32 words to element codes and scale bytes in operand buffer A.

::

    words -> maximum over each block -> scale and divisor ------------+
      |                                                               v
      +---- wait for the scale ------------------------------> divide, round -> codes
                                      (two scales: both, then the smaller squared error)

One latency for every format that is built, and for casts without a scale too, so that results leave in the order in
which instructions came. Waiting data lies in memories (`delay_line`), control beside it.
"""

from typing import Any

from amaranth.hdl import Cat, Const, EnableInserter, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, Signature
from amaranth.utils import ceil_log2

from ..arith.quotient import QuotientQuantizer
from ..lib.cells import place
from ..matrix.operand_slice import slice_ports
from ..spec.config import TileConfig
from ..spec.formats import E2M1, ELEMENTS
from ..spec.isa import SPEC_BY_NAME, Quant, Scale
from ..spec.tensor_formats import QUANT_FORMATS, TensorFormat, block_quantizers
from .block_lane import BlockLane
from .block_latency import CHOICE_BLOCK, ERROR_LATENCY, BlockLatency, block_sizes, tile_bits
from .block_reduce import BlockReduction, segment_lanes
from .block_scale import BlockScale
from .delay_line import delay_line
from .error_grid import LATENCY as GRID_LATENCY
from .error_grid import LOWEST_UNIT, grid_level

LANE_KEY = "tilescore_block_lane"
"""Name of the lane's module in the Verilog."""


def block_request(config: TileConfig) -> data.StructLayout:
    """What comes with a row of words. to_a: codes are written; tile: `tile_bits`; the rest as in `operand_slice`."""
    bits = {field.name: field.bits for field in SPEC_BY_NAME["VECTOR"].fields}
    return data.StructLayout({
        "to_a": 1, "quant": bits["quant"], "scale_rule": bits["scale_rule"], "tile": tile_bits(config),
        "slice": ceil_log2(config.rows), "addr": config.a_addr_bits, "sub": ceil_log2(config.lanes)})


def vec_port(config: TileConfig) -> Signature:
    """The write port of operand buffer A, as seen from the vector unit."""
    return Signature({**slice_ports(config, "a")["vec"].members, "slice": Out(ceil_log2(config.rows))})


class BlockStage(wiring.Component):
    """Parameters: ``config`` with at least one block quantizer; ``z_lead``, cycles from ``z`` to the words of its row.

    Members
    -------
    words : In(32 * cols), valid : In(1), request : In(block_request(config))
        Results of the lanes, lane 0 lowest, and where they go.
    casts : In(8 * cols)
        Their codes without a scale, `QuantizeFp8.LATENCY` cycles later.
    z : In(32)
        Operand z of the row, ``z_lead`` cycles earlier.
    active : In(1)
        Rows are on their way here or inside; otherwise every register keeps what it has. 1 if nothing drives it.
    a_vec : `vec_port`
        The write, `BlockLatency.total` cycles after the words.
    """

    words: Signal
    valid: Signal
    request: data.View
    casts: Signal
    z: Signal
    active: Signal
    a_vec: Any

    def __init__(self, config: TileConfig, *, z_lead: int) -> None:
        self.config, self.z_lead = config, z_lead
        self.formats = block_quantizers(config)
        if not self.formats:
            raise ValueError(f"tile {config.name} has no block quantizer")
        self.quantizers = tuple(fmt.quant for fmt in self.formats)
        self.sizes = block_sizes(self.formats)
        self.segment = segment_lanes(config.cols, self.sizes)
        self.latency = BlockLatency(config)
        super().__init__({
            "words": In(32 * config.cols), "valid": In(1), "request": In(block_request(config)),
            "casts": In(8 * config.cols), "z": In(32),
            "active": In(1, init=1),  # pyright: ignore[reportCallIssue]
            "a_vec": Out(vec_port(config)),
        })

    def elaborate(self, platform: object) -> Module:
        m = Module()
        latency, config = self.latency, self.config
        at_amax = self._later(m, self.request, latency.amax, "amax")
        at_divisor = self._later(m, at_amax, latency.divisor - latency.amax, "divisor")
        at_write = self._later(m, at_divisor, latency.total - latency.divisor, "write")
        valid = Signal(latency.total)
        m.d.sync += valid.eq(Cat(self.valid, valid))

        amax = self._amax(m)
        scales = self._scales(m, amax, at_amax)
        lanes = [place(m, f"lane{c}", self._lane, LANE_KEY, platform) for c in range(config.cols)]
        for c, lane in enumerate(lanes):
            scale = scales[c // self.segment]
            m.d.comb += [
                lane.active.eq(self.active),
                lane.value.eq(self.words.word_select(c, 32)),
                lane.cast.eq(self.casts.word_select(c, 8)),
                lane.divisor.eq(scale.divisor),
                lane.divisor4.eq(scale.divisor4),
                lane.nan.eq(scale.nan),
                lane.blocked.eq(self._one_of(at_write.quant, self.quantizers)),
            ]
            m.d.comb += self._element(m, lane.element, at_divisor.quant)
        four = self._choice(m, lanes, scales, amax, at_divisor, at_write) if latency.choice is not None else None
        self._write(m, valid[-1], at_write, lanes, self._stored(m, scales, four))
        return EnableInserter(self.active)(m)  # pyright: ignore[reportReturnType]

    def _lane(self) -> BlockLane:
        elements = [spec for spec in ELEMENTS if any(fmt.element == spec for fmt in self.formats)]
        return BlockLane(elements=elements, wait=self.latency.divisor, choice=self.latency.choice)

    @staticmethod
    def _later(m: Module, record: data.View, cycles: int, name: str) -> data.View:
        return data.View(record.shape(), delay_line(m, record.as_value(), cycles, name=f"request_{name}"))

    @staticmethod
    def _one_of(quant: Value, kinds: tuple[Quant, ...]) -> Value:
        return Cat(quant == kind for kind in kinds).any()

    def _element(self, m: Module, target: Value, quant: Value) -> list:
        return [target.eq(Cat(
            Cat(quant == fmt.quant for fmt in self.formats if ELEMENTS.index(fmt.element) >> bit & 1).any()
            for bit in range(len(target))))]

    # Scales ---------------------------------------------------------------------------------------------

    def _amax(self, m: Module) -> data.View:
        """Largest magnitude of each segment's block."""
        m.submodules.amax = amax = BlockReduction(self.config.cols, self.sizes)
        m.d.comb += amax.values.eq(Cat(self.words.word_select(c, 32)[:31] for c in range(self.config.cols)))
        with m.Switch(self.request.quant):
            for fmt in self.formats:
                with m.Case(fmt.quant):
                    m.d.comb += [
                        amax.size.eq(self.sizes.index(fmt.block)), amax.first.eq(self._first(self.request.tile, fmt)),
                    ]
        return amax.results

    def _first(self, tile: Value, fmt: TensorFormat) -> Value:
        """Whether the tile is the first one of a block."""
        return ~tile[:ceil_log2(max(1, fmt.block // self.config.cols))].any()

    def _scales(self, m: Module, amax: data.View, request: data.View) -> list[BlockScale]:
        z = delay_line(m, self.z, self.z_lead + self.latency.amax, name="z_delay")
        scales = []
        for segment in range(self.config.cols // self.segment):
            m.submodules[f"scale{segment}"] = scale = BlockScale(self.quantizers)
            m.d.comb += [
                scale.amax.eq(amax[segment]), scale.z.eq(z), scale.quant.eq(request.quant),
                scale.rule.eq(request.scale_rule),
            ]
            scales.append(scale)
        return scales

    def _stored(self, m: Module, scales: list[BlockScale], four: list[Value] | None) -> list[Value]:
        """Scale bytes of each segment, with the codes."""
        wait = self.latency.total - self.latency.divisor
        stored = []
        for segment, scale in enumerate(scales):
            word = delay_line(m, scale.scale, wait, name=f"stored{segment}")
            if four is not None:
                other = delay_line(m, scale.scale4[:8], wait, name=f"stored4_{segment}")
                word = Mux(four[segment], other, word)
            stored.append(word)
        return stored

    def _choice(self, m: Module, lanes: list, scales: list[BlockScale], amax: data.View, at_divisor: data.View,
                at_write: data.View) -> list[Value]:
        """For each segment, whether the block's squared error is smaller with the scale for a maximum of 4."""
        cols, wait = self.config.cols, QuotientQuantizer.LATENCY - GRID_LATENCY
        totals = []
        tile = delay_line(m, at_divisor.tile, ERROR_LATENCY, name="choice_tile")
        nvfp4 = QUANT_FORMATS[Quant.NVFP4_46]
        for name, error in (("six", "error"), ("four", "error4")):
            m.submodules[f"error_{name}"] = total = BlockReduction(cols, (CHOICE_BLOCK,), total=True)
            m.d.comb += [
                total.values.eq(Cat(Cat(getattr(lane, error), Const(0, 3)) for lane in lanes)),
                total.first.eq(self._first(tile, nvfp4)),
            ]
            totals.append(total.results)
        four = []
        for segment, scale in enumerate(scales):
            field = delay_line(m, amax[segment][23:], self.latency.divisor - self.latency.amax, name=f"unit{segment}")
            unit = Signal(8, name=f"unit_{segment}")
            m.d.comb += unit.eq(Mux(field < LOWEST_UNIT, LOWEST_UNIT, field))
            levels = [delay_line(m, grid_level(m, divisor, unit, name=f"level{name}_{segment}"), wait,
                                 name=f"level{name}_delay{segment}")
                      for name, divisor in (("6", scale.divisor), ("4", scale.divisor4))]
            for lane in lanes[segment * self.segment:(segment + 1) * self.segment]:
                m.d.comb += [lane.unit.eq(unit), lane.level.eq(levels[0]), lane.level4.eq(levels[1])]
            better = Signal(name=f"four_better_{segment}", reset_less=True)
            m.d.sync += better.eq(totals[1][segment] < totals[0][segment])
            four.append(better & (at_write.quant == Quant.NVFP4_46))
        for c, lane in enumerate(lanes):
            m.d.comb += lane.four.eq(four[c // self.segment])
        return four

    # Writes ---------------------------------------------------------------------------------------------

    def _write(self, m: Module, valid: Value, request: data.View, lanes: list, stored: list[Value]) -> None:
        """Codes of E2M1 fill one half of the bytes that the port writes, the lower one with even tiles."""
        cols, port = self.config.cols, self.a_vec
        packed = self._one_of(request.quant, tuple(f.quant for f in self.formats if f.element == E2M1))
        nibbles = Cat(lane.code[:4] for lane in lanes)
        half = (1 << cols // 2) - 1
        m.d.comb += [
            port.valid.eq(valid & request.to_a),
            port.slice.eq(request.slice),
            port.addr.eq(request.addr),
            port.sub.eq(request.sub),
            port.data.eq(Mux(packed, Cat(nibbles, nibbles), Cat(lane.code for lane in lanes))),
            port.mask.eq(Mux(packed, Mux(request.tile[0], half << cols // 2, half), (1 << cols) - 1)),
        ]
        for slot in range(len(port.scale_mask)):
            self._write_scale(m, slot, request, stored)

    def _write_scale(self, m: Module, slot: int, request: data.View, stored: list[Value]) -> None:
        """The scale byte of group ``slot`` of the port, if the tile holds that group's first byte.

        A block's first group has its scale byte; of FP32 scales, the first four groups have one byte each.
        """
        port = self.a_vec
        byte, enable = port.scales.word_select(slot, 8), port.scale_mask[slot]
        for fmt in self.formats:
            starts, group, lane = self._group(slot, request.tile, packed=fmt.element == E2M1)
            within = group[:ceil_log2(fmt.block_groups)]
            word = stored[lane // self.segment]
            with m.If(request.quant == fmt.quant):
                if fmt.scale == Scale.FP32:
                    m.d.comb += [enable.eq(starts & (within < 4)), byte.eq(word.word_select(within[:2], 8))]
                else:
                    m.d.comb += [enable.eq(starts & ~within.any()), byte.eq(word[:8])]

    def _group(self, slot: int, tile: Value, *, packed: bool) -> tuple[Value, Value, int]:
        """Of a group of the port: whether it begins in this tile, its number in the row (low bits), its first lane."""
        tile_bytes, lanes = (self.config.cols // 2 if packed else self.config.cols), self.config.lanes
        if tile_bytes < lanes:  # several tiles per group
            part = ceil_log2(lanes // tile_bytes)
            return ~tile[:part].any(), Cat(tile[part:], Const(0, 4)), 0
        groups = tile_bytes // lanes
        in_tile = slot % groups
        starts = tile[0] == slot // groups if packed else Const(1, 1)
        return starts, (tile * groups + in_tile)[:8], in_tile * lanes * (2 if packed else 1)
