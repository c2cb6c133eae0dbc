"""What decides the bits of a layer's result, beside its tensors: formats, softmax block, router terms, scale rule.

Two programs of one layer with equal tensors and equal `Numerics` give equal bits on every tile and with every
schedule (`schedule.py`); with different ones they need not. So a result is named by its digest together with that of
its `Numerics`, and nothing that looks for a good schedule may change one.
"""

import hashlib
import json
from dataclasses import dataclass

from ..rtl.spec.errors import CompileError, WorkloadError
from ..rtl.spec.isa import Scale, ScaleRule
from .format_names import SCALE_RULE_NAMES, SOFTMAX_BLOCK
from .formats import E4M3, LayerFormat, parse_format

LARGEST_BLOCK = 16384
"""P's codes are at most 256, and a row sum holds less than 2**23: docs/numerics.md."""

ROUTER_TERMS = (1, 2, 3)
"""E4M3 terms per operand of the router's matmul: docs/decisions/0012-router-terms.md."""

RULES = {name: ScaleRule[name.upper()] for name in SCALE_RULE_NAMES}
"""Rules of power-of-two block scales by the names that ``--scale-rule`` takes."""


@dataclass(frozen=True, kw_only=True)
class Numerics:
    """Everything that decides the bits of a layer.

    formats: of weights, activations and KV cache. softmax_block: block j of a softmax is the absolute keys
    j * softmax_block on; the running maximum, to which P is rounded, moves between blocks only. router_terms: E4M3
    terms per operand of the router (`ROUTER_TERMS`). scale_rule: of power-of-two block scales, weights and activations
    alike; FLOOR where no tensor has such scales.
    Raises `CompileError` naming the field, its value and what is allowed.
    """

    formats: LayerFormat = E4M3
    softmax_block: int = SOFTMAX_BLOCK
    router_terms: int = 3
    scale_rule: ScaleRule = ScaleRule.FLOOR

    def __post_init__(self) -> None:
        if not isinstance(self.formats, LayerFormat):
            raise CompileError(f"numerics: formats must be a LayerFormat, got {self.formats!r}")
        if type(self.softmax_block) is not int or not 1 <= self.softmax_block <= LARGEST_BLOCK:
            raise CompileError(f"numerics: softmax_block must be an integer from 1 to {LARGEST_BLOCK}, got "
                               f"{self.softmax_block!r}")
        if type(self.router_terms) is not int or self.router_terms not in ROUTER_TERMS:
            raise CompileError(f"numerics: router_terms must be one of {', '.join(map(str, ROUTER_TERMS))}, got "
                               f"{self.router_terms!r}")
        if not isinstance(self.scale_rule, ScaleRule):
            raise CompileError(f"numerics: scale_rule must be a ScaleRule, got {self.scale_rule!r}")
        if self.scale_rule != ScaleRule.FLOOR and not has_power_of_two_scales(self.formats):
            raise CompileError(f"numerics: scale_rule {self.scale_rule.name.lower()}: formats {self.formats.name} have "
                               "no power-of-two block scales; allowed: floor")

    @property
    def digest(self) -> str:
        """12 hexadecimal digits; equal for equal values, in every process and on every machine."""
        return hashlib.sha256(json.dumps(self._fields(), sort_keys=True).encode()).hexdigest()[:12]

    def _fields(self) -> dict:
        return {"formats": self.formats.name, "softmax_block": self.softmax_block, "router_terms": self.router_terms,
                "scale_rule": self.scale_rule.name.lower()}

    def to_dict(self) -> dict:
        """The digest and the fields, of JSON types; `from_dict` is the inverse."""
        return {"digest": self.digest, **self._fields()}

    @classmethod
    def from_dict(cls, values: object, source: str = "numerics") -> "Numerics":
        """The value of `to_dict`'s output; the digest may be left out. Raises `CompileError` naming ``source``."""
        names = tuple(cls()._fields())
        if not isinstance(values, dict) or set(values) - {"digest"} != set(names):
            raise CompileError(f"{source}: expected an object with the keys {', '.join(names)}, got {str(values)[:80]}")
        rule = values["scale_rule"]
        if not isinstance(rule, str) or rule not in RULES:
            raise CompileError(f"{source}: scale_rule: expected one of {', '.join(RULES)}, got {rule!r}")
        try:
            made = cls(formats=parse_format(str(values["formats"])), softmax_block=values["softmax_block"],
                       router_terms=values["router_terms"], scale_rule=RULES[rule])
        except (CompileError, WorkloadError) as error:
            raise CompileError(f"{source}: {str(error).removeprefix('numerics: ')}") from None
        if values.get("digest", made.digest) != made.digest:
            raise CompileError(f"{source}: digest: expected {made.digest}, that of the other fields, got "
                               f"{values['digest']!r}")
        return made

    def differences(self, other: "Numerics") -> list[str]:
        """One line per field in which ``other`` differs, as ``softmax_block: 256 -> 128``."""
        old, new = self._fields(), other._fields()
        return [f"{name}: {old[name]} -> {new[name]}" for name in old if old[name] != new[name]]


def from_options(formats: str, *, softmax_block: int | None = None, scale_rule: str | None = None) -> Numerics:
    """The value that command-line options ask for; None where one is not given.

    Raises `WorkloadError` for a format that is not known and a rule that would be ignored, `CompileError` for a wrong
    value.
    """
    chosen = parse_format(formats)
    if scale_rule is not None and not has_power_of_two_scales(chosen):
        raise WorkloadError(f"--scale-rule {scale_rule}: formats {chosen.name} have no power-of-two block scales")
    return Numerics(formats=chosen, softmax_block=SOFTMAX_BLOCK if softmax_block is None else softmax_block,
                    scale_rule=RULES[scale_rule or "floor"])


def has_power_of_two_scales(formats: LayerFormat) -> bool:
    """Does a scale rule make a difference to tensors of these formats?"""
    return any(tensor.scale == Scale.E8M0 for tensor in (formats.weights, formats.activations, formats.kv))


DEFAULT = Numerics()
