"""One processing element with its two edges, streamed: k steps as the buffers give them, sums as columns see them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from amaranth.hdl import Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from tilescore.rtl.matrix.operand_edge import OperandEdge, has_halves
from tilescore.rtl.matrix.pe import ProcessingElement
from tilescore.rtl.matrix.timing import operand_read, pe_latency
from tilescore.rtl.spec.array_formats import built_pairs
from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.formats import PAIRS
from tilescore.rtl.spec.isa import Pair, Scale
from tilescore.sim.reference.matmul_terms import TermFormat
from tilescore.tests.rtl.verilated import StreamProgram, build

LANES = 8

INPUTS = {
    "a": 64, "b": 64, "a_byte": 8, "b_byte": 8, "valid": 1, "first": 1, "last": 1, "block_first": 1, "block_last": 1,
    "half": 1, "pair": 3, "scale": 2, "a_scaled": 1, "b_scaled": 1, "headroom": 7,
}
OUTPUTS = {"low": 64, "high": 32, "flags": 4}


class PeBench(wiring.Component):
    """A step's group and scale bytes come with the step, as if the memory had no latency."""

    def __init__(self, config: TileConfig) -> None:
        self.config = config
        super().__init__({name: In(bits) for name, bits in INPUTS.items()}
                         | {name: Out(bits) for name, bits in OUTPUTS.items()})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        m.submodules.a_edge = a_edge = OperandEdge(config, side="a")
        m.submodules.b_edge = b_edge = OperandEdge(config, side="b")
        m.submodules.pe = pe = ProcessingElement(config)
        for edge, name in ((a_edge, "a"), (b_edge, "b")):
            group, byte = Signal(64, name=f"{name}_group"), Signal(8, name=f"{name}_scale")
            m.d.sync += [group.eq(getattr(self, name)), byte.eq(getattr(self, f"{name}_byte"))]
            m.d.comb += [edge.group.eq(group), edge.byte.eq(byte)]
            if len(built_pairs(config)) > 1:
                m.d.comb += edge.step.pair.eq(self.pair)
            if config.scales:
                m.d.comb += [
                    edge.step.mode.kind.eq(self.scale), edge.step.mode.scaled.eq(getattr(self, f"{name}_scaled")),
                    edge.step.mode.first.eq(self.block_first)]
        m.d.comb += [
            a_edge.step.rows.eq(self.valid), a_edge.step.first.eq(self.first), a_edge.step.last.eq(self.last),
            b_edge.step.valid.eq(self.valid), pe.a_in.eq(a_edge.operand), pe.b_in.eq(b_edge.operand),
        ]
        if has_halves(config):
            m.d.comb += b_edge.step.half.eq(self.half)
        if config.scales:
            m.d.comb += [
                a_edge.step.block_last.eq(self.block_last), a_edge.step.mode.headroom.eq(self.headroom),
                pe.a_scale_in.eq(a_edge.scale), pe.b_scale_in.eq(b_edge.scale)]
        value = Value.cast(pe.drain_out.value)
        m.d.comb += [self.low.eq(value[:64]), self.high.eq(value[64:]), self.flags.eq(pe.drain_out.flags)]
        return m


@dataclass(frozen=True)
class Element:
    """A built `PeBench`."""

    config: TileConfig
    program: StreamProgram

    def dots(self, folder: Path, fmt: TermFormat, a: NDArray[np.uint8], b: NDArray[np.uint8],
             a_scales: NDArray[np.uint8] | None = None,
             b_scales: NDArray[np.uint8] | None = None) -> tuple[NDArray, NDArray[np.uint64]]:
        """Accumulators (int64, object above 64 bits) and flags of n dot products, one after the other.

        a: (n, k_steps * LANES), b: (n, groups * LANES), scales (n, k_steps) and (n, groups) bytes, as for
        `matmul_terms`.
        """
        count, steps = len(a), a.shape[1] // LANES
        every = PAIRS[fmt.pair].b_steps
        span = 1 << fmt.block
        step = np.arange(steps)

        def spread(flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
            return np.tile(flags, count)

        def words(codes: NDArray[np.uint8]) -> NDArray[np.uint64]:
            return np.ascontiguousarray(codes).view("<u8").reshape(count, -1)

        nothing = np.zeros((count, 1), np.uint8)
        operands = {
            "a": words(a).ravel(), "b": np.repeat(words(b), every, axis=1)[:, :steps].ravel(),
            "valid": np.ones(count * steps), "first": spread(step < span), "last": spread(step == steps - 1),
            "block_first": spread(step % span == 0), "block_last": spread(step % span == span - 1),
            "half": spread(step % every == 1),
            "a_byte": (nothing + (a_scales if a_scales is not None else np.zeros(steps, np.uint8))).ravel(),
            "b_byte": np.repeat(nothing + (b_scales if b_scales is not None else np.zeros(
                -(-steps // every), np.uint8)), every, axis=1)[:, :steps].ravel(),
        }
        for name, value in (("pair", fmt.pair), ("scale", fmt.scale), ("a_scaled", fmt.a_scaled),
                            ("b_scaled", fmt.b_scaled), ("headroom", fmt.headroom)):
            operands[name] = np.full(count * steps, int(value))
        latency = operand_read(self.config) + pe_latency(self.config)
        out = {name: values[steps - 1::steps] for name, values in self.program.run(folder, latency, operands).items()}
        low = out["low"].view(np.int64)
        if self.config.acc_bits == 64:
            return low, out["flags"]
        half = 1 << (self.config.acc_bits - 1)
        wide = out["low"].astype(object) + out["high"].astype(object) * (1 << 64)
        return (wide + half) % (2 * half) - half, out["flags"]


def build_element(config: TileConfig) -> Element:
    """Raises ToolError without Verilator."""
    return Element(config, build(PeBench(config), f"pe_{config.name}", INPUTS, OUTPUTS))


def plain(pair: Pair) -> TermFormat:
    """A format without block scales."""
    return TermFormat(pair=pair, scale=Scale.NONE)
