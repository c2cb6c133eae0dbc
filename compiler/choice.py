"""Which experts a program uses: chosen before it is compiled, since its grouped matmuls have their rows in lists.

By the router's rule (`scoring.py`) from the logits that the tile itself will make (`logits.py`); where the tile makes
what its router reads (a decoder layer) from those of the float64 layer; or by a name or file.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .dispatch import Dispatch, choice_of, chosen_pairs, split_dispatch
from .graph.evaluate import float64_routing
from .graph.ir import Graph, Role, Slot
from .graph.layers import layer_graph
from .graph.ops.router import Router
from .logits import tile_logits
from .numerics import Numerics
from .routing import Routing, forced_choice, forced_route, route
from .scores import scores_of
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
    """Forced by a name or file (`forced_choice`), perhaps with a mode (`dispatch.py`), or the router's own."""
    if given_to_router(graph):
        logits = tile_logits(tensors, numerics.router_terms)
        own = own_route(tensors, logits)
    else:
        own, logits = float64_routing(tensors)
    if routing is None:
        return own
    router, vectors = _router(graph, tensors)
    (rows, experts), (load, mode) = logits.shape, split_dispatch(routing)
    chosen = own.chosen if load == "router" else forced_choice(load, tokens=rows, experts=experts, top_k=router.top_k,
                                                               seed=seed)
    biased, rule = router.biased(logits, *vectors)[0], router.scoring
    left, dropped, added = _left(chosen, scores_of(rule, biased), mode)
    routed = forced_route(biased, left, norm_topk=router.norm_topk, scoring=rule)
    return replace(routed, dropped=dropped, added=added)


def _left(chosen: np.ndarray, scores: np.ndarray, mode: Dispatch | None) -> tuple[np.ndarray, int, int]:
    """What a mode leaves of a choice, and the pairs that it drops and adds."""
    if mode is None:
        return chosen, 0, 0
    wanted, used = chosen_pairs(chosen, scores.shape[1]), mode.used(chosen, scores)
    return choice_of(used, scores), int((wanted & ~used).sum()), int((used & ~wanted).sum())


def experts_by_load(graph: Graph, routing: str, seed: int) -> Routing:
    """Forced by a name or file that does not depend on data (`routing.depends_on_data`), with weights of 1: for timing
    only, since no cycle depends on weights."""
    node, op = next((node, node.op) for node in graph.nodes if isinstance(node.op, Router))
    (rows, experts), (load, mode) = graph.values[node.inputs[0]].shape, split_dispatch(routing)
    chosen = forced_choice(load, tokens=rows, experts=experts, top_k=op.top_k, seed=seed)
    left, dropped, added = _left(chosen, np.zeros((rows, experts)), mode)
    return Routing(experts=experts, chosen=left, weights=np.ones(left.shape, np.float32), dropped=dropped, added=added)
