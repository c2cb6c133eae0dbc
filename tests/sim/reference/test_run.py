"""`run_reference` and `execute` against plain Python integers, fractions and float64."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from tilescore.rtl.spec.config import TileConfig, load_tile
from tilescore.rtl.spec.element_values import decode_e4m3_float
from tilescore.rtl.spec.errors import SimulationError
from tilescore.rtl.spec.isa import Gather, Halt, Load, Matmul, ScaleLayout, Scatter, Space, Store, Sync
from tilescore.sim.numerics.exact_matmul import float_matmul
from tilescore.sim.program import Program
from tilescore.sim.reference.run import State, execute, run_reference

NANO = load_tile("nano")


def blank(config: TileConfig = NANO, dram: np.ndarray | None = None) -> State:
    program = Program(config=config, instructions=[Halt()], program_addr=0, dram_bytes=1 << 16)
    state = State.initial(program)
    if dram is not None:
        state.dram[:dram.size] = dram
    return state


def to_fp32(value: Fraction) -> np.float32:
    """Nearest even, by comparing exact distances to the neighbours of a double-rounded guess."""
    guess = np.float32(float(value))
    candidates = [np.nextafter(guess, np.float32(-np.inf)), guess, np.nextafter(guess, np.float32(np.inf))]
    return min(candidates, key=lambda c: (abs(Fraction(float(c)) - value), int(c.view(np.uint32)) & 1))


def exact(a: np.ndarray, b: np.ndarray) -> list[list[Fraction | None]]:
    """A @ B.T of codes as fractions; None where a NaN takes part."""
    def row(codes: np.ndarray) -> list[Fraction | None]:
        return [None if np.isnan(v) else Fraction(float(v)) for v in decode_e4m3_float(codes)]

    def dot(x: list, y: list) -> Fraction | None:
        return None if None in x or None in y else sum((p * q for p, q in zip(x, y, strict=True)), Fraction())

    b_rows = [row(codes) for codes in b]
    return [[dot(row(codes), other) for other in b_rows] for codes in a]


def segment(program: Program, name: str, rows: int, size: int) -> np.ndarray:
    data = next(s for s in program.segments if s.name == name).bytes_()
    assert data is not None
    return data.reshape(rows, -1)[:, :size]


def test_matmul_program_is_exact_and_rounded_once(tiny_programs, rng: np.random.Generator) -> None:
    program = tiny_programs["matmul"](NANO, rng)
    a, b = segment(program, "a", 9, 24), segment(program, "b", 8, 24)
    dram = run_reference(program).dram
    products = exact(a, b)
    c = program.outputs[0].read(dram)
    for found, expected in zip(c.reshape(-1), [v for row in products for v in row], strict=True):
        assert np.isnan(found) if expected is None else found == to_fp32(expected)
    raw = program.outputs[1].read(dram).view(np.uint32)
    for i in range(NANO.rows):
        for lane in range(NANO.cols):
            if products[i][lane] is not None:
                word = int(raw[i, lane]) | int(raw[i, NANO.cols + lane]) << 32
                assert word == int(products[i][lane] * 2**18) % 2**64


def test_attention_program_is_near_float64(tiny_programs, rng: np.random.Generator) -> None:
    """Codes of P have 3 fraction bits, so P is within 2**-4; normalization is by the sum of the codes."""
    program = tiny_programs["attention"](load_tile("edge"), rng)
    out, p = (r.read(run_reference(program).dram) for r in program.outputs)
    n, cols = p.shape[0], out.shape[1]
    q, k = (decode_e4m3_float(segment(program, name, n, 64)) for name in "qk")
    v = decode_e4m3_float(segment(program, "v", cols, n))
    scores = np.where(np.tri(n, dtype=bool), q @ k.T * 2.0**-12, -np.inf)
    expected_p = 256 * np.exp2(scores - scores.max(axis=1, keepdims=True))
    codes = decode_e4m3_float(p)
    assert (np.abs(codes - expected_p) <= expected_p * 2.0**-4 + 2.0**-10).all()
    expected = (codes @ v.T) / codes.sum(axis=1, keepdims=True)
    assert np.allclose(out, expected, rtol=2.0**-14, atol=1e-6 * np.abs(v).max())


def test_gather_program_writes_the_chosen_rows(tiny_programs, rng: np.random.Generator) -> None:
    program = tiny_programs["gather"](NANO, rng)
    c = program.outputs[0].read(run_reference(program).dram)
    a, b = segment(program, "a", 12, 16), segment(program, "b", 4, 16)
    rounds = NANO.imem_page // 4
    touched = {int(x) for n in range(rounds) for x in
               segment(program, f"index {n}", 1, 16).view(np.uint32)[0, :NANO.rows]}
    products = exact(a, b)
    for row in range(12):
        expected = [to_fp32(v) if row in touched and v is not None else 0 for v in products[row]]
        assert c[row].tolist() == expected


def fill(state: State, rng: np.random.Generator, nan: float = 0.0) -> None:
    """Random codes in A and B."""
    for buffer in (state.a, state.b):
        buffer[:] = rng.integers(0, 255, buffer.shape)
        buffer[(buffer & 0x7F) == 0x7F] ^= 1
        buffer[rng.random(buffer.shape) < nan] = 0xFF


def test_split_k_with_raw_partials_gives_the_same_bits(rng: np.random.Generator) -> None:
    state = blank()
    fill(state, rng, nan=0.002)
    shape = {"m_rows": 7, "n_tiles": 2, "a_pitch": 8, "b_pitch": 8, "acc_pitch": 8}
    execute(state, Matmul(k_steps=8, acc_addr=NANO.acc_addr(0), **shape))
    whole = state.acc[:16].copy()
    part = NANO.acc_addr(3)
    execute(state, Matmul(k_steps=3, acc_addr=part, raw=1, **shape))
    execute(state, Matmul(k_steps=4, acc_addr=part, raw=1, merge=1, a_addr=3, b_addr=3, **shape))
    execute(state, Matmul(k_steps=1, acc_addr=part, merge=1, a_addr=7, b_addr=7, **shape))
    assert (state.acc[part:part + 16] == whole).all() and whole.any()
    assert not state.flags[part:part + 16].any()


@pytest.mark.parametrize(("m", "n", "k"), [(3, 16, 64), (8, 64, 2048), (5, 64, 1000), (32, 96, 777), (90, 128, 300)])
def test_products_in_parts_are_exact(m: int, n: int, k: int, rng: np.random.Generator) -> None:
    """Shapes below, inside and above the range that is cut along k, with and without a rest."""
    a, b = (rng.integers(-2**18, 2**18, (rows, k)) for rows in (m, n))
    assert np.array_equal(float_matmul(a.astype(float), b.astype(float)), a @ b.T)


@pytest.mark.parametrize(("low", "step", "base"), [(1, 0, 3), (1, 1, -2), (0, 1, 2)])
def test_lower_limit_of_a_mask(low: int, step: int, base: int, rng: np.random.Generator) -> None:
    """Alone, and beside a causal limit: row 5 of a lower limit that rises from -2 keeps columns 3 to 5."""
    state = blank()
    fill(state, rng)
    acc, maxima = NANO.acc_addr(2), NANO.acc_addr(NANO.acc_banks)
    fields = {"mask_low": low, "mask_low_step": step, "mask_low_base": base}
    for mask in (0, 1):
        execute(state, Matmul(k_steps=4, m_rows=6, n_tiles=2, a_pitch=4, b_pitch=4, acc_addr=acc, acc_pitch=6, rowmax=1,
                              rowmax_init=1, rowmax_addr=maxima, mask=mask, mask_step=1, **fields))
        values = state.acc[acc:acc + 12].view(np.float32).reshape(2, 6, 4).transpose(1, 0, 2).reshape(6, 8)
        for i in range(6):
            hidden = [(low and column < base + step * i) or (mask and column > i) for column in range(8)]
            assert np.isneginf(values[i]).tolist() == list(map(bool, hidden))
            assert state.acc[maxima + i // 4, i % 4].view(np.float32) == values[i].max()


def test_mask_and_row_maximum(rng: np.random.Generator) -> None:
    state = blank()
    fill(state, rng)
    acc, maxima = NANO.acc_addr(2), NANO.acc_addr(NANO.acc_banks)
    common = {"k_steps": 4, "m_rows": 6, "n_tiles": 2, "a_pitch": 4, "b_pitch": 4, "acc_addr": acc,
              "acc_pitch": 6, "rowmax": 1, "rowmax_addr": maxima}
    execute(state, Matmul(mask=1, mask_step=1, mask_base=-1, rowmax_init=1, **common))
    values = state.acc[acc:acc + 12].view(np.float32).reshape(2, 6, 4).transpose(1, 0, 2).reshape(6, 8).copy()
    for i in range(6):
        for column in range(8):
            assert (values[i, column] == -np.inf) == (column > i - 1)
        assert state.acc[maxima + i // 4, i % 4].view(np.float32) == values[i].max()
    execute(state, Matmul(mask=1, mask_step=0, mask_base=0, **common))
    for i in range(6):
        first = state.acc[acc + i, 0].view(np.float32)
        assert state.acc[maxima + i // 4, i % 4].view(np.float32) == max(first, values[i].max())


@pytest.mark.parametrize("bits", [64, 80, 96])
def test_merge_wraps_at_the_accumulator_width(bits: int, rng: np.random.Generator) -> None:
    config = replace(NANO, acc_bits=bits, acc_banks=12)
    state = blank(config)
    fill(state, rng)
    planes, step = config.acc_planes, config.acc_addr(config.acc_plane_banks)
    old = rng.integers(0, 2**32, (planes, 4, 4), dtype=np.uint32)
    flags = rng.integers(0, 2, (4, 4)).astype(np.uint8)
    for p in range(planes):
        state.acc[p * step:p * step + 4] = old[p]
    state.flags[:4] = flags
    execute(state, Matmul(k_steps=2, m_rows=4, n_tiles=1, merge=1, raw=1))
    products = exact(state.a[:, :16], state.b[:, :16])
    for i in range(4):
        for c in range(4):
            before = sum(int(old[p, i, c]) << 32 * p for p in range(planes))
            value = products[i][c]
            assert value is not None
            total = (before + int(value * 2**18)) % 2**bits
            signed = total - (total >> (bits - 1) << bits)
            after = sum(int(state.acc[p * step + i, c]) << 32 * p for p in range(planes))
            assert after == signed % 2**(32 * planes)
            assert state.flags[i, c] == flags[i, c]
            state.flags[i, c] = 0
            once = blank(config)
            for p in range(planes):
                once.acc[p * step, 0] = signed >> 32 * p & 0xFFFFFFFF
            execute(once, Matmul(k_steps=1, m_rows=1, n_tiles=1, merge=1))
            assert once.acc[0, 0].view(np.float32) == to_fp32(Fraction(signed, 2**18))


def test_load_places_panels_and_chunks(rng: np.random.Generator) -> None:
    data = rng.integers(0, 256, 4096).astype(np.uint8)
    state = blank(dram=data)
    execute(state, Load(space=Space.A, dram_addr=64, row_stride=48, rows=6, row_bytes=20, addr=4,
                        row_offset=3, pitch=10))
    for i in range(6):
        panel, row_slice = divmod(3 + i, 4)
        start = (4 + 10 * panel) * 8
        assert (state.a[row_slice, start:start + 20] == data[64 + 48 * i:][:20]).all()
    assert np.count_nonzero(state.a) <= 6 * 20
    execute(state, Load(space=Space.ACC, dram_addr=0, row_stride=64, rows=3, row_bytes=40, addr=5, pitch=16))
    for i in range(3):
        words = data[64 * i:][:40].view("<u4")
        assert state.acc[5 + i].tolist() == words[:4].tolist()
        assert state.acc[21 + i].tolist() == words[4:8].tolist()
        assert state.acc[37 + i].tolist() == [*words[8:].tolist(), 0, 0]


def test_store_and_scatter_write_rows_only(rng: np.random.Generator) -> None:
    state = blank()
    fill(state, rng)
    state.acc[:] = rng.integers(0, 2**32, state.acc.shape, dtype=np.uint32)
    execute(state, Store(space=Space.ACC, dram_addr=1024, row_stride=64, rows=2, row_bytes=24, addr=1,
                         pitch=3))
    expected = np.zeros((2, 64), np.uint8)
    for i in range(2):
        expected[i, :24] = np.concatenate([state.acc[1 + i], state.acc[4 + i, :2]]).view(np.uint8)
    assert (state.dram[1024:1152].reshape(2, 64) == expected).all()
    execute(state, Store(space=Space.A, dram_addr=2052, row_stride=16, rows=5, row_bytes=4, addr=2, pitch=2,
                         src_byte=8))
    for i in range(5):
        assert (state.dram[2052 + 16 * i:][:4] == state.a[i % 4, (2 + 2 * (i // 4)) * 8 + 8:][:4]).all()
    state.index[3:5] = [7, 2]
    execute(state, Scatter(space=Space.A, dram_addr=4096, row_stride=32, rows=2, row_bytes=9, index_addr=3))
    for i, row in enumerate([7, 2]):
        assert (state.dram[4096 + 32 * row:][:9] == state.a[i, :9]).all()
    execute(state, Gather(space=Space.B, dram_addr=4096, row_stride=32, rows=2, row_bytes=9, index_addr=3))
    assert (state.b[:2, :9] == state.a[:2, :9]).all()


SCALED = replace(NANO, scales=("e8m0", "fp32"))


@pytest.mark.parametrize(("layout", "row_bytes", "groups"), [
    (ScaleLayout.G1, 32, [0, 1, 2, 3]), (ScaleLayout.G2, 64, [0, 2, 4, 6]), (ScaleLayout.G4, 64, [0, 4]),
    (ScaleLayout.G16, 256, [0, 16]), (ScaleLayout.FP32, 256, [0, 1, 2, 3, 16, 17, 18, 19])])
def test_scale_bytes_move_with_their_rows(layout: ScaleLayout, row_bytes: int, groups: list[int],
                                          rng: np.random.Generator) -> None:
    """LOAD and GATHER put byte i beside its group, other groups keep theirs; STORE and SCATTER are the inverse."""
    data, count = rng.integers(1, 256, 1 << 14).astype(np.uint8), len(groups)
    state = blank(SCALED, data)
    state.a_scale[:] = 255
    fields = {"space": Space.A, "row_stride": 256, "rows": 5, "row_bytes": row_bytes, "addr": 2, "pitch": 64,
              "row_offset": 3, "scale": layout}
    execute(state, Load(**fields, scale_addr=8192, scale_stride=8))
    expected = np.full_like(state.a_scale, 255)
    for i in range(5):
        panel, row_slice = divmod(3 + i, 4)
        expected[row_slice, [2 + 64 * panel + g for g in groups]] = data[8192 + 8 * i:][:count]
    assert (state.a_scale == expected).all() and not state.b_scale.any()
    execute(state, Store(**fields, dram_addr=1 << 14, scale_addr=(1 << 15) + 3, scale_stride=16))
    for i in range(5):
        assert (state.dram[(1 << 14) + 256 * i:][:row_bytes] == data[256 * i:][:row_bytes]).all()
        stored = state.dram[(1 << 15) + 16 * i:][:16]
        assert stored[3:3 + count].tolist() == data[8192 + 8 * i:][:count].tolist()
        assert not stored[:3].any() and not stored[3 + count:].any()
    state.index[:2] = [4, 1]
    execute(state, Gather(**fields | {"space": Space.B, "rows": 2, "row_offset": 0}, scale_addr=1 << 15,
                          scale_stride=16))
    assert state.b_scale[0, 5 if layout == ScaleLayout.G1 else 2 + groups[-1]] in state.dram[(1 << 15) + 64:][:16]
    execute(state, Scatter(**fields | {"rows": 2}, dram_addr=40 << 10, scale_addr=48 << 10, scale_stride=16))
    for i, row in enumerate([4, 1]):
        assert (state.dram[(48 << 10) + 16 * row:][:count] == data[8192 + 8 * i:][:count]).all()


def test_a_shared_row_of_scale_bytes(rng: np.random.Generator) -> None:
    state = blank(SCALED, rng.integers(0, 256, 4096).astype(np.uint8))
    execute(state, Load(space=Space.B, rows=6, row_bytes=16, row_stride=16, pitch=2, scale=ScaleLayout.G1,
                        scale_addr=1024))
    assert (state.b_scale[:, :2] == state.dram[1024:1026]).all()
    assert (state.b_scale[:2, 2:4] == state.dram[1024:1026]).all()


@pytest.mark.parametrize(("instruction", "text"), [
    (Load(space=Space.A, rows=1, row_bytes=16, dram_addr=1 << 16), "DRAM address 65551"),
    (Load(space=Space.A, rows=1, row_bytes=16, addr=(1 << NANO.a_addr_bits) - 1), "A slice bytes"),
    (Load(space=Space.ACC, rows=2, row_bytes=16, addr=511), "ACC rows 511..512 of 512"),
    (Load(space=Space.INDEX, rows=1, row_bytes=16, addr=126), "INDEX"),
    (Gather(space=Space.A, rows=2, row_bytes=16, index_addr=127), "entries 127..128"),
    (Matmul(k_steps=1, m_rows=1, n_tiles=1, a_addr=(1 << NANO.a_addr_bits)), "operand slice bytes"),
    (Matmul(k_steps=1, m_rows=1, n_tiles=1, acc_addr=511, raw=1), "ACC rows"),
])
def test_addresses_outside_a_memory_are_named(instruction, text: str) -> None:
    program = Program(config=NANO, instructions=[instruction, Halt()], program_addr=0, dram_bytes=1 << 16)
    with pytest.raises(SimulationError, match=r"instruction 0 \(.*" + text):
        run_reference(program)


def test_a_page_must_be_loaded_and_the_end_must_be_a_halt() -> None:
    page = NANO.imem_page
    with pytest.raises(SimulationError, match=rf"instruction {page} \(HALT\): page 1 is not in the instr"):
        run_reference(Program(config=NANO, instructions=[Sync()] * page + [Halt()], program_addr=0,
                              dram_bytes=1 << 16))
    with pytest.raises(SimulationError, match="expected a HALT"):
        run_reference(Program(config=NANO, instructions=[Sync()], program_addr=0, dram_bytes=1 << 16))
