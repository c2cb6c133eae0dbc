"""Small hand-written programs with tokens by hand, for the tests of the simulation levels.

They use no part of the compiler. `TinyProgram` places data and pages; the functions below it write the
programs.
"""

from collections.abc import Callable

import numpy as np
import pytest

from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.encoding import fp32_bits
from tilescore.rtl.spec.isa import (
    Combine,
    Dest,
    Func,
    Gather,
    Halt,
    Instruction,
    Load,
    Matmul,
    Reduce,
    Scatter,
    Source,
    Space,
    Store,
    Sync,
    Unit,
    Vector,
)
from tilescore.sim.program import Program, Region, Segment

L, S, M, V, D = (1 << unit for unit in Unit)


class TinyProgram:
    """Collects instructions, data and outputs; every row starts on a bus beat."""

    def __init__(self, config: TileConfig) -> None:
        self.config = config
        self.body: list[Instruction] = []
        self.segments: list[Segment] = []
        self.outputs: list[Region] = []
        self._free = 0

    def _place(self, rows: int, row_bytes: int) -> tuple[int, int]:
        stride = -(-row_bytes // self.config.bus_bytes) * self.config.bus_bytes
        addr, self._free = self._free, self._free + rows * stride
        return addr, stride

    def rows(self, name: str, data: np.ndarray) -> dict:
        """Place (rows, bytes) of data; returns the DRAM fields of a LOAD of them."""
        data = np.ascontiguousarray(data).view(np.uint8)
        addr, stride = self._place(*data.shape)
        padded = np.zeros((data.shape[0], stride), np.uint8)
        padded[:, :data.shape[1]] = data
        self.segments.append(Segment(name, addr, padded.reshape(-1)))
        return {"dram_addr": addr, "row_stride": stride, "rows": data.shape[0], "row_bytes": data.shape[1]}

    def result(self, name: str, rows: int, columns: int, dtype: str = "float32") -> dict:
        """Place an output; returns the DRAM fields of a STORE to it."""
        row_bytes = columns * (4 if dtype == "float32" else 1)
        addr, stride = self._place(rows, row_bytes)
        self.outputs.append(Region(name, addr, rows, row_bytes, stride, dtype, (rows, columns)))
        return {"dram_addr": addr, "row_stride": stride, "rows": rows, "row_bytes": row_bytes}

    def add(self, *instructions: Instruction) -> None:
        self.body += instructions

    def finish(self) -> Program:
        """Cut the body into pages: each loads the next one first and ends with a SYNC on it."""
        page_size, paged, rest = self.config.imem_page, [], [*self.body, Halt()]
        base = -(-self._free // 1024) * 1024
        while len(rest) > page_size:
            page = len(paged) // page_size + 1
            next_load = Load(space=Space.PROGRAM, dram_addr=base + page * self.config.page_bytes, rows=1,
                             row_bytes=self.config.page_bytes, addr=page % 2 * page_size, signal_wr=D)
            paged += [next_load, *rest[:page_size - 2], Sync(wait_wr=L)]
            rest = rest[page_size - 2:]
        paged += rest
        pages = -(-len(paged) // page_size)
        return Program(config=self.config, instructions=paged, program_addr=base, segments=self.segments,
                       outputs=self.outputs, dram_bytes=base + pages * self.config.page_bytes)


def random_codes(rng: np.random.Generator, *shape: int, nan: float = 0.0) -> np.ndarray:
    """E4M3 codes, all values but NaN alike, NaN with probability ``nan``."""
    codes = rng.integers(0, 127, shape) + 128 * rng.integers(0, 2, shape)
    return np.where(rng.random(shape) < nan, 127, codes).astype(np.uint8)


def matmul(config: TileConfig, rng: np.random.Generator) -> Program:
    """C = A @ B.T with partial panels, NaNs, and a K that ends inside a bus beat."""
    m, k, n = config.rows * 2 + 1, config.bus_bytes + config.lanes, config.cols * 2
    tiny = TinyProgram(config)
    a = tiny.rows("a", random_codes(rng, m, k, nan=0.005))
    b = tiny.rows("b", random_codes(rng, n, k, nan=0.005))
    c, raw = tiny.result("c", m, n), tiny.result("raw", config.rows, 2 * config.cols)
    pitch = 2 * config.bus_bytes // config.lanes
    acc = config.acc_addr(2)
    product = {"k_steps": k // config.lanes, "n_tiles": 2, "a_pitch": pitch, "b_pitch": pitch,
               "b_addr": pitch, "acc_addr": acc}
    tiny.add(
        Load(space=Space.A, pitch=pitch, **a), Load(space=Space.B, addr=pitch, pitch=pitch, signal_wr=M, **b),
        Matmul(m_rows=m, acc_pitch=m, signal_wr=S, wait_wr=L, **product),
        Store(space=Space.ACC, addr=acc, pitch=m, wait_wr=M, signal_rd=M, **c),
        Matmul(m_rows=config.rows, acc_pitch=config.rows, raw=1, wait_rd=S, signal_wr=S, **product),
    )
    low = {**raw, "row_bytes": 4 * config.cols}
    high = {**low, "dram_addr": raw["dram_addr"] + 4 * config.cols}
    tiny.add(Store(space=Space.ACC, addr=acc, wait_wr=M, **low),
             Store(space=Space.ACC, addr=acc + config.acc_addr(config.acc_plane_banks), **high))
    return tiny.finish()


def attention(config: TileConfig, rng: np.random.Generator) -> Program:
    """One causal head: scores, row maxima, exp2 to codes, row sums, P @ V in two raw parts, normalized."""
    cols = config.cols
    d = 2 * config.bus_bytes
    keys = 2 * cols if 2 * cols % config.bus_bytes == 0 else config.bus_bytes
    queries = keys
    tiny = TinyProgram(config)
    q = tiny.rows("q", random_codes(rng, queries, d))
    k = tiny.rows("k", random_codes(rng, keys, d))
    v = tiny.rows("v", random_codes(rng, cols, keys))
    out, p_out = tiny.result("out", queries, cols), tiny.result("p", queries, keys, "e4m3")
    tiles = keys // cols
    pitch, p_pitch = d // config.lanes, max(keys, config.a_word_bytes) // config.lanes
    p_addr = 1 << config.a_offset_bits
    v_addr = 1 << config.b_offset_bits
    score, product = config.acc_addr(0), config.acc_addr(4)
    sums, maxima, recip = (config.acc_addr(config.acc_banks + n) for n in range(3))
    scale = fp32_bits(2.0**-12)
    half = keys // 2 // config.lanes
    tiny.add(
        Load(space=Space.A, pitch=pitch, **q), Load(space=Space.B, pitch=pitch, signal_wr=M, **k),
        Load(space=Space.B, addr=v_addr, signal_wr=M, **v),
        Matmul(k_steps=d // config.lanes, m_rows=queries, n_tiles=tiles, a_pitch=pitch, b_pitch=pitch,
               acc_addr=score, acc_pitch=queries, mask=1, mask_step=1, rowmax=1, rowmax_init=1,
               rowmax_addr=maxima, wait_wr=L, signal_wr=V),
        Vector(rows=queries, tiles=tiles, x_addr=score, pitch=queries, y_kind=Source.IMM, y=scale,
               combine=Combine.NONE, dest=Dest.ACC, dst_addr=score, dst_pitch=queries, w_kind=Source.IMM,
               w=fp32_bits(1.0), wait_wr=M, signal_wr=V),
        Vector(rows=1, tiles=-(-queries // cols), x_addr=maxima, pitch=1, y_kind=Source.IMM, y=scale,
               w_kind=Source.IMM, w=fp32_bits(1.0), dest=Dest.ACC, dst_addr=maxima, dst_pitch=1, wait_wr=V,
               signal_wr=V),
        Vector(rows=queries, tiles=tiles, x_addr=score, pitch=queries, y_kind=Source.IMM, y=fp32_bits(1.0),
               z_kind=Source.ROW, z=maxima, combine=Combine.SUB, func=Func.EXP2, w_kind=Source.IMM,
               w=fp32_bits(256.0), dest=Dest.A, dst_addr=p_addr, dst_pitch=p_pitch, reduce=Reduce.SUM,
               reduce_addr=sums, wait_wr=V, signal_wr=M | V | S),
        Store(space=Space.A, addr=p_addr, pitch=p_pitch, wait_wr=V, signal_rd=M, **p_out),
        Matmul(a_addr=p_addr, b_addr=v_addr, k_steps=half, m_rows=queries, n_tiles=1, a_pitch=p_pitch,
               acc_addr=product, raw=1, wait_rd=S, wait_wr=L | V, signal_wr=M),
        Matmul(a_addr=p_addr + half, b_addr=v_addr + half, k_steps=half, m_rows=queries, n_tiles=1,
               a_pitch=p_pitch, acc_addr=product, merge=1, wait_wr=M, signal_wr=V),
        Vector(rows=1, tiles=-(-queries // cols), x_addr=sums, pitch=1, y_kind=Source.IMM, y=fp32_bits(1.0),
               func=Func.RECIPROCAL, w_kind=Source.IMM, w=fp32_bits(1.0), dest=Dest.ACC, dst_addr=recip,
               dst_pitch=1, wait_wr=V, signal_wr=V),
        Vector(rows=queries, tiles=1, x_addr=product, pitch=1, y_kind=Source.ROW, y=recip,
               w_kind=Source.IMM, w=fp32_bits(1.0), dest=Dest.ACC, dst_addr=product, dst_pitch=1,
               reduce=Reduce.MAX,
               reduce_addr=maxima, wait_wr=M | V, signal_wr=S),
        Store(space=Space.ACC, addr=product, wait_wr=V, **out),
    )
    return tiny.finish()


def gather(config: TileConfig, rng: np.random.Generator) -> Program:
    """Rows of A gathered by an index list, multiplied, scattered back to the same rows; several pages."""
    pool, count, k = 3 * config.rows, config.rows, config.bus_bytes
    tiny = TinyProgram(config)
    a, b = tiny.rows("a", random_codes(rng, pool, k)), tiny.rows("b", random_codes(rng, config.cols, k))
    c = tiny.result("c", pool, config.cols)
    per_beat = config.bus_bytes // 4
    rounds = config.imem_page // 4
    lists = []
    for number in range(rounds):
        chosen = np.zeros((1, -(-count // per_beat) * per_beat), np.uint32)
        chosen[0, :count] = rng.permutation(pool)[:count]
        lists.append(tiny.rows(f"index {number}", chosen))
    tiny.add(Load(space=Space.B, **b))
    for number, row_list in enumerate(lists):
        once = {"rows": count, "index_addr": 0}
        again, more = number > 0, number < rounds - 1
        tiny.add(
            Load(space=Space.INDEX, wait_rd=S * again, signal_wr=L | S, **row_list),
            Gather(space=Space.A, wait_wr=L, wait_rd=M * again, signal_wr=M, **{**a, **once}),
            Matmul(k_steps=k // config.lanes, m_rows=count, n_tiles=1, wait_wr=L | S * again,
                   signal_rd=L * more, signal_wr=S),
            Scatter(space=Space.ACC, wait_wr=M | L, signal_rd=L * more, signal_wr=M * more, **{**c, **once}))
    return tiny.finish()


@pytest.fixture(params=[matmul, attention, gather], ids=lambda f: f.__name__)
def tiny_program(request: pytest.FixtureRequest) -> Callable[[TileConfig, np.random.Generator], Program]:
    """Each hand-written program in turn, as a function of the tile and a random generator."""
    return request.param


@pytest.fixture
def tiny_programs() -> dict[str, Callable[[TileConfig, np.random.Generator], Program]]:
    """The hand-written programs by name."""
    return {f.__name__: f for f in (matmul, attention, gather)}
