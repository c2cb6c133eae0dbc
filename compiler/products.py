"""The matmuls of a layer: what each multiplies, how often, and what a tile must be built with to do it."""

import math
from dataclasses import dataclass, replace
from fractions import Fraction

from ..rtl.spec.config import TileConfig, least_acc_bits
from ..rtl.spec.errors import CompileError, ConfigError
from ..rtl.spec.formats import BUILD_NAMES, ELEMENT_PAIRS, PAIRS, SCALE_NAMES, fits_dsp
from ..rtl.spec.isa import Pair
from ..rtl.spec.tensor_formats import TensorFormat
from ..rtl.spec.tile_settings import OPTION, settings_text
from .graph.ir import Graph, Node, Slot
from .graph.layers import layer_graph
from .graph.ops.experts import Experts
from .graph.slots import slot_format
from .layers import Workload
from .logits import term_products
from .numerics import Numerics
from .routing import Routing


@dataclass(frozen=True, kw_only=True)
class Product:
    """One matmul of a layer. a, b: formats of its operands in buffers A and B; macs: products that the result needs."""

    name: str
    a: TensorFormat
    b: TensorFormat
    macs: int

    @property
    def pair(self) -> Pair:
        """Raises `CompileError` when no MATMUL multiplies these elements."""
        pair = ELEMENT_PAIRS.get((self.a.element.name, self.b.element.name))
        if pair is None:
            raise CompileError(f"{self.name}: no MATMUL multiplies {self.a.name} (A) by {self.b.name} (B); allowed "
                               "element pairs: " + ", ".join(f"{x} x {y}" for x, y in ELEMENT_PAIRS))
        return pair

    @property
    def scale_names(self) -> set[str]:
        """Names of the block scales that it needs."""
        return {SCALE_NAMES[operand.scale] for operand in (self.a, self.b) if operand.scaled}


def expert_share(node: Node, graph: Graph, routing: Routing | None) -> Fraction:
    """Of what a node counts, the part that a routing leaves: experts count all pairs that the router chooses."""
    if routing is None or not isinstance(node.op, Experts):
        return Fraction(1)
    return Fraction(routing.pairs, math.prod(graph.values[node.inputs[1]].shape))


def layer_products(workload: Workload, numerics: Numerics, routing: Routing | None = None) -> tuple[Product, ...]:
    """All matmuls of the layer with the multiply-accumulates that its result depends on, with this routing.

    Together they are `useful_macs`, but for the router, which multiplies several terms per operand.
    """
    graph, products = layer_graph(workload), []
    for node in graph.nodes:
        held = [slot_format(slot, numerics.formats) for slot in node.op.slots]
        formats = [tensor_format for tensor_format in held if tensor_format is not None]
        a, b = reversed(formats[:2]) if Slot.TURNED_WEIGHTS in node.op.slots else formats[:2] or (None, None)
        times = len(term_products(numerics.router_terms)) if Slot.TERMS in node.op.slots else 1
        for part, macs in node.op.macs(*graph.shapes(node)).items():
            assert a is not None and b is not None
            left = int(times * macs * expert_share(node, graph, routing))
            products.append(Product(name=f"{node.name} {part}".strip(), a=a, b=b, macs=left))
    return tuple(products)


def useful_macs(workload: Workload, routing: Routing | None = None) -> int:
    """Multiply-accumulates that the layer's result depends on: projections, router and routed experts in full, and of
    the attention core only unmasked pairs.

    Rotary embedding, norms, softmax, SiLU and the weighted combine are vector work and count nothing, as in the
    published FLOP counts (2 FLOP per MAC).
    """
    graph = layer_graph(workload)
    return int(sum(sum(node.op.macs(*graph.shapes(node)).values()) * expert_share(node, graph, routing)
                   for node in graph.nodes))


def check_built(workload: Workload, config: TileConfig, numerics: Numerics) -> None:
    """Raise `CompileError` if the tile lacks element formats or block scales of the layer, with the option that adds
    them."""
    products = layer_products(workload, numerics)
    pairs = {PAIRS[product.pair].build_name for product in products} - set(config.formats)
    scales = set().union(*(product.scale_names for product in products)) - set(config.scales)
    if not pairs and not scales:
        return
    lacking = [f"formats {', '.join(name for name in BUILD_NAMES if name in pairs)}"] if pairs else []
    lacking += [f"scales {', '.join(name for name in SCALE_NAMES.values() if name in scales)}"] if scales else []
    raise CompileError(f"format {numerics.formats.name}: tile {config.name} does not build {' and '.join(lacking)}; it "
                       f"has formats = {list(config.formats)} and scales = {list(config.scales)}"
                       + _remedy(config, pairs, scales))


def _remedy(config: TileConfig, pairs: set[str], scales: set[str]) -> str:
    """The settings that add formats and what these need, or nothing where the tile's other sizes forbid them."""
    changes: dict[str, object] = {}
    if pairs:
        changes["formats"] = (*config.formats, *(name for name in BUILD_NAMES if name in pairs))
    if scales:
        changes["scales"] = (*config.scales, *(name for name in SCALE_NAMES.values() if name in scales))
        if config.lanes != 8:
            changes["lanes"] = 8
    if config.acc_bits < (acc_bits := least_acc_bits(pairs)):
        planes = -(-acc_bits // 32)
        changes |= {"acc_bits": acc_bits, "acc_banks": -(-config.acc_banks // planes) * planes}
    if not all(map(fits_dsp, pairs)):
        changes["multiplier"] = "fabric"
    try:
        replace(config, **changes)
    except ConfigError:
        return ""
    kept = {key: value for key, value in changes.items() if value != getattr(config, key)}
    return f"; {OPTION} {settings_text(kept)} adds them"
