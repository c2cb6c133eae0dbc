"""The float tensors of one layer, in the layouts of ``torch.nn.Linear``, and their quantization to E4M3.

Every weight matrix is ``(out_features, in_features)`` float32. A container checks shapes, dtype and
finiteness when it is made, so whoever holds one need not. Experts are made on demand: the 128 experts of
Qwen3-30B-A3B are 604 M weights (2.4 GB), and a decode step uses a few of them.

Synthetic tensors are what trained ones look like where it matters for FP8: weights are normal with variance
1 / fan_in, activations are unit normal with a few *outlier channels* 20 to 60 times larger, at the same
channels for every token (LLM.int8(), arXiv 2208.07339, section 4, reports up to 6 such feature dimensions,
about 20 times larger; SmoothQuant, arXiv 2211.10438, about 100 times).

The normal generator looks 16 random bits up in a table of 65,536 quantiles: 2 ns per value, where
``Generator.standard_normal`` takes 11 to 15 (measured, float32), and it rests on raw bits, whose stream numpy
guarantees. The price is a tail that ends at 4.3 sigma.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from ..rtl.spec.errors import WorkloadError
from ..sim.numerics.arithmetic import quantize_e4m3
from .graph.ir import Graph, Role
from .graph.layers import layer_graph
from .graph.ops.layer_norm import Norm
from .layers import EmbeddingLayer, Workload
from .seeds import check_seed

if TYPE_CHECKING:
    from .stored_weight import StoredWeight

OUTLIER_EVERY = 512
"""One outlier channel per this many (at least one)."""
OUTLIER_GAIN = (20.0, 60.0)
"""Range of the gain of an outlier channel."""
CACHE_STD = 2.0
"""Spread of cached v, and of cached k without QK-norm: what the synthetic projections of synthetic x
produce."""
BIAS_STD = 0.5
"""Spread of biases, and of other vectors that are added."""

E4M3_MAX = 448.0
MIN_SCALE = 2.0**-126
"""Smallest scale used: below it float32 is subnormal, x / scale loses bits and may overflow."""

_CHUNK = 1 << 17
_LOOKUP = 1 << 15
"""Values per lookup in the table of quantiles: it, the indices and the results stay in the second-level cache (2.0 ns
per value, whole tensors and numpy's own conversion of the indices 3.0)."""

_TENSOR_IDS = {
    name: number
    for number, name in enumerate(
        (
            "x",
            "outliers",
            "wq",
            "wk",
            "wv",
            "wo",
            "q_norm",
            "k_norm",
            "k_cache",
            "v_cache",
            "router",
            "gate",
            "up",
            "down",
            "input_norm",
            "post_norm",
            "norm",
            "bq",
            "bk",
            "bv",
            "bo",
            "sinks",
            "router_bias",
            "correction",
            "shared_gate",
            "shared_up",
            "shared_down",
            "shared_router",
            "gate_bias",
            "up_bias",
            "down_bias",
            "wq_a",
            "wkv_a",
            "wkv_b",
            "bq_a",
            "bkv_a",
            "q_a_norm",
            "kv_a_norm",
            "kv_a_cache",
            "k_rope_cache",
            "ids",
            "table",
            "final_norm",
            "head",
            "attention_norm",
            "feed_forward_norm",
            "input_norm_bias",
            "post_norm_bias",
            "attention_norm_bias",
            "feed_forward_norm_bias",
            "norm_bias",
            "final_norm_bias",
            "head_bias",
        )
    )
}


def check_tensor(where: str, name: str, value: object, shape: tuple[int, ...]) -> None:
    """Raise WorkloadError unless ``value`` is a finite float32 array of ``shape``."""
    if not isinstance(value, np.ndarray):
        raise WorkloadError(f"{where}: {name}: expected a float32 array {shape}, got {type(value).__name__}")
    if value.dtype != np.float32:
        raise WorkloadError(f"{where}: {name}: dtype: expected float32, got {value.dtype}")
    if value.shape != shape:
        raise WorkloadError(f"{where}: {name}: shape: expected {shape}, got {value.shape}")
    finite = np.isfinite(value)
    if not finite.all():
        first = np.unravel_index(int(np.argmin(finite)), shape)
        position = tuple(int(i) for i in first)
        raise WorkloadError(
            f"{where}: {name}: element {position}: expected a finite number, got {value[first]}"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class ExpertWeights:
    """One expert, float32: ``gate, up (intermediate, hidden)``, ``down (hidden, intermediate)``, and the biases of
    their results where there are such."""

    gate: np.ndarray
    up: np.ndarray
    down: np.ndarray
    gate_bias: np.ndarray | None = None
    up_bias: np.ndarray | None = None
    down_bias: np.ndarray | None = None
    stored: Mapping[str, StoredWeight] = field(default_factory=dict)
    """Those that a checkpoint holds in a format of the tile, by name."""


class GraphTensors:
    """The given values of a graph, float32, as attributes by their names in it.

    arrays: by name, in the shapes of `Graph.given`. load_expert: makes the weights of an expert, where those are made
    one by one. held: weights as a checkpoint has them, in a format of the tile; ``arrays`` has their values too.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], load_expert: Callable[[int], ExpertWeights] | None = None,
                 held: Mapping[str, StoredWeight] | None = None) -> None:
        self.arrays, self.load_expert, self.held = dict(arrays), load_expert, held or {}

    def __getattr__(self, name: str) -> np.ndarray:
        try:
            return self.__dict__["arrays"][name]
        except KeyError:
            raise AttributeError(f"the layer has no tensor {name}") from None

    def weight(self, key: Hashable) -> np.ndarray:
        """A weight by its name, or that of an expert by (expert, name)."""
        return getattr(self.expert(key[0]), key[1]) if isinstance(key, tuple) else self.arrays[str(key)]

    def stored(self, key: Hashable) -> StoredWeight | None:
        """The same as a checkpoint holds it, if in a format of the tile."""
        if isinstance(key, tuple):
            return self.expert(key[0]).stored.get(key[1])
        return self.held.get(str(key))

    def expert(self, index: int) -> ExpertWeights:
        """The weights of expert ``index``."""
        if self.load_expert is None:
            raise WorkloadError(f"expert {index}: these tensors have no experts")
        return self.load_expert(index)


class LayerTensors(GraphTensors):
    """Those of a workload's layer (`layer_graph`): input, weights and caches, in the shapes of `tensor_shapes`. ``x``
    is the input, ``(rows, hidden)``; weights are ``(out_features, in_features)``; keys are cached after QK-norm and
    rotation.

    ``load_expert(e)`` makes the weights of expert e where the layer has experts; ``expert(e)`` calls it and checks what
    it returns. Only the last one is kept, for each thread: an expert is made again each time, always the same.
    """

    def __init__(self, *, workload: Workload, load_expert: Callable[[int], ExpertWeights] | None = None,
                 held: Mapping[str, StoredWeight] | None = None, **arrays: np.ndarray):
        super().__init__(arrays, load_expert, held)
        self.workload = workload
        self._last = threading.local()
        shapes, where = {}, self._where
        for name, value in layer_graph(workload).given().items():
            if not value.one_by_one:
                shapes[name] = value.shape
        if unknown := set(arrays) - set(shapes):
            raise WorkloadError(f"{where}: {sorted(unknown)[0]}: the layer has no such tensor; expected "
                                f"{', '.join(shapes)}")
        for name, shape in shapes.items():
            check_tensor(where, name, arrays.get(name), shape)

    @property
    def _where(self) -> str:
        return f"{self.workload.layer.kind} tensors of {self.workload.layer.model}"

    def replace(self, workload: Workload | None = None, **arrays: np.ndarray) -> LayerTensors:
        """The same with other arrays, or for another workload."""
        held = {name: weight for name, weight in self.held.items() if name not in arrays}
        return LayerTensors(workload=workload or self.workload, load_expert=self.load_expert, held=held,
                            **self.arrays | arrays)

    def expert(self, index: int) -> ExpertWeights:
        """The checked weights of expert ``index``."""
        where = f"{self._where}: expert {index}"
        shapes = {name: value.shape for name, value in layer_graph(self.workload).weights().items() if value.one_by_one}
        experts = next((shape[0] for shape in shapes.values()), 0)
        if not 0 <= index < experts or self.load_expert is None:
            raise WorkloadError(f"{where}: expected an expert from 0 to {experts - 1}")
        if getattr(self._last, "index", None) == index:
            return self._last.weights
        weights = self.load_expert(index)
        for name, shape in shapes.items():
            check_tensor(where, name, getattr(weights, name), shape[1:])
        self._last.index, self._last.weights = index, weights
        return weights


def tensor_shapes(workload: Workload) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of a workload's layer: input, weights (those of experts with the experts first), caches."""
    return {name: value.shape for name, value in layer_graph(workload).given().items()}


@cache
def _quantiles() -> np.ndarray:
    """Normal quantiles at the centres of 65,536 equal probabilities, scaled to unit variance."""
    normal = NormalDist()
    values = np.array([normal.inv_cdf((i + 0.5) / 65536) for i in range(65536)])
    return (values / values.std()).astype(np.float32)


def random_normal(seed: int, name: str, index: int, shape: tuple[int, ...], std: float) -> np.ndarray:
    """Normal float32 values, a pure function of the arguments; ``name`` is one of this module's tensor
    names."""
    bits = np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(_TENSOR_IDS[name], index)))
    table = _quantiles() * np.float32(std)
    flat = np.empty(int(np.prod(shape)), dtype=np.float32)
    places = np.empty(min(_LOOKUP, flat.size), np.intp)
    for start in range(0, flat.size, _LOOKUP):
        part = flat[start : start + _LOOKUP]
        words = bits.random_raw((part.size + 3) // 4).astype("<u8", copy=False)
        places[: part.size] = words.view("<u2")[: part.size]
        np.take(table, places[: part.size], out=part, mode="clip")
    return flat.reshape(shape)


def synthetic_input(workload: Workload, seed: int) -> np.ndarray:
    """``x (rows, hidden)``: unit normal with outlier channels (module docstring)."""
    hidden = workload.layer.hidden
    x = random_normal(seed, "x", 0, (workload.rows, hidden), 1.0)
    rng = np.random.Generator(
        np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(_TENSOR_IDS["outliers"], 0)))
    )
    channels = rng.choice(hidden, size=max(1, hidden // OUTLIER_EVERY), replace=False)
    x[:, channels] *= rng.uniform(*OUTLIER_GAIN, size=channels.size).astype(np.float32)
    return x


def synthetic_value(workload: Workload, name: str, seed: int, expert: int = 0) -> np.ndarray:
    """A given value of the layer, or that of one expert. Weights of norms are about 1, those of matmuls have variance
    1 / fan_in; caches are as wide as what synthetic projections make of synthetic x."""
    graph = layer_graph(workload)
    value = graph.given()[name]
    if isinstance(workload.layer, EmbeddingLayer) and value.role is Role.INPUT:
        return _synthetic_ids(workload.layer.vocab, value.shape, seed)
    if value.role is Role.INPUT:
        return synthetic_input(workload, seed)
    shape, norms = value.shape[1:] if value.one_by_one else value.shape, _norm_weights(graph)
    if name in norms:
        return 1 + random_normal(seed, name, 0, shape, 0.1)
    if len(shape) == 1:
        std = BIAS_STD
    elif value.role is Role.CACHE:
        std = 1.0 if name.replace("cache", "norm") in norms else CACHE_STD
    else:
        std = shape[-1] ** -0.5
    return random_normal(seed, name, expert, shape, std)


def _synthetic_ids(vocab: int, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Tokens, each of the vocabulary as likely as any."""
    bits = np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(_TENSOR_IDS["ids"], 0)))
    return np.random.Generator(bits).integers(vocab, size=shape).astype(np.float32)


def _norm_weights(graph: Graph) -> set[str]:
    return {node.inputs[1] for node in graph.nodes if isinstance(node.op, Norm) and len(node.inputs) > 1}


def synthetic(workload: Workload, seed: int = 0) -> LayerTensors:
    """Seeded synthetic tensors for a workload: the same seed gives the same tensors on every machine."""
    check_seed(seed)
    given = layer_graph(workload).given()
    experts = [name for name, value in given.items() if value.one_by_one]

    def load_expert(index: int) -> ExpertWeights:
        made: dict[str, Any] = {name: synthetic_value(workload, name, seed, index) for name in experts}
        return ExpertWeights(**made)

    arrays: dict[str, Any] = {name: synthetic_value(workload, name, seed) for name in given if name not in experts}
    return LayerTensors(workload=workload, load_expert=load_expert if experts else None, **arrays)


def per_tensor_scale(amax: float) -> np.float32:
    """The E4M3 scale of a tensor whose largest magnitude is ``amax``: RNE32(amax / 448), 1 for an all-zero
    tensor."""
    if not (np.isfinite(amax) and amax >= 0):
        raise WorkloadError(f"per-tensor scale: amax: expected a finite non-negative number, got {amax}")
    if amax == 0:
        return np.float32(1.0)
    return np.float32(max(float(np.float32(amax) / np.float32(E4M3_MAX)), MIN_SCALE))


@cache
def _e4m3_of_upper_half() -> np.ndarray:
    return quantize_e4m3((np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32))


def quantize_per_tensor(x: np.ndarray, scale: np.float32 | None = None) -> tuple[np.ndarray, np.float32]:
    """``(codes uint8, scale float32)`` with x ~ decode(codes) * scale.

    code = RNE_e4m3(RNE32(x / scale)), saturating; ``scale`` is the tensor's own unless a calibrated one is
    given. Raises WorkloadError for another dtype than float32, NaN or Inf.

    Equal to ``sim.numerics.arithmetic.quantize_e4m3`` bit for bit, but 1.5 ns per value and not 160 (the experts of
    Qwen3-30B-A3B are 604 M values): the upper half of the float, with "anything below" or-ed into its last
    bit, rounds like the whole float, since at least four bits below E4M3's last are in it. That leaves 65,536
    cases.
    """
    check_tensor("quantize", "x", x, np.shape(x))
    if scale is None:
        scale = per_tensor_scale(float(max(x.max(initial=0.0), -x.min(initial=0.0))))
    elif not (np.isfinite(scale) and scale > 0):
        raise WorkloadError(f"quantize: scale: expected a positive finite number, got {scale}")
    scale, table = np.float32(scale), _e4m3_of_upper_half()
    flat, codes = x.reshape(-1), np.empty(x.size, np.uint8)
    with np.errstate(over="ignore"):  # a given scale may be too small: infinity saturates
        for start in range(0, flat.size, _CHUNK):
            part = slice(start, start + _CHUNK)
            bits = (flat[part] / scale).view(np.uint32)
            key = bits & np.uint32(0xFFFF)
            key += np.uint32(0xFFFF)  # the carry says whether anything is below
            key |= bits
            key >>= 16
            np.take(table, key, out=codes[part], mode="clip")
    return codes.reshape(x.shape), scale
