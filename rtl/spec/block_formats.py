"""The formats that the vector unit can write to operand buffer A, and which of them a tile has hardware for."""

from __future__ import annotations

from dataclasses import dataclass

from .config import TileConfig
from .formats import E2M1, E4M3, E5M2, SCALE_BYTES, FormatSpec
from .isa import Quant, Scale


@dataclass(frozen=True, kw_only=True)
class BlockFormat:
    """A format that the vector unit can write.

    element: of the codes; block: elements of a row that share a scale, 0 for one scale per tensor; scale: format of
    block scales; quant: the instruction's name for it.
    """

    name: str
    element: FormatSpec
    block: int
    scale: Scale
    quant: Quant

    @property
    def scale_bytes(self) -> int:
        """Bytes of one block scale."""
        return SCALE_BYTES[self.scale]

    @property
    def tensor_divisor(self) -> float:
        """Tensor scale = RNE32(amax / this). NVFP4_46 leaves room for 1.5 times a scale of 256 (arXiv 2512.02010)."""
        if self.scale == Scale.E4M3:
            return self.element.max_finite * (256.0 if self.quant == Quant.NVFP4_46 else E4M3.max_finite)
        return self.element.max_finite

    @property
    def anchored(self) -> bool:
        """Whether scales are stored relative to a row's anchor."""
        return self.scale in (Scale.E8M0, Scale.FP32)

    @property
    def block_groups(self) -> int:
        """Groups of 8 bytes that a block's codes fill."""
        return self.block * self.element.bits // 64

    def codes_bytes(self, elements: int) -> int:
        """Bytes that ``elements`` codes fill."""
        return elements * self.element.bits // 8


def _format(name: str, element: FormatSpec, block: int, scale: Scale, quant: Quant) -> BlockFormat:
    return BlockFormat(name=name, element=element, block=block, scale=scale, quant=quant)


BLOCK_FORMATS = {f.quant: f for f in (
    _format("e4m3", E4M3, 0, Scale.NONE, Quant.E4M3),
    _format("e5m2", E5M2, 0, Scale.NONE, Quant.E5M2),
    _format("mxfp8", E4M3, 32, Scale.E8M0, Quant.MXFP8),
    _format("mxfp8-e5m2", E5M2, 32, Scale.E8M0, Quant.MXFP8_E5M2),
    _format("mxfp4", E2M1, 32, Scale.E8M0, Quant.MXFP4),
    _format("nvfp4", E2M1, 16, Scale.E4M3, Quant.NVFP4),
    _format("nvfp4-46", E2M1, 16, Scale.E4M3, Quant.NVFP4_46),
    _format("deepseek", E4M3, 128, Scale.FP32, Quant.BLOCK128),
    _format("deepseek-ue8m0", E4M3, 128, Scale.E8M0, Quant.BLOCK128_E8M0),
)}
"""Every format by `isa.Quant`."""


def built_quantizers(config: TileConfig) -> tuple[Quant, ...]:
    """Quantizers of a tile's vector unit, in the order of `isa.Quant`.

    The cast to E4M3 always; the others when the tile builds a pair with their elements and their scales.
    """
    pairs = [pair.split("x") for pair in config.formats]
    elements = {element for pair in pairs for element in pair}
    return tuple(quant for quant, fmt in sorted(BLOCK_FORMATS.items()) if quant == Quant.E4M3 or (
        fmt.element.name in elements and (not fmt.block or fmt.scale.name.lower() in config.scales)))


def block_quantizers(config: TileConfig) -> tuple[BlockFormat, ...]:
    """Formats with block scales among `built_quantizers`."""
    return tuple(BLOCK_FORMATS[quant] for quant in built_quantizers(config) if BLOCK_FORMATS[quant].block)
