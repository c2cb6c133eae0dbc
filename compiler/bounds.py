"""Lower bounds that no schedule can beat.

Each counts what the workload and its numerics define, not what a schedule does:

* compute: every multiply-accumulate of every matmul at the rate of its operand pair (`pair_rate`). Only E2M1 by E2M1
  runs at twice the lanes; 4-bit weights with 8-bit activations, the router and the attention core do not.
* DRAM: bytes that any execution must move, each operand once in its stored format with its block scales, without
  padding, of cached keys and values those that the mask leaves; results once. Where reads and writes have a port each,
  the slower one decides; on a shared port they add up.
* vector: elements that must pass the vector unit, a row of ``cols`` per cycle.

How close schedules come, and what each bound leaves out, is in docs/bounds.md.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

from ..rtl.spec.config import TileConfig
from ..rtl.spec.formats import PAIRS
from ..rtl.spec.isa import Pair
from ..rtl.spec.tensor_formats import TensorFormat
from .graph.ir import Role, Slot
from .graph.layers import layer_graph
from .graph.ops.experts import Experts
from .graph.ops.linear import Linear
from .graph.slots import SQUARE, slot_format
from .layers import Workload
from .numerics import DEFAULT, Numerics
from .products import expert_share, layer_products
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


def compulsory_bytes(workload: Workload, routing: Routing | None = None,
                     numerics: Numerics = DEFAULT) -> tuple[int, int]:
    """(read, write): weights, input and cached keys and values; output, and new keys and values. Weights are those of
    the experts that ``routing`` uses; the FP32 weights of norms are left out."""
    graph, active = layer_graph(workload), None if routing is None else len(routing.active)
    read, written = {}, {}
    for value, slot, node in graph.uses():
        tensor_format = slot_format(slot, numerics.formats)
        if tensor_format is None:
            if value.role is Role.INPUT:
                read[value.name, None] = Fraction(4 * math.prod(value.shape))
            continue
        if value.role is Role.ACTIVATION:  # on the way from one op to the next, but keys and values are kept
            if slot is Slot.KV:
                written[value.name] = stored_bytes(value.shape, tensor_format)
            continue
        shape = node.op.needed(node.inputs.index(value.name), *graph.shapes(node))
        if active is not None and isinstance(node.op, Experts) and value.role is Role.WEIGHT:
            shape = active, *shape[1:]
        size = weight_bytes(math.prod(shape), tensor_format) if slot in SQUARE else stored_bytes(shape, tensor_format)
        terms = numerics.router_terms if slot is Slot.TERMS else 1
        read[value.name, tensor_format] = max(read.get((value.name, tensor_format), 0), terms * size)
    output = next(value for value in graph.values.values() if value.role is Role.OUTPUT)
    return math.floor(sum(read.values())), math.floor(sum(written.values()) + 4 * math.prod(output.shape))


def stored_bytes(shape: tuple[int, ...], tensor_format: TensorFormat) -> Fraction:
    """Bytes of codes and block scales, along the last axis."""
    *others, size = shape
    return math.prod(others) * (Fraction(size * tensor_format.bits, 8) + tensor_format.scale_bytes_of(size))


def pair_rate(pair: Pair, config: TileConfig) -> int:
    """Multiply-accumulates per cycle of the array for a pair of element formats."""
    return config.rows * config.cols * PAIRS[pair].products_per_step(config.lanes)


def peak_macs_per_cycle(config: TileConfig, workload: Workload, numerics: Numerics = DEFAULT) -> int:
    """The rate of the fastest of the layer's matmuls; of a layer without any, that of 8-bit formats."""
    return max((pair_rate(product.pair, config) for product in layer_products(workload, numerics)),
               default=config.macs_per_cycle)


def vector_elements(workload: Workload, routing: Routing | None = None) -> int:
    """Elements that the vector unit must take in: what each op counts, experts of the pairs of ``routing``. The
    result of a matmul counts where no op that follows takes it in anyway: v is quantized, and results are scaled."""
    graph, elements = layer_graph(workload), 0
    for node in graph.nodes:
        taken = any(other.op.slots[other.inputs.index(node.output)] is Slot.FP32
                    for other in graph.consumers(node.output))
        if not (isinstance(node.op, Linear) and taken):
            elements += math.ceil(node.op.vector_elements(*graph.shapes(node)) * expert_share(node, graph, routing))
    return elements


def bounds(workload: Workload, config: TileConfig, routing: Routing | None = None,
           numerics: Numerics = DEFAULT) -> Bounds:
    """The bounds of a workload on a tile; an MoE layer's weights are those of the experts that ``routing`` uses."""
    read, write = compulsory_bytes(workload, routing, numerics)
    elements = vector_elements(workload, routing)
    compute = sum(Fraction(product.macs, pair_rate(product.pair, config))
                  for product in layer_products(workload, numerics, routing))
    moved = read + write if config.dram_shared else max(read, write)
    return Bounds(compute_cycles=math.ceil(compute), dram_cycles=math.ceil(moved / config.dram_rate),
                  vector_cycles=-(-elements // config.cols), read_bytes=read, write_bytes=write)
