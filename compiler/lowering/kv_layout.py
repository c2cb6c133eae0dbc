"""Where queries and keys of an attention node lie in DRAM, all parts of a head together."""

from __future__ import annotations

import numpy as np

from ..builder import ProgramBuilder
from ..dram import Matrix, code_matrix
from ..graph.ir import Node, Slot
from ..quantize import store
from ..tiles.buffers import align
from .ports import CORES, Ports
from .steps import Job, Layer, Stage


def ask_queries(job: Job, layer: Layer, ports: Ports) -> None:
    """Ask for the queries, all parts of a head together."""
    rows, heads, _ = layer.shape(ports.queries[0])
    job.ask(Stage.RESULTS, ports.queries[0], lambda builder: code_matrix(
        builder, ports.queries[0], rows, heads * align(ports.width, layer.config.bus_bytes)))


def key_caches(builder: ProgramBuilder, job: Job, layer: Layer, core: Node) -> tuple[tuple[Matrix, ...], ...]:
    """Keys of each sequence and head, a row each, all parts together; old ones from the caches."""
    ports, kv, tensors = Ports.of(layer.graph, core), layer.format(Slot.KV), job.tensors
    assert isinstance(core.op, CORES)
    workload, old = core.op.workload, ports.old

    def cache(sequence: int, head: int) -> Matrix:
        def fill() -> np.ndarray:
            rows = np.zeros((workload.keys, ports.width), np.uint8)
            for part, name in zip(ports.keys, ports.key_caches, strict=True):
                held, first = getattr(tensors, name)[sequence, head], ports.offset(part)
                order = ports.order(part)
                rows[:old, first:first + len(order)] = store(held[:, order], kv, job.scales[ports.keys[0]]).codes
            return rows
        name = (ports.key_caches or ports.keys)[0]
        return code_matrix(builder, f"{name}.{sequence}.{head}", workload.keys, ports.width,
                           fill if tensors and old else None)

    return tuple(tuple(cache(s, h) for h in range(ports.kv_heads)) for s in range(workload.batch))


def rows_key(part: str) -> str:
    """The operand with new tokens' rows of keys that are values too, one after another."""
    return f"{part} rows"


def row_segments(tokens: int, first: int, count: int) -> list[tuple[int, int, int, int]]:
    """Cut rows first .. first+count-1 by sequences of ``tokens``: (sequence, first token, offset, number)."""
    segments, at = [], 0
    while at < count:
        sequence, token = divmod(first + at, tokens)
        size = min(count - at, tokens - token)
        segments.append((sequence, token, at, size))
        at += size
    return segments
