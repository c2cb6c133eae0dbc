"""Drives a `VectorUnit` with memories around it, cycle by cycle, and records what happened when."""

import dataclasses

import numpy as np
from amaranth.sim import Simulator

from tilescore.rtl.lib.unit_port import command_layout
from tilescore.rtl.plan import duration
from tilescore.rtl.spec.config import TileConfig, load_tile
from tilescore.rtl.spec.encoding import encode
from tilescore.rtl.spec.isa import Combine, Dest, Func, Instruction, Quant, Reduce, ScaleRule, Source, Vector
from tilescore.rtl.spec.tensor_formats import QUANT_FORMATS, built_quantizers
from tilescore.rtl.vector.lane import TWINS
from tilescore.rtl.vector.unit import VectorUnit

EVENTS = (
    "vector_rows",
    "acc_row_reads",
    "acc_row_writes",
    "statistic_writes",
    "a_row_writes",
    "vector_adds",
    "vector_functions",
    "vector_reductions",
    "vector_quantizations",
    "block_quantizations",
)

SPECIAL_WORDS = np.array(
    [
        0x00000000,
        0x80000000,
        0x7F800000,
        0xFF800000,
        0x7FC00000,
        0xFFC00001,
        0x7F800001,
        0x00000001,
        0x80000001,
        0x007FFFFF,
        0x00800000,
        0x7F7FFFFF,
        0xFF7FFFFF,
        0x3F800000,
        0xBF800000,
        0x43E00000,
        0x3B000000,
        0x4B000000,
        0xCB000000,
        0x33800000,
    ],
    np.uint32,
)
"""Zeros, infinities, NaNs, subnormals, extremes, and neighbours of the E4M3 and fixed-point limits."""


ALL_FORMATS = {"formats": ("e4m3", "e4m3xe5m2", "e2m1"), "scales": ("e4m3", "e8m0", "fp32")}
"""Of a tile that builds every quantizer."""


def make_config(cols: int, **changes) -> TileConfig:
    """The nano tile with ``cols`` columns and an ACC with room for many operands."""
    return dataclasses.replace(
        load_tile("nano"), **({"cols": cols, "acc_bank_rows": 128, "b_buffer_bytes": 2048 * cols} | changes)
    )


def random_words(rng: np.random.Generator, shape: tuple[int, ...], *, odd: float = 1 / 16) -> np.ndarray:
    """FP32 words: mostly moderate numbers, ``odd`` of them of any magnitude, as many special."""
    words = (
        (rng.standard_normal(shape) * np.exp2(rng.integers(-4, 6, shape))).astype(np.float32).view(np.uint32)
    )
    choice = rng.random(shape)
    words = np.where(choice < odd, rng.integers(0, 1 << 32, shape).astype(np.uint32), words)
    return np.where(choice > 1 - odd, rng.choice(SPECIAL_WORDS, shape), words).astype(np.uint32)


