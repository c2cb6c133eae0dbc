"""What the tests of the matrix unit share: a numpy model of MATMUL, random programs, and a cycle-by-cycle driver."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
from amaranth.sim import Simulator

from tilescore.rtl import plan
from tilescore.rtl.matrix.unit import MatrixUnit
from tilescore.rtl.spec.array_formats import block_uses, built_pairs, built_scales
from tilescore.rtl.spec.config import TileConfig, load_tile
from tilescore.rtl.spec.formats import FP32_INF, headroom
from tilescore.rtl.spec.isa import Matmul, Scale
from tilescore.sim.numerics import arithmetic
from tilescore.sim.numerics.accumulators import drain_fp32
from tilescore.sim.reference.matmul_terms import TermFormat, matmul_terms

NANO = load_tile("nano")

TALL = replace(
    NANO, name="tall", rows=8, cols=4, lanes=4, bus_bytes=8, a_buffer_bytes=4096, a_banks=2, b_buffer_bytes=2048,
    b_banks=4, acc_banks=8, acc_bank_rows=24, stat_banks=2, stat_bank_rows=8)
"""More rows than columns, banks whose depth is no power of two, one group per row of codes."""

WIDE = replace(
    NANO, name="wide", rows=4, cols=8, lanes=2, bus_bytes=4, acc_bits=80, a_buffer_bytes=1024, a_banks=2,
    b_buffer_bytes=1024, b_banks=2, acc_banks=6, acc_bank_rows=12, stat_banks=3, stat_bank_rows=4)
"""Words of A wider than the bus, three planes of an accumulator, an odd number of banks."""

SHALLOW = replace(NANO, name="shallow", a_buffer_bytes=4096, b_buffer_bytes=4096, acc_banks=4, stat_banks=2)
"""nano with less to fill and to compare."""

FORMATS = replace(
    SHALLOW, name="formats", a_buffer_bytes=8192, a_banks=4, b_buffer_bytes=8192, b_banks=4,
    formats=("e4m3", "e2m1", "e4m3xe2m1"), scales=("e4m3", "e8m0"))
"""What the presets build beside E4M3: all of W4A8, NVFP4 and MX."""

EVERYTHING = replace(
    FORMATS, name="everything", formats=("e4m3", "e5m2", "e4m3xe5m2", "e2m1", "e4m3xe2m1"),
    scales=("e4m3", "e8m0", "fp32"), acc_bits=80, acc_banks=6)
"""Every element pair and block scale."""

DSP = replace(FORMATS, name="dsp", multiplier="dsp", scales=("e4m3", "e8m0", "fp32"))
"""The multiplier back end, and FP32 scales with 64-bit accumulators."""

NVFP4 = replace(SHALLOW, name="nvfp4", cols=8, formats=("e2m1",), scales=("e4m3",))
"""A tile for one format, with more columns than rows: every step is a block, terms are never rounded."""

CONFIGS = {config.name: config for config in (SHALLOW, TALL, WIDE)}


FORMAT_CONFIGS = {config.name: config for config in (FORMATS, EVERYTHING, NVFP4)}


def random_codes(rng: np.random.Generator, shape: tuple[int, ...], nan_rate: float = 0.0,
                 smallest_special: int = 0x7F) -> np.ndarray:
    """Codes, uniform but for those of magnitude ``smallest_special`` and above, which come at ``nan_rate``."""
    codes = rng.integers(0, 256, shape).astype(np.uint8)
    special = (codes & 0x7F) >= smallest_special
    codes[special] &= 0xBF
    return np.where(rng.random(shape) < nan_rate, codes | np.uint8(smallest_special), codes).astype(np.uint8)


def scale_of_bank(config: TileConfig, bank: int) -> Scale:
    """Each operand bank holds the scales of one kind."""
    return built_scales(config)[bank % len(config.scales)]


def random_scales(rng: np.random.Generator, config: TileConfig, slices: int, offset_bits: int, addr_bits: int,
                  special_rate: float) -> np.ndarray:
    """(slices, groups) scale bytes, each bank's of one kind; FP32 scales at every multiple of four groups."""
    scales = np.zeros((slices, 1 << addr_bits), np.uint8)
    for bank in range(1 << (addr_bits - offset_bits) if config.scales else 0):
        shape = slices, 1 << offset_bits
        kind = scale_of_bank(config, bank)
        special = rng.random(shape) < special_rate
        if kind == Scale.E4M3:
            codes = random_codes(rng, shape, special_rate)
            codes[rng.random(shape) < 0.2] &= 0x87  # subnormal and zero scales
        elif kind == Scale.E8M0:
            near = rng.choice([1, 4, 16, 40, 60], shape)
            codes = np.where(special, rng.integers(60, 256, shape), rng.integers(0, near + 1)).astype(np.uint8)
        else:
            values = np.exp2(1 - rng.random((slices, shape[1] // 4)) * rng.choice([1, 10, 50])).astype(np.float32)
            values = np.where(values < 2, values, 1).astype(np.float32)
            odd = np.array([np.nan, np.inf, 2.0, -1.5, 1e-40, 0.0], np.float32)
            values = np.where(special[:, ::4], rng.choice(odd, values.shape), values)
            codes = np.ascontiguousarray(values).view(np.uint8)
        scales[:, bank << offset_bits:bank + 1 << offset_bits] = codes
    return scales


class MatmulModel:
    """Buffers as arrays, MATMUL by its definition.

    ``a`` (rows, groups, lanes) and ``b`` (cols, groups, lanes) uint8 codes; ``acc`` (addresses, cols) object: Python
    integers of acc_word_bits. a_scale, b_scale: (slices, groups) uint8. status: what final results have met.
    """

    def __init__(self, config: TileConfig, rng: np.random.Generator, *, nan_rate: float = 0.001) -> None:
        self.config = config
        smallest = 0x7C if any("e5m2" in name for name in config.formats) else 0x7F
        self.a = random_codes(rng, (config.rows, 1 << config.a_addr_bits, config.lanes), nan_rate, smallest)
        self.b = random_codes(rng, (config.cols, 1 << config.b_addr_bits, config.lanes), nan_rate, smallest)
        self.a_scale = random_scales(rng, config, config.rows, config.a_offset_bits, config.a_addr_bits, nan_rate)
        self.b_scale = random_scales(rng, config, config.cols, config.b_offset_bits, config.b_addr_bits, nan_rate)
        self.status = dict.fromkeys(("inexact", "overflow", "nan", "inf"), False)
        self.acc = np.zeros((1 << config.acc_addr_bits, config.cols), object)

    def matmul(self, i: Matmul) -> None:
        fmt, config = TermFormat.of(i), self.config
        b_groups = fmt.b_groups(i.k_steps)
        for j in range(i.n_tiles):
            for row in range(i.m_rows):
                panel, r = divmod(row, config.rows)
                a = i.a_addr + panel * i.a_pitch
                b = i.b_addr + j * i.b_pitch
                sums, flags = matmul_terms(
                    self.a[r, a:a + i.k_steps].reshape(1, -1), self.b[:, b:b + b_groups].reshape(config.cols, -1),
                    self.a_scale[r, a:a + i.k_steps].reshape(1, -1), self.b_scale[:, b:b + b_groups],
                    fmt, lanes=config.lanes, acc_bits=config.acc_bits)
                self._drain(i, j, row, [int(s) for s in sums[0]], [int(n) for n in flags[0]])

    def _drain(self, i: Matmul, j: int, row: int, sums: list[int], flags: list[int]) -> None:
        config = self.config
        addr = i.acc_addr + row + j * i.acc_pitch
        planes = [addr + (p * config.acc_plane_banks << config.acc_offset_bits) for p in range(config.acc_planes)]
        share = config.acc_word_bits - 32
        if i.merge:
            for p, plane in enumerate(planes):
                for c in range(config.cols):
                    sums[c] += (self.acc[plane, c] & 0xFFFFFFFF) << 32 * p
                    flags[c] |= self.acc[plane, c] >> 32 << share * p
        half = 1 << (config.acc_bits - 1)
        sums = [(s + half) % (2 * half) - half for s in sums]
        if i.raw:
            for p, plane in enumerate(planes):
                for c in range(config.cols):
                    share_p = flags[c] >> share * p & ((1 << share) - 1)
                    self.acc[plane, c] = sums[c] >> 32 * p & 0xFFFFFFFF | share_p << 32
            return
        values = drain_fp32(np.array(sums, object), np.array(flags, np.uint8), TermFormat.of(i).lsb)
        words = arithmetic.fp32_bits(values)
        columns = j * config.cols + np.arange(config.cols)
        masked = (i.mask * (columns > i.mask_base + i.mask_step * row)
                  | i.mask_low * (columns < i.mask_low_base + i.mask_low_step * row))
        for value, flag in ((v, f) for v, f, hidden in zip(values, flags, masked, strict=True) if not hidden):
            self.status["inexact"] |= bool(flag & 8)
            self.status["nan"] |= bool(np.isnan(value))
            self.status["inf"] |= bool(np.isinf(value) and flag & 6)
            self.status["overflow"] |= bool(np.isinf(value) and not flag & 6)
        words = np.where(masked, FP32_INF | 1 << 31, words)
        self.acc[addr] = [int(word) for word in words]
        if i.rowmax:
            self._row_maximum(i, j, row, words)

    def _row_maximum(self, i: Matmul, j: int, row: int, words: np.ndarray) -> None:
        addr, lane = i.rowmax_addr + row // self.config.cols, row % self.config.cols
        if not (i.rowmax_init and j == 0):
            words = np.append(words, self.acc[addr, lane])
        values = arithmetic.fp32_from_bits(words.astype(np.int64))
        maximum = values[0]
        for value in values:
            maximum = arithmetic.fp32_max(maximum, value)
        self.acc[addr, lane] = int(arithmetic.fp32_bits(maximum).item())


def random_matmul(config: TileConfig, rng: np.random.Generator, **fields: int) -> Matmul:
    """A MATMUL within the buffers, with few rows and steps; ``fields`` override what is drawn.

    Results lie in one accumulator bank (and, if raw, its planes), row maxima in a statistics bank. Scaled operands lie
    in banks with scales of their kind (`scale_of_bank`), on addresses that are multiples of four groups.
    """
    def draw(low: int, high: int) -> int:
        return int(rng.integers(low, high + 1))

    while True:
        i = Matmul(
            k_steps=draw(1, 3 * config.rows), m_rows=draw(1, 2 * config.rows + 2), n_tiles=draw(1, 3),
            raw=draw(0, 1), mask=draw(0, 1), mask_step=draw(0, 1), mask_low=draw(0, 1), mask_low_step=draw(0, 1),
            rowmax=draw(0, 1), rowmax_init=draw(0, 1), signal_rd=draw(0, 31), signal_wr=draw(0, 31))
        for name, value in {**random_mode(config, rng), **fields}.items():
            setattr(i, name, value)
        unit = 1 << i.block
        i.k_steps = -(-i.k_steps // unit) * unit
        if i.raw:
            i.mask = i.mask_low = i.rowmax = 0
        for name in ("mask_base", "mask_low_base"):
            setattr(i, name, fields.get(name, draw(-i.m_rows, i.n_tiles * config.cols)))
        i.a_pitch, i.b_pitch, i.acc_pitch = i.k_steps + draw(0, 2), draw(0, i.k_steps + 2), i.m_rows + draw(0, 2)
        align = 4 if i.scale == Scale.FP32 else 1
        i.a_pitch, i.b_pitch = -(-i.a_pitch // align) * align, i.b_pitch // align * align
        panels = -(-i.m_rows // config.rows)
        a_room = config.a_bank_groups - i.k_steps - (panels - 1) * i.a_pitch
        b_room = config.b_bank_groups - i.k_steps - (i.n_tiles - 1) * i.b_pitch
        acc_room = config.acc_bank_rows - i.m_rows - (i.n_tiles - 1) * i.acc_pitch
        stat_room = config.stat_bank_rows - -(-i.m_rows // config.cols)
        if min(a_room, b_room, acc_room, stat_room) < 0:
            continue
        a_bank, b_bank = draw(0, config.a_banks - 1), draw(0, config.b_banks - 1)
        if i.scale != Scale.NONE and {scale_of_bank(config, a_bank), scale_of_bank(config, b_bank)} != {i.scale}:
            continue
        i.a_addr = fields.get("a_addr", (a_bank << config.a_offset_bits) + draw(0, a_room) // align * align)
        i.b_addr = fields.get("b_addr", (b_bank << config.b_offset_bits) + draw(0, b_room) // align * align)
        bank = draw(0, (config.acc_plane_banks if i.raw or i.merge else config.acc_banks) - 1)
        stat_bank = config.acc_banks + draw(0, config.stat_banks - 1)
        i.acc_addr = fields.get("acc_addr", config.acc_addr(bank, draw(0, acc_room)))
        i.rowmax_addr = fields.get("rowmax_addr", config.acc_addr(stat_bank, draw(0, stat_room)))
        return i


def random_mode(config: TileConfig, rng: np.random.Generator) -> dict[str, int]:
    """Fields of a legal combination of elements and scales, with room for 1 to 64 blocks."""
    uses = [(pair, None) for pair in built_pairs(config)] + [(use.pair, use) for use in block_uses(config)]
    pair, use = uses[rng.integers(len(uses))]
    if use is None:
        return {"pair": pair, "scale": Scale.NONE, "a_scaled": 0, "b_scaled": 0, "block": 0, "headroom": 0}
    sides = int(rng.integers(1, 4))
    blocks = 1 << int(rng.integers(0, 7))
    return {"pair": pair, "scale": use.scale, "a_scaled": sides & 1, "b_scaled": sides >> 1,
            "block": use.steps.bit_length() - 1,
            "headroom": headroom(pair, use.scale, use.elements, blocks, config.acc_bits)}


@dataclass
class Trace:
    """What was seen at the unit port, by cycle."""

    ready: list[int] = field(default_factory=list)
    rd: list[tuple[int, int]] = field(default_factory=list)
    wr: list[tuple[int, int]] = field(default_factory=list)
    events: dict[str, int] = field(default_factory=dict)
    compute: list[int] = field(default_factory=list)
    status: dict[str, bool] = field(default_factory=dict)
    conflicts: int = 0


class CoreSimulation:
    """A `MatrixUnit` in a simulator that is reset for every run, because building it takes longer than a run."""

    def __init__(self, config: TileConfig) -> None:
        self.core = MatrixUnit(config)
        self._simulator = Simulator(self.core)
        self._simulator.add_clock(1e-6)
        self._simulator.add_testbench(self._run)
        self._testbench = None

    async def _run(self, ctx) -> None:
        await self._testbench(ctx)

    def run(self, testbench) -> None:
        if self._testbench is not None:
            self._simulator.reset()
        self._testbench = testbench
        self._simulator.run()


_shared_simulation = cache(CoreSimulation)


class UnitBench:
    """Runs a `MatrixUnit` against a `MatmulModel`; ``fresh`` builds it anew."""

    def __init__(self, config: TileConfig, model: MatmulModel, *, fresh: bool = False) -> None:
        self.config, self.model = config, model
        simulation = CoreSimulation(config) if fresh else _shared_simulation(config)
        self.dut, self.run = simulation.core, simulation.run
        self.trace = Trace()
        self.cycle = 0

    async def tick(self, ctx) -> None:
        """Sample the outputs of this cycle and go to the next."""
        unit, trace = self.dut.unit, self.trace
        if ctx.get(unit.ready):
            trace.ready.append(self.cycle)
        for name, pulses in (("rd", trace.rd), ("wr", trace.wr)):
            if ctx.get(getattr(unit, name)):
                pulses.append((self.cycle, ctx.get(getattr(unit, f"{name}_mask"))))
        for name in self.dut.signature.members:
            if name.startswith("ev_"):
                trace.events[name[3:]] = trace.events.get(name[3:], 0) + ctx.get(getattr(self.dut, name))
        if ctx.get(self.dut.ev_compute):
            trace.compute.append(self.cycle)
        for name in self.model.status:
            trace.status[name] = trace.status.get(name, False) or bool(ctx.get(getattr(self.dut, f"status_{name}")))
        trace.conflicts += ctx.get(self.dut.conflict)
        await ctx.tick()
        self.cycle += 1

    async def fill(self, ctx) -> None:
        """Load the model's A and B, a beat of each per cycle."""
        config = self.config
        groups = config.bus_bytes // config.lanes
        beats = {}
        for name, codes in (("a", self.model.a), ("b", self.model.b)):
            bank_groups, banks = getattr(config, f"{name}_bank_groups"), getattr(config, f"{name}_banks")
            offset_bits = getattr(config, f"{name}_offset_bits")
            beats[name] = [(s, (bank << offset_bits) + offset) for s in range(len(codes)) for bank in range(banks)
                           for offset in range(0, bank_groups, groups)]
        for n in range(max(map(len, beats.values()))):
            for name, codes in (("a", self.model.a), ("b", self.model.b)):
                port = getattr(self.dut, f"{name}_load")
                ctx.set(port.valid, int(n < len(beats[name])))
                if n < len(beats[name]):
                    s, addr = beats[name][n]
                    ctx.set(port.slice, s)
                    ctx.set(port.addr, addr)
                    ctx.set(port.data, int.from_bytes(codes[s, addr:addr + groups].tobytes(), "little"))
                    ctx.set(port.mask, (1 << config.bus_bytes) - 1)
                    scales = getattr(self.model, f"{name}_scale")[s, addr:addr + groups]
                    ctx.set(port.scales, int.from_bytes(scales.tobytes(), "little"))
                    ctx.set(port.scale_mask, (1 << groups) - 1)
            await ctx.tick()
        ctx.set(self.dut.a_load.valid, 0)
        ctx.set(self.dut.b_load.valid, 0)

    async def issue(self, ctx, instruction: Matmul) -> int:
        """Wait for ready, issue, end the cycle; return its number."""
        unit = self.dut.unit
        while not ctx.get(unit.ready):
            await self.tick(ctx)
        for f in instruction.spec.fields:
            ctx.set(getattr(unit.command, f.name), getattr(instruction, f.name))
        ctx.set(unit.command.signal_rd, instruction.signal_rd)
        ctx.set(unit.command.signal_wr, instruction.signal_wr)
        ctx.set(unit.start, 1)
        issued = self.cycle
        await self.tick(ctx)
        ctx.set(unit.start, 0)
        return issued

    async def drain(self, ctx, instruction: Matmul, issued: int) -> None:
        """Go to the first cycle after the instruction's wr pulse."""
        while self.cycle <= issued + plan.duration(instruction, self.config).wr:
            await self.tick(ctx)

    async def read_row(self, ctx, addr: int, port: str = "x") -> list[int]:
        """Words of an ACC row, lane 0 first."""
        reader = getattr(self.dut, f"acc_{port}")
        ctx.set(reader.en, 1)
        ctx.set(reader.addr, addr)
        await self.tick(ctx)
        ctx.set(reader.en, 0)
        row = ctx.get(reader.data)
        return [row >> 32 * c & 0xFFFFFFFF for c in range(self.config.cols)]

    async def check_acc(self, ctx) -> None:
        """Compare with the model every row that is not zero there, the rows after them, and each bank's ends."""
        config = self.config
        touched = np.flatnonzero(self.model.acc.any(axis=1))
        everywhere = {config.acc_addr(bank, row) for bank in range(config.acc_banks + config.stat_banks)
                      for row in (0, config.acc_bank_depth(bank) - 1)}
        for addr in sorted(everywhere.union(touched.tolist(), (touched + 1).tolist())):
            if addr & ((1 << config.acc_offset_bits) - 1) < config.acc_bank_depth(addr >> config.acc_offset_bits):
                expected = [word & 0xFFFFFFFF for word in self.model.acc[addr]]
                assert await self.read_row(ctx, addr) == expected, f"ACC row {addr}"
