"""Names of layer formats: presets as formats of weights, activations and KV cache. `formats.py` gives their meaning."""

from ..rtl.spec.isa import ScaleRule

PRESET_NAMES = {
    "e4m3": ("e4m3", "e4m3", "e4m3"),
    "e5m2": ("e5m2", "e5m2", "e5m2"),
    "mxfp8": ("mxfp8", "mxfp8", "e4m3"),
    "mxfp4": ("mxfp4", "mxfp4", "e4m3"),
    "nvfp4": ("nvfp4", "nvfp4", "e4m3"),
    "nvfp4-46": ("nvfp4-46", "nvfp4-46", "e4m3"),
    "w4a8-nvfp4": ("nvfp4", "e4m3", "e4m3"),
    "w4a8-mxfp4": ("mxfp4", "mxfp8", "e4m3"),
    "deepseek": ("deepseek", "deepseek", "e4m3"),
    "deepseek-ue8m0": ("deepseek-ue8m0", "deepseek-ue8m0", "e4m3"),
}
"""{what ``--format`` takes: names in `tensor_formats.TENSOR_FORMATS`}."""

SOFTMAX_BLOCK = 256
"""Keys per softmax block, unless said otherwise: docs/decisions/0011-softmax-block.md."""

SCALE_RULE_NAMES = tuple(rule.name.lower() for rule in ScaleRule)
"""Rules of power-of-two block scales, as ``--scale-rule`` takes them."""
