"""Lower bounds that no schedule can beat.

Each counts what the workload and its numerics define, not what a schedule does:

* compute: every multiply-accumulate of every matmul at the rate of its operand pair (`pair_rate`). Only E2M1 by E2M1
  runs at twice the lanes; 4-bit weights with 8-bit activations, the router and the attention core do not.
* DRAM: bytes that any execution must move, each operand once in its stored format with its block scales, without
  padding; results once. Reads and writes have a port each, so the slower one decides.
* vector: elements that must pass the vector unit, a row of ``cols`` per cycle.

How close schedules come, and what each bound leaves out, is in docs/bounds.md.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

from ..rtl.spec.config import TileConfig
from ..rtl.spec.formats import PAIRS
from ..rtl.spec.isa import Pair
from ..rtl.spec.tensor_formats import TENSOR_FORMATS, TensorFormat
from .formats import value_weights
from .layers import Workload
from .numerics import DEFAULT, Numerics
from .products import layer_products
from .quantize import DEEPSEEK_ROWS
from .routing import Routing


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Cycles and bytes of the bounds."""

    compute_cycles: int
    dram_cycles: int
    vector_cycles: int
    read_bytes: int
    write_bytes: int

    @property
    def cycles(self) -> int:
        """The largest of the bounds."""
        return max(self.compute_cycles, self.dram_cycles, self.vector_cycles)


def weight_bytes(elements: int, tensor_format: TensorFormat) -> Fraction:
    """Stored bytes of a weight matrix; a DeepSeek scale serves a square block."""
    share = tensor_format.block * (DEEPSEEK_ROWS if tensor_format.block == DEEPSEEK_ROWS else 1)
    scales = Fraction(elements * tensor_format.scale_bytes, share) if share else 0
    return Fraction(elements * tensor_format.bits, 8) + scales


def router_bytes(workload: Workload, numerics: Numerics) -> int:
    """The E4M3 terms of the router and of its input, less the term that is the experts' input as well."""
    moe, terms = workload.moe, numerics.router_terms
    shared = int(numerics.formats.activations == TENSOR_FORMATS["e4m3"])
    return moe.hidden * (terms * moe.experts + (terms - shared) * workload.rows)


def compulsory_bytes(workload: Workload, routing: Routing | None = None,
                     numerics: Numerics = DEFAULT) -> tuple[int, int]:
    """(read, write): weights, input and cached keys and values; output, and new keys and values."""
    layer, rows, formats = workload.layer, workload.rows, numerics.formats
    out = 4 * rows * layer.hidden
    x = Fraction(rows * layer.hidden * formats.activations.bits, 8)
    x += rows * formats.activations.scale_bytes_of(layer.hidden)
    if layer.kind == "attention":
        attention, kv_bits = workload.attention, formats.kv.bits
        values = attention.hidden * attention.kv_width
        weights = weight_bytes(attention.weights - values, formats.weights)
        weights += weight_bytes(values, value_weights(formats))
        cached = Fraction(2 * workload.batch * workload.cached * attention.kv_width * kv_bits, 8)
        new = Fraction(2 * rows * attention.kv_width * kv_bits, 8)
        return math.floor(weights + x + cached), math.floor(out + new)
    moe = workload.moe
    active = moe.experts if routing is None else len(routing.active)
    weights = weight_bytes(active * moe.expert_weights, formats.weights)
    return math.floor(router_bytes(workload, numerics) + weights + x), out


def pair_rate(pair: Pair, config: TileConfig) -> int:
    """Multiply-accumulates per cycle of the array for a pair of element formats."""
    return config.rows * config.cols * PAIRS[pair].products_per_step(config.lanes)


def peak_macs_per_cycle(config: TileConfig, workload: Workload, numerics: Numerics = DEFAULT) -> int:
    """The rate of the fastest of the layer's matmuls."""
    return max(pair_rate(product.pair, config) for product in layer_products(workload, numerics))


def vector_elements(workload: Workload) -> int:
    """Elements that the vector unit must take in.

    Attention: q and k are rotated, two products of a pass each; v is quantized, each probability is made, outputs are
    divided by their sums and quantized, and results scaled. MoE: each probability of the router is made; SiLU and its
    product with the up projection are two passes, since a VECTOR with SILU multiplies by constants only; each of a
    token's results is weighted or added.
    """
    rows = workload.rows
    if workload.layer.kind == "attention":
        layer = workload.attention
        pairs = workload.batch * layer.heads * workload.pairs
        return pairs + rows * (3 * layer.q_width + 3 * layer.kv_width + layer.hidden)
    moe = workload.moe
    return rows * (moe.experts + moe.top_k * (2 * moe.intermediate + moe.hidden))


def bounds(workload: Workload, config: TileConfig, routing: Routing | None = None,
           numerics: Numerics = DEFAULT) -> Bounds:
    """The bounds of a workload on a tile; an MoE layer's weights are those of the experts that ``routing`` uses."""
    read, write = compulsory_bytes(workload, routing, numerics)
    compute = sum(Fraction(product.macs, pair_rate(product.pair, config))
                  for product in layer_products(workload, numerics))
    return Bounds(compute_cycles=math.ceil(compute), dram_cycles=-(-max(read, write) // config.bus_bytes),
                  vector_cycles=-(-vector_elements(workload) // config.cols), read_bytes=read, write_bytes=write)
