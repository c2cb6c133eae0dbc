"""Programs whose runs give the stimuli: one matrix product of given operands, and a small attention layer."""

from __future__ import annotations

import numpy as np

from tilescore.compiler.builder import ProgramBuilder
from tilescore.compiler.compile import compile_layer
from tilescore.compiler.dram import float_matrix, float_output
from tilescore.compiler.emitter import Emitter
from tilescore.compiler.gemm import GemmProblem, Group, emit_gemm
from tilescore.compiler.layers import AttentionLayer, Workload
from tilescore.compiler.operands import Operand, place_operand
from tilescore.compiler.quantize import store, tensor_factor
from tilescore.compiler.schedule import GemmSchedule
from tilescore.compiler.tensors import synthetic
from tilescore.compiler.tiles.buffers import place
from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.tensor_formats import TENSOR_FORMATS
from tilescore.sim.program import Program

M, N = 4, 16
"""Rows of the operands of a product."""

K_BYTES = 256
"""Codes of a row: 32 steps of 8 lanes to one result."""

LAYER = Workload(layer=AttentionLayer(hidden=32, heads=1, kv_heads=1, head_dim=32), tokens=16)


def elements(tensor_format: str) -> int:
    """k of a product."""
    return K_BYTES * 8 // TENSOR_FORMATS[tensor_format].bits


def gaussian_operands(tensor_format: str) -> tuple[np.ndarray, np.ndarray]:
    """Both standard normal."""
    rng = np.random.default_rng(1)
    k = elements(tensor_format)
    return rng.standard_normal((M, k), np.float32), rng.standard_normal((N, k), np.float32)


def layer_operands(tensor_format: str) -> tuple[np.ndarray, np.ndarray]:
    """Input and the first weights of the Q projection of a synthetic attention layer: the input has outlier channels
    (`compiler.tensors`), to which the scale of a whole tensor has to reach."""
    layer = AttentionLayer(hidden=elements(tensor_format), heads=4, kv_heads=2, head_dim=elements(tensor_format) // 4)
    tensors = synthetic(Workload(layer=layer, tokens=M), 0)
    return tensors.x, tensors.wq[:N]


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

    problem = GemmProblem(name="c", m=m, n=n, k=k, layer_k=k, a=spec, b=spec)
    emit_gemm(emitter, problem, schedule, operand("a", a), operand("b", b),
              place(problem.buffers(schedule, config), config, "c"), finish)
    float_output(builder, "out", out, m, n)
    return builder.finish()


def layer_program(config: TileConfig) -> Program:
    """`LAYER`, with data."""
    return compile_layer(LAYER, config).program
