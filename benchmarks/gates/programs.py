"""Programs whose runs give the stimuli: matrix products of given operands, and VECTOR instructions of one kind each."""

from __future__ import annotations

import numpy as np

from tilescore.compiler.builder import ProgramBuilder
from tilescore.compiler.dram import float_matrix, float_output
from tilescore.compiler.emitter import Emitter, acc, imm
from tilescore.compiler.gemm import Group, acc_regions, emit_gemm
from tilescore.compiler.layers import AttentionLayer, Workload
from tilescore.compiler.operands import Operand, place_operand
from tilescore.compiler.placement import AccPlacer, OperandPlacer
from tilescore.compiler.quantize import store, tensor_factor
from tilescore.compiler.schedule import GemmSchedule
from tilescore.compiler.tensors import synthetic
from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.isa import Combine, Func, Reduce
from tilescore.rtl.spec.tensor_formats import TENSOR_FORMATS
from tilescore.sim.program import Program

VECTOR_ROWS = 32
"""Rows of one VECTOR of `vector_program`."""

VECTOR_KINDS: dict[str, dict] = {
    "copy": {}, "add": {"combine": Combine.ADD, "z": acc(VECTOR_ROWS)}, "sum": {"reduce": Reduce.SUM},
    "exp2": {"func": Func.EXP2}, "codes": {"to_acc": None, "to_a": 0, "dst_pitch": 1},
}
"""What a kind's VECTOR has beyond x times an immediate to ACC."""


def gaussian_operands(m: int, n: int, k: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """(m, k) and (n, k), standard normal."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((m, k), np.float32), rng.standard_normal((n, k), np.float32)


def layer_operands(m: int, n: int, k: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Input and the first weights of the Q projection of a synthetic attention layer: the input has outlier channels
    (`compiler.tensors`), to which the scale of a whole tensor has to reach."""
    layer = AttentionLayer(hidden=k, heads=4, kv_heads=2, head_dim=k // 4)
    tensors = synthetic(Workload(layer=layer, tokens=m), seed)
    return tensors.x, tensors.wq[:n]


def product_program(config: TileConfig, tensor_format: str, a: np.ndarray, b: np.ndarray) -> Program:
    """``a @ b.T`` of operands quantized as the compiler does: a factor per tensor and, if the format has them, block
    scales."""
    builder = ProgramBuilder(config)
    emitter = Emitter(builder)
    spec = TENSOR_FORMATS[tensor_format]

    def operand(name: str, x: np.ndarray) -> Operand:
        factor = tensor_factor(spec, float(np.abs(x).max()))
        return place_operand(builder, name, *x.shape, spec, lambda: store(x, spec, factor))

    m, n, k = len(a), len(b), a.shape[1]
    out = float_matrix(builder, "out", m, n)
    tiles = -(-n // config.cols)
    schedule = GemmSchedule(m_tile=m, k_tile=k, n_tiles=tiles, group_tiles=tiles, a_resident=True, k_outer=False)

    def finish(group: Group) -> None:
        emitter.store_acc(out, first_row=group.m0, rows=group.rows, first_byte=4 * group.n0, row_bytes=4 * n,
                          addr=group.addr, pitch=group.pitch)

    emit_gemm(emitter, schedule, name="c", a=operand("a", a), b=operand("b", b), m=m, n=n, layer_k=k, epilogue=finish,
              regions=acc_regions(AccPlacer(config, "c"), schedule, k, m, n, config.cols),
              a_placer=OperandPlacer(config, "A", "c"))
    float_output(builder, "out", out, m, n)
    return builder.finish()


def vector_program(config: TileConfig, kind: str, repeats: int = 4) -> Program:
    """VECTORs of one of `VECTOR_KINDS` on normal operands: rows from 0 to ACC rows twice `VECTOR_ROWS` further."""
    builder = ProgramBuilder(config)
    emitter = Emitter(builder)
    rng = np.random.default_rng(2)
    source = float_matrix(builder, "x", 2 * VECTOR_ROWS, config.cols,
                          lambda: rng.standard_normal((2 * VECTOR_ROWS, config.cols), np.float32))
    out = float_matrix(builder, "out", VECTOR_ROWS, config.cols)
    emitter.load_rows(source, first_row=0, rows=2 * VECTOR_ROWS, addr=0)
    for _ in range(repeats):
        emitter.vector(**({"rows": VECTOR_ROWS, "x": 0, "y": imm(0.75), "to_acc": 2 * VECTOR_ROWS,
                           "reduce_addr": config.acc_addr(config.acc_banks)} | VECTOR_KINDS[kind]))
    emitter.store_acc(out, first_row=0, rows=VECTOR_ROWS, first_byte=0, row_bytes=4 * config.cols, addr=0, pitch=0)
    float_output(builder, "out", out, VECTOR_ROWS, config.cols)
    return builder.finish()
