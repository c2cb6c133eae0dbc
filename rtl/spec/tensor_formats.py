"""Formats of tensors, from one table: what the vector unit writes to operand buffer A, and what DRAM holds.

The hardware, the quantizers and the compiler take elements, blocks and scales from `TENSOR_FORMATS`; its names are what
``--format`` takes. Which of them a tile has hardware for, `built_quantizers` says.
"""

from __future__ import annotations

from dataclasses import dataclass

from .config import TileConfig
from .formats import E2M1, E4M3, E5M2, SCALE_BYTES, SCALE_NAMES, FormatSpec
from .isa import Quant, Scale, ScaleLayout


@dataclass(frozen=True, kw_only=True)
class TensorFormat:
    """How a tensor is stored: element codes with their scales.

    element: of the codes; block: elements of a row that share a scale, 0 for one FP32 scale per tensor; scale: format
    of block scales; quant: the instruction's name for it, by which the vector unit writes it to operand buffer A.
    """

    name: str
    element: FormatSpec
    block: int
    scale: Scale
    quant: Quant
    meaning: str

    @property
    def bits(self) -> int:
        """Of an element, without scales."""
        return self.element.bits

    @property
    def scaled(self) -> bool:
        """Whether it has block scales."""
        return self.block > 0

    @property
    def anchored(self) -> bool:
        """Whether scales are stored relative to a row's anchor."""
        return self.scale in (Scale.E8M0, Scale.FP32)

    @property
    def scale_bytes(self) -> int:
        """Bytes of one block scale."""
        return SCALE_BYTES[self.scale]

    @property
    def bytes_per_element(self) -> float:
        """Storage per element, block scales included."""
        return self.bits / 8 + (self.scale_bytes / self.block if self.block else 0)

    @property
    def block_groups(self) -> int:
        """Groups of 8 bytes that a block's codes fill."""
        return self.block * self.bits // 64

    @property
    def tensor_divisor(self) -> float:
        """Tensor scale = RNE32(amax / this). NVFP4_46 leaves room for 1.5 times a scale of 256 (arXiv 2512.02010)."""
        if self.scale == Scale.E4M3:
            return self.element.max_finite * (256.0 if self.quant == Quant.NVFP4_46 else E4M3.max_finite)
        return self.element.max_finite

    def bytes_of(self, elements: int) -> int:
        """Bytes of the codes of ``elements`` elements (an even number of 4-bit ones)."""
        return elements * self.bits // 8

    def scale_bytes_of(self, elements: int) -> int:
        """Bytes of the block scales of a row of ``elements`` elements."""
        return -(-elements // self.block) * self.scale_bytes if self.block else 0

    def layout(self, lanes: int) -> ScaleLayout:
        """Which groups of ``lanes`` bytes carry a scale byte."""
        if not self.block:
            return ScaleLayout.NONE
        if self.scale == Scale.FP32:
            return ScaleLayout.FP32
        groups = self.bytes_of(self.block) // lanes
        return {1: ScaleLayout.G1, 2: ScaleLayout.G2, 4: ScaleLayout.G4, 16: ScaleLayout.G16}[groups]


def _format(name: str, element: FormatSpec, block: int, scale: Scale, quant: Quant, meaning: str) -> TensorFormat:
    return TensorFormat(name=name, element=element, block=block, scale=scale, quant=quant, meaning=meaning)


TENSOR_FORMATS = {f.name: f for f in (
    _format("e4m3", E4M3, 0, Scale.NONE, Quant.E4M3, "OCP E4M3, one FP32 scale per tensor"),
    _format("e5m2", E5M2, 0, Scale.NONE, Quant.E5M2, "OCP E5M2, one FP32 scale per tensor"),
    _format("mxfp8", E4M3, 32, Scale.E8M0, Quant.MXFP8, "OCP MX: E4M3 in blocks of 32, E8M0 scales"),
    _format("mxfp8-e5m2", E5M2, 32, Scale.E8M0, Quant.MXFP8_E5M2, "OCP MX: E5M2 in blocks of 32, E8M0 scales"),
    _format("mxfp4", E2M1, 32, Scale.E8M0, Quant.MXFP4, "OCP MX: E2M1 in blocks of 32, E8M0 scales"),
    _format("nvfp4", E2M1, 16, Scale.E4M3, Quant.NVFP4, "E2M1 in blocks of 16, E4M3 scales, FP32 tensor scale"),
    _format("nvfp4-46", E2M1, 16, Scale.E4M3, Quant.NVFP4_46, "NVFP4 with the better of two scales per block"),
    _format("deepseek", E4M3, 128, Scale.FP32, Quant.BLOCK128, "E4M3 in blocks of 128, FP32 scales"),
    _format("deepseek-ue8m0", E4M3, 128, Scale.E8M0, Quant.BLOCK128_E8M0, "E4M3 in blocks of 128, E8M0 scales"),
)}
"""The table of formats: every one that the vector unit writes, by name."""

QUANT_FORMATS = {f.quant: f for f in TENSOR_FORMATS.values()}
"""The same by `isa.Quant`."""


def built_quantizers(config: TileConfig) -> tuple[Quant, ...]:
    """Quantizers of a tile's vector unit, in the order of `isa.Quant`.

    The cast to E4M3 always; the others when the tile builds a pair with their elements and their scales.
    """
    pairs = [pair.split("x") for pair in config.formats]
    elements = {element for pair in pairs for element in pair}
    return tuple(quant for quant, fmt in sorted(QUANT_FORMATS.items()) if quant == Quant.E4M3 or (
        fmt.element.name in elements and (not fmt.block or SCALE_NAMES[fmt.scale] in config.scales)))


def block_quantizers(config: TileConfig) -> tuple[TensorFormat, ...]:
    """Formats with block scales among `built_quantizers`."""
    return tuple(QUANT_FORMATS[quant] for quant in built_quantizers(config) if QUANT_FORMATS[quant].block)
