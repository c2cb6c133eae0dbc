"""Number formats of a layer: which tensor is stored how, and which MATMUL mode multiplies two of them.

A `TensorFormat` is an element format with its scales; a `LayerFormat` names one for weights, activations and the KV
cache. `parse_format` reads ``--format``: a preset (`PRESETS`) or ``W:A:KV``. `matmul_mode` gives the instruction
fields for a pair of tensors, or says why the tile cannot multiply them.
"""

from dataclasses import dataclass

from ..rtl.spec.config import TileConfig
from ..rtl.spec.errors import CompileError, WorkloadError, did_you_mean
from ..rtl.spec.formats import SCALE_BYTES, headroom
from ..rtl.spec.isa import Pair, Quant, Scale, ScaleLayout
from .format_names import PRESET_NAMES


@dataclass(frozen=True, kw_only=True)
class TensorFormat:
    """One stored format.

    element: e4m3, e5m2 or e2m1; bits: per element, without scales; block: elements per block scale, 0 for one FP32
    scale per tensor; scale: format of the block scales; quant: how the vector unit writes it.
    """

    name: str
    element: str
    bits: int
    block: int
    scale: Scale
    quant: Quant
    meaning: str

    @property
    def scale_bytes(self) -> int:
        """Bytes per block scale."""
        return SCALE_BYTES[self.scale]

    @property
    def bytes_per_element(self) -> float:
        """Storage per element, block scales included."""
        return self.bits / 8 + (self.scale_bytes / self.block if self.block else 0)

    @property
    def scaled(self) -> bool:
        return self.block > 0

    def bytes_of(self, elements: int) -> int:
        """Bytes of the codes of ``elements`` elements (an even number of 4-bit ones)."""
        return elements * self.bits // 8

    def layout(self, lanes: int) -> ScaleLayout:
        """Which groups of ``lanes`` bytes carry a scale byte."""
        if not self.block:
            return ScaleLayout.NONE
        if self.scale == Scale.FP32:
            return ScaleLayout.FP32
        groups = self.bytes_of(self.block) // lanes
        return {1: ScaleLayout.G1, 2: ScaleLayout.G2, 4: ScaleLayout.G4, 16: ScaleLayout.G16}[groups]

    def scale_bytes_of(self, elements: int) -> int:
        """Bytes of the block scales of a row of ``elements`` elements."""
        return -(-elements // self.block) * self.scale_bytes if self.block else 0


def _make(name: str, element: str, block: int, scale: Scale, quant: Quant, meaning: str) -> TensorFormat:
    return TensorFormat(name=name, element=element, bits=4 if element == "e2m1" else 8, block=block, scale=scale,
                        quant=quant, meaning=meaning)


TENSOR_FORMATS = {f.name: f for f in (
    _make("e4m3", "e4m3", 0, Scale.NONE, Quant.E4M3, "OCP E4M3, one FP32 scale per tensor"),
    _make("e5m2", "e5m2", 0, Scale.NONE, Quant.E5M2, "OCP E5M2, one FP32 scale per tensor"),
    _make("mxfp8", "e4m3", 32, Scale.E8M0, Quant.MXFP8, "OCP MX: E4M3 in blocks of 32, E8M0 scales"),
    _make("mxfp8-e5m2", "e5m2", 32, Scale.E8M0, Quant.MXFP8_E5M2, "OCP MX: E5M2 in blocks of 32, E8M0 scales"),
    _make("mxfp4", "e2m1", 32, Scale.E8M0, Quant.MXFP4, "OCP MX: E2M1 in blocks of 32, E8M0 scales"),
    _make("nvfp4", "e2m1", 16, Scale.E4M3, Quant.NVFP4, "E2M1 in blocks of 16, E4M3 scales, FP32 tensor scale"),
    _make("nvfp4-46", "e2m1", 16, Scale.E4M3, Quant.NVFP4_46, "NVFP4 with the better of two scales per block"),
    _make("deepseek", "e4m3", 128, Scale.FP32, Quant.BLOCK128, "E4M3 in blocks of 128, FP32 scales"),
    _make("deepseek-ue8m0", "e4m3", 128, Scale.E8M0, Quant.BLOCK128_E8M0, "E4M3 in blocks of 128, E8M0 scales"),
)}


@dataclass(frozen=True, kw_only=True)
class LayerFormat:
    """Formats of one layer's tensors."""

    weights: TensorFormat
    activations: TensorFormat
    kv: TensorFormat

    @property
    def name(self) -> str:
        return f"{self.weights.name}:{self.activations.name}:{self.kv.name}"


def _layer(weights: str, activations: str, kv: str) -> LayerFormat:
    return LayerFormat(weights=TENSOR_FORMATS[weights], activations=TENSOR_FORMATS[activations], kv=TENSOR_FORMATS[kv])


PRESETS = {name: _layer(*parts) for name, parts in PRESET_NAMES.items()}
E4M3 = PRESETS["e4m3"]

KV_FORMATS = ("e4m3", "e5m2")
"""Formats of the KV cache: a block along the keys could not be extended by one token."""


def parse_format(text: str) -> LayerFormat:
    """A preset or W:A:KV. Raises `WorkloadError` naming what is allowed."""
    if text in PRESETS:
        return PRESETS[text]
    parts = text.split(":")
    if len(parts) != 3:
        raise WorkloadError(f"format {text!r}: expected one of {', '.join(PRESETS)}, or weights:activations:kv"
                            f"{did_you_mean(text, PRESETS)}")
    for part, what in zip(parts, ("weights", "activations", "kv"), strict=True):
        allowed = KV_FORMATS if what == "kv" else tuple(TENSOR_FORMATS)
        if part not in allowed:
            raise WorkloadError(f"format {text!r}: {what}: unknown or not allowed {part!r}; allowed: "
                                f"{', '.join(allowed)}{did_you_mean(part, allowed)}")
    return _layer(*parts)


ELEMENT_PAIRS = {
    ("e4m3", "e4m3"): Pair.E4M3, ("e5m2", "e5m2"): Pair.E5M2, ("e4m3", "e5m2"): Pair.E4M3_E5M2,
    ("e5m2", "e4m3"): Pair.E5M2_E4M3, ("e2m1", "e2m1"): Pair.E2M1, ("e4m3", "e2m1"): Pair.E4M3_E2M1,
}

_BUILD_NAME = {Pair.E4M3: "e4m3", Pair.E5M2: "e5m2", Pair.E4M3_E5M2: "e4m3xe5m2", Pair.E5M2_E4M3: "e4m3xe5m2",
               Pair.E2M1: "e2m1", Pair.E4M3_E2M1: "e4m3xe2m1"}


@dataclass(frozen=True, kw_only=True)
class MatmulMode:
    """What a MATMUL of two formats needs: instruction fields, and elements of k per step.

    grid: 2**grid is the weight of one unit of a term that the headroom shifted, relative to the plain product; the
    drain accounts for it, so results need no correction.
    """

    fields: dict[str, int]
    k_per_step: int


def matmul_mode(a: TensorFormat, b: TensorFormat, k: int, config: TileConfig, what: str) -> MatmulMode:
    """Fields for C = A B with ``k`` elements in the whole sum. Raises `CompileError` naming ``what`` and the tile."""
    pair = ELEMENT_PAIRS.get((a.element, b.element))
    if pair is None:
        raise CompileError(f"{what}: no MATMUL multiplies {a.name} (A) by {b.name} (B); allowed element pairs: "
                           + ", ".join(f"{x} x {y}" for x, y in ELEMENT_PAIRS))
    if _BUILD_NAME[pair] not in config.formats:
        raise CompileError(f"{what}: tile {config.name} does not build the pair {_BUILD_NAME[pair]}; it has formats = "
                           f"{list(config.formats)}")
    k_per_step = config.lanes * (2 if pair == Pair.E2M1 else 1)
    scales = {f.scale for f in (a, b) if f.scaled}
    if not scales:
        return MatmulMode(fields={"pair": pair}, k_per_step=k_per_step)
    if len(scales) > 1 or len({f.block for f in (a, b) if f.scaled}) > 1:
        raise CompileError(f"{what}: {a.name} and {b.name} have different block scales; one MATMUL takes one kind")
    scale, block = scales.pop(), max(a.block, b.block)
    if scale.name.lower() not in config.scales:
        raise CompileError(f"{what}: tile {config.name} does not build {scale.name.lower()} block scales; it has "
                           f"scales = {list(config.scales)}")
    fields = {"pair": pair, "scale": scale, "a_scaled": int(a.scaled), "b_scaled": int(b.scaled),
              "block": (block // k_per_step).bit_length() - 1}
    if scale in (Scale.E8M0, Scale.FP32):
        fields["headroom"] = headroom(pair, scale, block, -(-k // block), config.acc_bits)
    return MatmulMode(fields=fields, k_per_step=k_per_step)


def value_weights(formats: LayerFormat) -> TensorFormat:
    """Format of the value projection's weights.

    That projection exchanges its operands, so the weights are A. Where no MATMUL takes them there (4-bit weights with
    8-bit activations), they are stored in the activations' format.
    """
    weights, x = formats.weights, formats.activations
    same_blocks = not (weights.scaled and x.scaled) or (weights.scale, weights.block) == (x.scale, x.block)
    return weights if (weights.element, x.element) in ELEMENT_PAIRS and same_blocks else x


def query_format(formats: LayerFormat) -> TensorFormat:
    """Format of q and of the probabilities: the activations', if it has one scale per tensor, else E4M3."""
    return TENSOR_FORMATS["e4m3"] if formats.activations.scaled else formats.activations
