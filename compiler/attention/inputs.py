"""Quantized tensors and DRAM layout of an attention layer.

Without tensors (timing only) every matrix starts as zeros: no cycle depends on a value.
"""

from dataclasses import dataclass

import numpy as np

from ...rtl.spec.tensor_formats import TensorFormat
from ..builder import ProgramBuilder
from ..dram import MakeArray, Matrix, code_matrix, float_matrix
from ..formats import value_weights
from ..graph.calibrate import Scales
from ..graph.ops.rotary import rotary_rows
from ..layers import Workload
from ..numerics import DEFAULT, Numerics
from ..operands import Operand, ScaleTable, place_operand, place_scales
from ..quantize import StoredTensor, store
from ..schedule import AttentionSchedule
from ..tensors import AttentionTensors
from ..tiles.buffers import align
from .heads import mixed_head, rotated_head, spread_heads
from .problems import projection_problems


@dataclass(frozen=True, kw_only=True)
class AttentionMemory:
    """Matrices of the layer in DRAM.

    head_bytes: bytes of one head's row of q or k, head_dim padded to the bus; q has heads * head_bytes columns.
    rotated_head: columns of one head in wq's and wk's results, see `rotated_head`; so many rows have they per head.
    mixed_head: elements per head of mixed, see `mixed_head`; mixed has heads * mixed_head columns, and so has wo.
    x_scales_v: the block scales of x, cut as the value projection loads them.
    k[s][g]: (keys, head_bytes) of sequence s and kv head g. v[s]: (kv_heads * head_dim, keys) transposed, keys
    padded with zero codes. cos, sin: FP32, a row per row of x, laid out as the rotary epilogue reads them. q_norm,
    k_norm: FP32 weights, a row per column tile of a head, or of all heads.
    """

    head_bytes: int
    rotated_head: int
    mixed_head: int
    x: Operand
    x_scales_v: ScaleTable | None
    wq: Operand
    wk: Operand
    wv: Operand
    wo: Operand
    cos: Matrix
    sin: Matrix
    q_norm: Matrix | None
    k_norm: Matrix | None
    q: Matrix
    k: tuple[tuple[Matrix, ...], ...]
    v: tuple[Matrix, ...]
    mixed: Operand
    out: Matrix


def lay_out(builder: ProgramBuilder, workload: Workload, schedule: AttentionSchedule, scales: Scales,
            tensors: AttentionTensors | None, numerics: Numerics = DEFAULT) -> AttentionMemory:
    """Allocate every matrix of the layer, with data when there are tensors."""
    layer, config, formats, rule = workload.attention, builder.config, numerics.formats, numerics.scale_rule
    x_format, weights, wv_format = formats.activations, formats.weights, value_weights(formats)
    head_bytes = align(layer.head_dim, config.bus_bytes)
    rotated = rotated_head(layer, config)
    problems = projection_problems(workload, config, formats)
    hidden, mixed_k = problems["q"].k, problems["out"].k
    mixed_pitch = mixed_head(layer.head_dim, config.bus_bytes, formats)

    def stored(name: str, tensor_format: TensorFormat, square: bool) -> StoredTensor:
        return store(getattr(tensors, name), tensor_format, scales[name], rule, square)

    def rotated_weight(name: str, heads: int, chunk: int) -> Operand:
        def make() -> StoredTensor:
            held = stored(name, weights, True)
            return StoredTensor(*(spread_heads(part, layer.head_dim, rotated) for part in (held.codes, held.scales)))
        return place_operand(builder, name, heads * rotated, hidden, weights, make if tensors else None, chunk=chunk,
                             packed=True)

    def make_wo() -> StoredTensor:
        assert tensors is not None
        wide = np.zeros((layer.hidden, layer.heads, mixed_pitch), np.float32)
        wide[:, :, :layer.head_dim] = tensors.wo.reshape(layer.hidden, layer.heads, layer.head_dim)
        return store(wide.reshape(layer.hidden, -1), weights, scales["wo"], rule, square=True)

    cos, sin = _rotary_matrices(builder, workload)
    norms = {}
    for name in ("q_norm", "k_norm"):
        norms[name] = None
        if layer.qk_norm != "none":
            heads = 1 if layer.qk_norm == "head" else layer.heads if name == "q_norm" else layer.kv_heads
            norms[name] = _norm_matrix(builder, name, heads, layer.head_dim, rotated, tensors)
    make_x = (lambda: stored("x", x_format, False)) if tensors else None
    x = place_operand(builder, "x", workload.rows, hidden, x_format, make_x)
    x_scales_v = None
    if x_format.scaled:
        x_scales_v = place_scales(builder, "x for v", workload.rows, hidden, x_format,
                                  (lambda: make_x().scales) if make_x else None, chunk=schedule.v.k_tile, packed=True)
    wv_chunk = hidden if schedule.v.a_resident else schedule.v.k_tile
    return AttentionMemory(
        head_bytes=head_bytes, rotated_head=rotated, mixed_head=mixed_pitch, x=x, x_scales_v=x_scales_v,
        wq=rotated_weight("wq", layer.heads, schedule.q.k_tile),
        wk=rotated_weight("wk", layer.kv_heads, schedule.k.k_tile),
        wv=place_operand(builder, "wv", layer.kv_width, hidden, wv_format,
                         (lambda: stored("wv", wv_format, True)) if tensors else None, chunk=wv_chunk),
        wo=place_operand(builder, "wo", layer.hidden, mixed_k, weights, make_wo if tensors else None,
                         chunk=schedule.out.k_tile, packed=True),
        cos=cos, sin=sin, **norms,
        q=code_matrix(builder, "q", workload.rows, layer.heads * head_bytes),
        k=tuple(_k_cache(builder, workload, scales, tensors, s, formats.kv) for s in range(workload.batch)),
        v=tuple(_v_cache(builder, workload, scales, tensors, s, formats.kv) for s in range(workload.batch)),
        mixed=place_operand(builder, "mixed", workload.rows, mixed_k, x_format, None),
        out=float_matrix(builder, "out", workload.rows, layer.hidden))


