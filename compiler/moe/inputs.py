"""Quantized tensors and DRAM layout of an MoE layer.

Routing is decided before the program is built: by the tile's own logits (`logits.py`) or by ``--routing``. The combine
weights are computed on the tile either way.
"""

from dataclasses import dataclass

import numpy as np

from ...rtl.spec.tensor_formats import TENSOR_FORMATS
from ..builder import ProgramBuilder
from ..dram import Matrix, float_matrix
from ..graph.calibrate import Scales
from ..layers import Workload
from ..numerics import DEFAULT, Numerics
from ..operands import Operand, place_operand
from ..quantize import StoredTensor, store
from ..routing import Routing
from ..schedule import MoESchedule
from ..tensors import MoETensors
from .logits import split_terms
from .problems import expert_problems, router_problem

NEGATIVE_INFINITY = np.float32(-np.inf)


@dataclass(frozen=True, kw_only=True)
class ExpertMemory:
    """gate_up: blocks of ``cols`` gate rows and ``cols`` up rows in turn; down: (hidden, width)."""

    gate_up: Operand
    down: Operand


@dataclass(frozen=True, kw_only=True)
class MoEMemory:
    """Matrices of the layer in DRAM.

    width: intermediate size padded to whole column tiles, bus beats and blocks. x_router, router: their E4M3 terms side
    by side along k (`logits.py`); x_router is x itself if one term is what the activations are. bias: FP32 (rows,
    experts), 0 where the softmax counts an expert, -inf elsewhere. weights: FP32 (rows, experts) combine weights, made
    by the tile.
    slots: FP32 (rows * top_k, hidden), the weighted expert results, ordered by expert, then token.
    """

    width: int
    x: Operand
    x_router: Operand
    router: Operand
    bias: Matrix
    one_hot: Matrix
    zeros: Matrix
    experts: dict[int, ExpertMemory]
    weights: Matrix
    slots: Matrix
    out: Matrix


def lay_out(builder: ProgramBuilder, workload: Workload, routing: Routing, schedule: MoESchedule, scales: Scales,
            tensors: MoETensors | None, numerics: Numerics = DEFAULT) -> MoEMemory:
    """Allocate every matrix of the layer, with data when there are tensors."""
    moe, config, terms = workload.moe, builder.config, numerics.router_terms
    plain, activations = TENSOR_FORMATS["e4m3"], numerics.formats.activations
    routed = router_problem(workload, config, numerics)
    gate_up, down = expert_problems(workload, config, numerics, schedule.gate_up.m_tile)
    width, hidden, experts_padded = down.k, gate_up.k, routed.n
    beat_lanes = config.bus_bytes // 4

    def terms_of(name: str, label: str, factor: float, count: int, k: int, pad_rows: int = 1) -> Operand:
        """``k`` elements per term."""
        def make() -> StoredTensor:
            codes = np.zeros((count, terms, k), np.uint8)
            for term, part in enumerate(split_terms(getattr(tensors, name), factor, terms)):
                codes[:, term, :moe.hidden] = part
            return StoredTensor(codes.reshape(count, terms * k), np.zeros((count, 0), np.uint8))
        return place_operand(builder, label, count, terms * k, plain, make if tensors else None, pad_rows=pad_rows)

    def bias() -> np.ndarray:
        values = np.full((workload.rows, experts_padded), NEGATIVE_INFINITY, np.float32)
        if moe.norm_topk:
            np.put_along_axis(values, routing.chosen.astype(np.int64), np.float32(0), axis=1)
        else:
            values[:, :moe.experts] = 0
        return values

    x = place_operand(builder, "x", workload.rows, hidden, activations,
                      (lambda: store(tensors.x, activations, scales["x"], numerics.scale_rule)) if tensors else None)
    x_router = x if terms == 1 and activations == plain else terms_of(
        "x", "x for the router", scales["x terms"], workload.rows, routed.k)
    return MoEMemory(
        width=width, x=x, x_router=x_router,
        router=terms_of("router", "router", scales["router terms"], moe.experts, routed.k, config.cols),
        bias=float_matrix(builder, "bias", workload.rows, experts_padded, bias),
        one_hot=float_matrix(builder, "one_hot", beat_lanes, config.cols,
                             lambda: np.eye(beat_lanes, config.cols, dtype=np.float32)),
        zeros=float_matrix(builder, "zeros", min(schedule.gate_up.m_tile, workload.rows), config.cols),
        experts={e: _expert(builder, workload, schedule, width, hidden, e, scales, tensors, numerics)
                 for e in routing.active},
        weights=float_matrix(builder, "weights", workload.rows, experts_padded),
        slots=float_matrix(builder, "slots", workload.rows * moe.top_k, moe.hidden),
        out=float_matrix(builder, "out", workload.rows, moe.hidden))


def _expert(builder: ProgramBuilder, workload: Workload, schedule: MoESchedule, width: int, hidden: int, expert: int,
            scales: Scales, tensors: MoETensors | None, numerics: Numerics) -> ExpertMemory:
    moe, cols, weights, rule = workload.moe, builder.config.cols, numerics.formats.weights, numerics.scale_rule

    def gate_up() -> StoredTensor:
        assert tensors is not None
        held = tensors.expert(expert)
        sides = []
        for name in ("gate", "up"):
            values = _padded(getattr(held, name), (width, moe.hidden))
            sides.append(store(values, weights, scales[expert, name], rule, square=True))
        return StoredTensor(*(_alternate([getattr(side, part) for side in sides], cols)
                              for part in ("codes", "scales")))

    def down() -> StoredTensor:
        assert tensors is not None
        values = _padded(tensors.expert(expert).down, (moe.hidden, width))
        return store(values, weights, scales[expert, "down"], rule, square=True)

    return ExpertMemory(
        gate_up=place_operand(builder, f"expert{expert}.gate_up", 2 * width, hidden, weights,
                              gate_up if tensors else None, chunk=schedule.gate_up.k_tile, packed=True),
        down=place_operand(builder, f"expert{expert}.down", moe.hidden, width, weights, down if tensors else None,
                           chunk=schedule.down.k_tile, packed=True))


def _padded(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """``values`` with zeros behind its rows and columns, itself if it has the shape."""
    return values if values.shape == shape else np.pad(values, [(0, n - m) for m, n in zip(values.shape, shape,
                                                                                         strict=True)])


def _alternate(sides: list[np.ndarray], cols: int) -> np.ndarray:
    """Blocks of ``cols`` rows of the first and of the second array in turn."""
    width, size = sides[0].shape
    return np.stack([side.reshape(width // cols, cols, size) for side in sides], axis=1).reshape(2 * width, size)
