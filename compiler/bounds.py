"""Lower bounds that no schedule can beat.

compute: useful multiply-accumulates at the array's peak rate. DRAM: the bytes that any execution must move, each
operand once in its stored format, results once in FP32; reads and writes have a port each, so the slower port
decides. Both count what the workload defines, not what a schedule does, so they hold for every schedule.
"""

import math
from dataclasses import dataclass

from ..rtl.config import TileConfig
from .formats import E4M3
from .layers import Workload
from .numerics import DEFAULT, Numerics
from .routing import Routing


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Cycles and bytes of the bounds."""

    compute_cycles: int
    dram_cycles: int
    read_bytes: int
    write_bytes: int

    @property
    def cycles(self) -> int:
        """The larger of the two bounds."""
        return max(self.compute_cycles, self.dram_cycles)


def compulsory_bytes(workload: Workload, routing: Routing | None = None,
                     numerics: Numerics = DEFAULT) -> tuple[int, int]:
    """(read, write): weights, input and cached keys and values; output, and new keys and values.

    Block scales count with their elements; a DeepSeek weight block shares one scale among its rows, which is left out.
    The router reads the E4M3 terms of its weights and of the input, whose first is the input of E4M3 experts.
    """
    layer, rows, formats = workload.layer, workload.rows, numerics.formats
    out = 4 * rows * layer.hidden
    x = math.floor(rows * layer.hidden * formats.activations.bytes_per_element)
    weight = formats.weights.bits / 8 if formats.weights.block == 128 else formats.weights.bytes_per_element
    if layer.kind == "attention":
        attention = workload.attention
        cached = 2 * workload.batch * workload.cached * attention.kv_width
        return math.floor(attention.weights * weight) + x + cached, out + 2 * rows * attention.kv_width
    moe = workload.moe
    active = moe.experts if routing is None else len(routing.active)
    terms = numerics.router_terms
    x_terms = terms - 1 if formats.activations == E4M3.activations else terms
    router = moe.hidden * (terms * moe.experts + x_terms * rows)
    return router + math.floor(active * moe.expert_weights * weight) + x, out


def peak_macs_per_cycle(config: TileConfig, numerics: Numerics = DEFAULT) -> int:
    """The array's rate in the fastest MATMUL mode that the formats use: 4-bit pairs run at twice the lanes."""
    formats = numerics.formats
    four_bit = formats.weights.bits == formats.activations.bits == 4
    return config.macs_per_cycle * (2 if four_bit else 1)


def bounds(workload: Workload, config: TileConfig, routing: Routing | None = None,
           numerics: Numerics = DEFAULT) -> Bounds:
    """The bounds of a workload on a tile; an MoE layer's weights are those of the experts that ``routing`` uses."""
    read, write = compulsory_bytes(workload, routing, numerics)
    return Bounds(compute_cycles=-(-workload.useful_macs() // peak_macs_per_cycle(config, numerics)),
                  dram_cycles=-(-max(read, write) // config.bus_bytes), read_bytes=read, write_bytes=write)