def _k_cache(builder: ProgramBuilder, workload: Workload, scales: Scales, tensors: AttentionTensors | None,
             sequence: int, kv: TensorFormat) -> tuple[Matrix, ...]:
    layer = workload.attention

    def make(head: int) -> MakeArray | None:
        if tensors is None or not workload.cached:
            return None
        cache = tensors.k_cache[sequence, head]

        def fill() -> np.ndarray:
            rows = np.zeros((workload.keys, layer.head_dim), np.uint8)
            rows[:workload.cached] = store(cache, kv, scales["k"]).codes
            return rows
        return fill

    return tuple(code_matrix(builder, f"k_cache.{sequence}.{g}", workload.keys, layer.head_dim, make(g))
                 for g in range(layer.kv_heads))


def _v_cache(builder: ProgramBuilder, workload: Workload, scales: Scales, tensors: AttentionTensors | None,
             sequence: int, kv: TensorFormat) -> Matrix:
    layer = workload.attention

    def fill() -> np.ndarray:
        assert tensors is not None
        rows = np.zeros((layer.kv_heads, layer.head_dim, workload.keys), np.uint8)
        flat = tensors.v_cache[sequence].reshape(-1, layer.head_dim)
        cached = store(flat, kv, scales["v"]).codes.reshape(layer.kv_heads, workload.cached, layer.head_dim)
        rows[:, :, :workload.cached] = cached.transpose(0, 2, 1)
        return rows.reshape(layer.kv_width, workload.keys)

    return code_matrix(builder, f"v_cache.{sequence}", layer.kv_width, workload.keys,
                       fill if tensors and workload.cached else None)


def rotary_lanes(rotated: int, cols: int) -> int:
    """Width of a rotary table row: half of ``rotated`` when halves lie in different column tiles, else all columns."""
    return rotated // 2 if rotated > cols else cols


def _rotary_matrices(builder: ProgramBuilder, workload: Workload) -> tuple[Matrix, Matrix]:
    layer, cols = workload.attention, builder.config.cols
    rotated = rotated_head(layer, builder.config)
    width = rotary_lanes(rotated, cols)

    def tables() -> tuple[np.ndarray, np.ndarray]:
        padding = ((0, 0), (0, (rotated - layer.head_dim) // 2))
        cos, sin = (np.pad(table, padding) for table in rotary_rows(workload))
        if rotated <= cols:
            repeat = cols // rotated
            cos = np.tile(np.concatenate([cos, cos], axis=1), (1, repeat))
            sin = np.tile(np.concatenate([-sin, sin], axis=1), (1, repeat))
        return cos, sin

    return (float_matrix(builder, "cos", workload.rows, width, lambda: tables()[0]),
            float_matrix(builder, "sin", workload.rows, width, lambda: tables()[1]))


def _norm_matrix(builder: ProgramBuilder, name: str, heads: int, head_dim: int, rotated: int,
                 tensors: AttentionTensors | None) -> Matrix:
    """The norm's weights for ``heads`` heads, one row per column tile."""
    cols = builder.config.cols

    def fill() -> np.ndarray:
        weights = np.asarray(getattr(tensors, name), np.float32)
        return spread_heads(weights[:, None], head_dim, rotated).reshape(-1, cols)

    return float_matrix(builder, name, heads * rotated // cols, cols, fill if tensors else None)
