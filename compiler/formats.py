"""Number formats of a layer: which tensor is stored how, and which MATMUL mode multiplies two of them.

A `LayerFormat` names a `TensorFormat` each for weights, activations and the KV cache. `parse_format` reads
``--format``: a preset (`PRESETS`) or ``W:A:KV``. `matmul_mode` gives the instruction fields for two tensors, or says
why the tile cannot multiply them.
"""

from dataclasses import dataclass

from ..rtl.spec.config import TileConfig
from ..rtl.spec.errors import CompileError, WorkloadError, did_you_mean
from ..rtl.spec.formats import ELEMENT_PAIRS, PAIRS, SCALE_NAMES, headroom
from ..rtl.spec.isa import Scale
from ..rtl.spec.tensor_formats import TENSOR_FORMATS, TensorFormat
from .format_names import PRESET_NAMES


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

KV_FORMATS = tuple(f.name for f in TENSOR_FORMATS.values() if not f.block)
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


def preset_name(formats: LayerFormat) -> str:
    """The shortest text that `parse_format` reads as ``formats``."""
    return next((name for name, preset in PRESETS.items() if preset == formats), formats.name)


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
    pair = ELEMENT_PAIRS.get((a.element.name, b.element.name))
    if pair is None:
        raise CompileError(f"{what}: no MATMUL multiplies {a.name} (A) by {b.name} (B); allowed element pairs: "
                           + ", ".join(f"{x} x {y}" for x, y in ELEMENT_PAIRS))
    if PAIRS[pair].build_name not in config.formats:
        raise CompileError(f"{what}: tile {config.name} does not build the pair {PAIRS[pair].build_name}; it has "
                           f"formats = {list(config.formats)}")
    k_per_step = PAIRS[pair].products_per_step(config.lanes)
    scales = {f.scale for f in (a, b) if f.scaled}
    if not scales:
        return MatmulMode(fields={"pair": pair}, k_per_step=k_per_step)
    if len(scales) > 1 or len({f.block for f in (a, b) if f.scaled}) > 1:
        raise CompileError(f"{what}: {a.name} and {b.name} have different block scales; one MATMUL takes one kind")
    scale, block = scales.pop(), max(a.block, b.block)
    if SCALE_NAMES[scale] not in config.scales:
        raise CompileError(f"{what}: tile {config.name} does not build {SCALE_NAMES[scale]} block scales; it has "
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
    return weights if (weights.element.name, x.element.name) in ELEMENT_PAIRS and same_blocks else x


def query_format(formats: LayerFormat) -> TensorFormat:
    """Format of q and of the probabilities: the activations', if it has one scale per tensor, else E4M3."""
    return TENSOR_FORMATS["e4m3"] if formats.activations.scaled else formats.activations