class Programs:
    """VECTOR instructions that read the lower half of ACC and write where no other one does."""

    def __init__(self, config: TileConfig, rng: np.random.Generator) -> None:
        self.config, self.rng = config, rng
        self._acc = 1 << (config.acc_addr_bits - 1)
        self._a = 0

    def instruction(self, *, max_rows: int = 9, max_tiles: int = 3, **fixed) -> Instruction:
        rng, cols = self.rng, self.config.cols
        values = {
            "rows": int(rng.integers(1, max_rows + 1)),
            "tiles": int(rng.integers(1, max_tiles + 1)),
            "x_addr": self._source(),
            "pitch": int(rng.integers(0, 40)),
            "x_swap": int(rng.choice([0, rng.integers(0, cols.bit_length())])),
            "combine": int(rng.choice(list(Combine))),
            "func": int(rng.choice([func for func in TWINS if func != Func.ANCHOR])),
            "dest": int(rng.choice(list(Dest))),
            "reduce": int(rng.choice(list(Reduce))),
            "signal_rd": int(rng.integers(0, 32)),
            "signal_wr": int(rng.integers(0, 32)),
        }
        for name in ("y", "z", "w"):
            kind = int(rng.choice(list(Source)))
            values[f"{name}_kind"] = kind
            values[name] = int(random_words(rng, (1,))[0]) if kind == Source.IMM else self._source()
        values |= fixed
        if values["func"] == Func.SILU:
            values["w_kind"] = int(Source.IMM)
        return self._place(values)

    def block(self, quant: Quant, *, max_rows: int = 6, max_blocks: int = 2, **fixed) -> Instruction:
        """Writes codes with block scales; z is an immediate near the results, or anything."""
        rng, fmt = self.rng, QUANT_FORMATS[quant]
        unit = max(1, fmt.block // self.config.cols)
        values = {
            "rows": int(rng.integers(1, max_rows + 1)),
            "tiles": unit * int(rng.integers(1, max_blocks + 1)),
            "x_addr": self._source(),
            "pitch": int(rng.integers(0, 10)),
            "y_kind": int(Source.IMM),
            "y": int(np.exp2(np.float32(rng.integers(-3, 4))).view(np.uint32)),
            "z_kind": int(rng.choice([Source.IMM, Source.ROW])),
            "z": int(np.exp2(np.float32(rng.integers(-12, 3))).view(np.uint32)),
            "w_kind": int(rng.choice([Source.IMM, Source.COLUMN])),
            "w": int(np.float32(rng.choice([1.0, -0.7])).view(np.uint32)),
            "dest": int(Dest.A),
            "quant": int(quant),
            "scale_rule": int(rng.choice(list(ScaleRule))),
        }
        for name in ("z", "w"):
            if values[f"{name}_kind"] != Source.IMM:
                values[name] = self._source()
        return self._place(values | fixed)

    def any(self, **fixed) -> Instruction:
        """Of any kind that the tile has hardware for."""
        quant = Quant(int(self.rng.choice(built_quantizers(self.config))))
        if QUANT_FORMATS[quant].block:
            return self.block(quant)
        quants = {"quant": int(quant)}
        anchored = [kind for kind in built_quantizers(self.config) if QUANT_FORMATS[kind].anchored]
        if anchored and self.rng.integers(3) == 0:
            quants = {
                "quant": int(self.rng.choice(anchored)),
                "scale_rule": int(self.rng.choice(list(ScaleRule))),
                "func": int(Func.ANCHOR),
                "dest": int(Dest.ACC),
            }
        return self.instruction(**(quants | fixed))

    def _place(self, values: dict) -> Instruction:
        """Destination addresses that no other instruction uses."""
        rng, cols = self.rng, self.config.cols
        rows, tiles = values["rows"], values["tiles"]
        if values["dest"] == Dest.ACC:
            values["dst_pitch"] = rows + int(rng.integers(0, 3))
            values["dst_addr"] = self._allocate_acc(values["dst_pitch"] * tiles)
        elif values["dest"] == Dest.A:
            panels = -(-rows // self.config.rows)
            row_bytes = QUANT_FORMATS[Quant(values.get("quant", 0))].bytes_of(tiles * cols)
            align = max(1, cols // self.config.lanes)
            values["dst_pitch"] = align * (-(-row_bytes // (align * self.config.lanes)) + int(rng.integers(0, 2)))
            values["dst_addr"] = self._a
            self._a += panels * values["dst_pitch"]
            if self._a > 1 << self.config.a_addr_bits:
                raise ValueError("operand buffer A of the test is full")
        values["reduce_addr"] = self._allocate_acc(-(-rows // cols))
        return Vector(**values)

    def _source(self) -> int:
        return int(self.rng.integers(0, (1 << (self.config.acc_addr_bits - 1)) - 256))

    def _allocate_acc(self, rows: int) -> int:
        start = self._acc
        self._acc += rows
        if self._acc > 1 << self.config.acc_addr_bits:
            raise ValueError("ACC of the test is full")
        return start


@dataclasses.dataclass
class Run:
    """acc, a, a_scale: memories afterwards; issue: cycle of each instruction's start; the rest: per cycle or total."""

    acc: np.ndarray
    a: np.ndarray
    a_scale: np.ndarray
    issue: list[int]
    ready: list[bool]
    rd: list[tuple[int, int]]
    wr: list[tuple[int, int]]
    reads: list[tuple[int, str]]
    writes: list[tuple[int, str]]
    events: dict[str, int]


def initial_memories(config: TileConfig, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    acc = random_words(rng, (1 << config.acc_addr_bits, config.cols))
    a = rng.integers(0, 256, (config.rows, (1 << config.a_addr_bits) * config.lanes)).astype(np.uint8)
    return acc, a


def run_unit(
    config: TileConfig,
    instructions: list[Instruction],
    acc: np.ndarray,
    a: np.ndarray,
    not_before: list[int] | None = None,
) -> Run:
    """Issue each instruction as soon as the unit is ready, but not before the cycle given for it."""
    dut = VectorUnit(config)
    a_scale = np.zeros((config.rows, 1 << config.a_addr_bits), np.uint8)
    run = Run(acc.copy(), a.copy(), a_scale, [], [], [], [], [], [], dict.fromkeys(EVENTS, 0))
    layout = command_layout("VECTOR")
    not_before = not_before or [0] * len(instructions)
    tail = max(duration(i, config).wr for i in instructions) + 5

    async def testbench(ctx) -> None:
        cycle, pending = 0, list(range(len(instructions)))
        while pending or cycle < run.issue[-1] + tail:
            ready = bool(ctx.get(dut.unit.ready))
            start = bool(pending) and ready and cycle >= not_before[pending[0]]
            ctx.set(dut.unit.start, start)
            if start:
                word = encode(instructions[pending.pop(0)]) & ((1 << layout.size) - 1)
                ctx.set(dut.unit.command, layout.from_bits(word))
                run.issue.append(cycle)
                if ctx.get(dut.unit.ready) != ready:
                    raise AssertionError("ready depends on start")
            run.ready.append(ready)
            data = _serve(ctx, dut, config, run, cycle)
            await ctx.tick()
            for name, value in data.items():
                ctx.set(getattr(dut, name).data, value)
            cycle += 1

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    return run


def _write_row(ctx, port, config: TileConfig, run: Run) -> None:
    """What `OperandSlice` does with its port ``vec``."""
    group, part = ctx.get(port.addr), ctx.get(port.slice)
    start = group * config.lanes + ctx.get(port.sub)
    if start % config.cols:
        raise AssertionError(f"a row of codes at byte {start} is not aligned to {config.cols} bytes")
    for memory, data, mask, first in (
        (run.a, port.data, port.mask, start), (run.a_scale, port.scales, port.scale_mask, group)
    ):
        row = np.frombuffer(ctx.get(data).to_bytes(len(mask), "little"), np.uint8)
        chosen = np.flatnonzero([ctx.get(mask) >> byte & 1 for byte in range(len(mask))])
        memory[part, first + chosen] = row[chosen]


def _serve(ctx, dut: VectorUnit, config: TileConfig, run: Run, cycle: int) -> dict[str, int]:
    """Record this cycle; returns what the read ports show in the next one. Reads come before writes."""
    data = {}
    for name in ("acc_x", "acc_y", "acc_z", "acc_w"):
        port = getattr(dut, name)
        if ctx.get(port.en):
            run.reads.append((cycle, name))
            data[name] = int.from_bytes(run.acc[ctx.get(port.addr)].astype("<u4").tobytes(), "little")
    if ctx.get(dut.acc_d.en):
        run.writes.append((cycle, "acc_d"))
        row = ctx.get(dut.acc_d.data).to_bytes(4 * config.cols, "little")
        run.acc[ctx.get(dut.acc_d.addr)] = np.frombuffer(row, "<u4")
    if ctx.get(dut.acc_r.en):
        run.writes.append((cycle, "acc_r"))
        run.acc[ctx.get(dut.acc_r.addr), ctx.get(dut.acc_r.lane)] = ctx.get(dut.acc_r.data)
    if ctx.get(dut.a_vec.valid):
        run.writes.append((cycle, "a_vec"))
        _write_row(ctx, dut.a_vec, config, run)
    for kind in ("rd", "wr"):
        if ctx.get(getattr(dut.unit, kind)):
            getattr(run, kind).append((cycle, ctx.get(getattr(dut.unit, f"{kind}_mask"))))
    for event in EVENTS:
        run.events[event] += ctx.get(getattr(dut, f"ev_{event}"))
    return data
