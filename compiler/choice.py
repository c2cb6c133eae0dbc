"""Which experts a program uses: chosen before it is compiled, since its grouped matmuls have their rows in lists.

By the router's rule (`scoring.py`) from the logits that the tile itself will make (`logits.py`); where the tile makes
what its router reads (a decoder layer) from those of the float64 layer; or by a name or file.
"""

from __future__ import annotations

import numpy as np

from .graph.evaluate import float64_routing
from .graph.ir import Graph, Role, Slot
from .graph.layers import layer_graph
from .graph.ops.router import Router
from .logits import tile_logits
from .numerics import Numerics
from .routing import Routing, forced_choice, forced_route, route
from .tensors import LayerTensors


def given_to_router(graph: Graph) -> bool:
    """Does the router read the layer's input, so that the tile's own logits are known before the program runs?"""
    linear = next(node for node in graph.nodes if Slot.TERMS in node.op.slots)
    return graph.values[linear.inputs[0]].role is Role.INPUT


def _router(graph: Graph, tensors: LayerTensors) -> tuple[Router, list[np.ndarray]]:
    """The layer's router, and its vectors."""
    node, op = next((node, node.op) for node in graph.nodes if isinstance(node.op, Router))
    return op, [getattr(tensors, name) for name in node.inputs[1:]]


def own_route(tensors: LayerTensors, logits: np.ndarray) -> Routing:
    """What the layer's router makes of these logits, (rows, experts), which have no bias yet."""
    router, vectors = _router(layer_graph(tensors.workload), tensors)
    biased, correction = router.biased(logits, *vectors)
    return route(biased, router.top_k, norm_topk=router.norm_topk, scoring=router.scoring, correction=correction)


def choose_experts(graph: Graph, tensors: LayerTensors, routing: str | None, seed: int, numerics: Numerics) -> Routing:
    """Forced by a name or file (`forced_choice`), or the router's own (module docstring)."""
    if given_to_router(graph):
        logits = tile_logits(tensors, numerics.router_terms)
        own = own_route(tensors, logits)
    else:
        own, logits = float64_routing(tensors)
    if routing is None:
        return own
    router, vectors = _router(graph, tensors)
    rows, experts = logits.shape
    chosen = forced_choice(routing, tokens=rows, experts=experts, top_k=router.top_k, seed=seed)
    return forced_route(router.biased(logits, *vectors)[0], chosen, norm_topk=router.norm_topk, scoring=router.scoring)


def experts_by_load(graph: Graph, routing: str, seed: int) -> Routing:
    """Forced by a name or file, with weights of 1: for timing only, since no cycle depends on weights."""
    node, op = next((node, node.op) for node in graph.nodes if isinstance(node.op, Router))
    rows, experts = graph.values[node.inputs[0]].shape
    chosen = forced_choice(routing, tokens=rows, experts=experts, top_k=op.top_k, seed=seed)
    return Routing(experts=experts, chosen=chosen, weights=np.ones(chosen.shape, np.float32))
