"""A small layer cut out of a large one, for cross-checks at RTL level.

The slice is a real layer of its own: the first heads, features, experts and tokens of the full layer, with the
corresponding parts of its tensors. It is small enough for a cycle-by-cycle simulation of the hardware and takes
every path that the full layer takes.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from .graph.layers import layer_graph
from .layers import Workload
from .numerics import Numerics
from .tensors import ExpertWeights, LayerTensors

SLICE_SIZES = {"hidden": 32, "head_dim": 16, "group": 2, "kv_heads": 1, "intermediate": 32, "experts": 4, "top_k": 2}
SLICE_KEYS, SLICE_ROWS = 18, 6
"""Tokens of a sequence where there is attention, else."""

SLICE_NUMERICS = Numerics(softmax_block=16)
"""Of a slice: its few keys make more than one softmax block, so that blocks are merged as in the full layer."""


def slice_workload(workload: Workload) -> Workload:
    """The same phase and mask with every size cut to the slice's."""
    most = SLICE_KEYS if workload.attends else SLICE_ROWS
    small = {"tokens": min(workload.tokens, most), "batch": min(workload.batch, 2),
             "context": min(workload.cached, most)}
    return replace(workload, layer=workload.layer.cut(SLICE_SIZES), **small)


def slice_tensors(tensors: LayerTensors, workload: Workload) -> LayerTensors:
    """The parts of ``tensors`` that belong to ``workload``, a `slice_workload` of theirs: of every factor of every
    axis the first."""
    full, small = (layer_graph(which).given() for which in (tensors.workload, workload))

    def cut(name: str, values: np.ndarray, first: int = 0) -> np.ndarray:
        """A tensor, or with ``first`` what is left of one without its first axes."""
        few = tuple(map(slice, small[name].factors[first:]))
        return values.reshape(full[name].factors[first:])[few].reshape(small[name].shape[first:]).copy()

    def load_expert(index: int) -> ExpertWeights:
        held = tensors.expert(index)
        parts: dict[str, Any] = {name: cut(name, getattr(held, name), 1) for name in small if small[name].one_by_one}
        return ExpertWeights(**parts)

    arrays: dict[str, Any] = {name: cut(name, values) for name, values in tensors.arrays.items()}
    return LayerTensors(workload=workload, load_expert=load_expert if tensors.load_expert else None, **arrays)
