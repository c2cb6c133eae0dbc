"""The rotary embedding of a config.json: ``rope_theta``, ``rope_scaling`` and ``rope_parameters``.

Two spellings of one thing: ``rope_theta`` beside ``rope_scaling`` (an object or null), and since transformers 5 both
in one object ``rope_parameters``, which may hold one object per kind of layer (``full_attention``,
``sliding_attention``); what is said twice must agree. The kind stands under ``rope_type`` or, in older files,
``type``. Lengths that the object leaves out are those of the model, as in ``transformers``:
``original_max_position_embeddings`` may stand beside the object, and is ``max_position_embeddings`` when it is
nowhere; the factor of yarn and longrope is their quotient.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .config_fields import ConfigFields
from .families import FAMILIES
from .layer_patterns import FULL, SLIDING
from .model_features import not_built
from .rotary import KINDS, OPTIONAL, REQUIRED, RopeScaling, scaling_problems
from .windows import layer_kinds

MAX_LENGTH = (1 << 31) - 1
_TYPE_KEYS = ("rope_type", "type")
_ALIASES = {("phi3", "su"): "longrope"}
_MSCALES = ("short_mscale", "long_mscale")
"""Attention factors of Phi-3.5-MoE up to the original length, and beyond; built where they are equal, as published."""
_NOT_SCALING = (*_TYPE_KEYS, "rope_theta", "partial_rotary_factor")
_OF_THE_MODEL = ("max_position_embeddings", "head_dim", "rope_theta")


@dataclass(frozen=True, kw_only=True)
class Rope:
    """``theta``: None when missing. ``blockers``: what is not built. ``unknown``: keys, as ``rope_scaling.key``.
    ``rotary_dim``: features of a head that are rotated, None for all."""

    theta: float | None = None
    rotary_dim: int | None = None
    scaling: RopeScaling | None = None
    blockers: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    def without(self, keys: Collection[str]) -> Rope:
        """The same with these unknown keys taken as known not to matter."""
        return replace(self, unknown=tuple(key for key in self.unknown if key not in keys))


def read_rope(fields: ConfigFields, family: str, head_dim: int | None) -> Rope:
    """The rotary embedding; what is wrong is added to ``fields.problems``."""
    own = _own_base(fields.raw, family)
    objects = _objects(fields, FULL if own is None else SLIDING)
    theta = _theta(fields, objects, family, own)
    if len(objects) == 2:
        first, second = ({k: v for k, v in content.items() if v is not None and k not in _NOT_SCALING}
                         | {"rope_type": _kind(content)} for content in objects.values())
        if first != second:
            names = " and ".join(objects)
            fields.problems.append(f"contradictory fields: {names} differ (expected one, or equal values)")
    rotated = _rotary_dim(fields, objects, family, head_dim)
    for name, content in objects.items():
        rope = _read(fields, name, content, theta, rotated or head_dim, family)
        return replace(rope, rotary_dim=rotated)
    return Rope(theta=theta, rotary_dim=rotated)


def _own_base(raw: Mapping[str, Any], family: str) -> float | None:
    """What a missing base means in a model all of whose layers have windows and a base of their own; None for others.
    """
    window = FAMILIES[family].window if family in FAMILIES else None
    own = window is not None and set(layer_kinds(raw)) == {SLIDING}
    return window.own_rope if own and window is not None else None


def _objects(fields: ConfigFields, kind: str) -> dict[str, Mapping[str, Any]]:
    """The objects for this kind of attention that are there, by the name to call them in messages. One without kinds is
    of full attention, or of layers without a base of their own."""
    found = {}
    for name in ("rope_scaling", "rope_parameters"):
        content = fields.raw.get(name)
        if content is None or content == {}:
            continue
        if not isinstance(content, Mapping):
            fields.fail(name, "an object or null")
        elif not {FULL, SLIDING} & content.keys():
            found |= {name: content} if kind == FULL else {}
        elif not isinstance(content.get(kind, {}), Mapping):
            fields.problems.append(f"{name}.{kind}: expected an object, got {repr(content[kind])[:60]}")
        elif content.get(kind):
            found[f"{name}.{kind}"] = content[kind]
    return found


def _kind(content: Mapping[str, Any]) -> Any:
    return next((content[key] for key in _TYPE_KEYS if content.get(key) is not None), None)


def _theta(fields: ConfigFields, objects: Mapping[str, Mapping[str, Any]], family: str,
           own: float | None) -> float | None:
    """own: what a missing base means where it is that of layers with windows."""
    key = "rope_theta" if own is None else "rope_local_base_freq"
    found = {key: fields.number(key)}
    for name, content in objects.items():
        inner = ConfigFields(content)
        found[f"{name}.rope_theta"] = inner.number("rope_theta")
        fields.problems += [f"{name}.{problem}" for problem in inner.problems]
    given = {key: value for key, value in found.items() if value is not None}
    if len(set(given.values())) > 1:
        fields.contradict(given)
    assumed = FAMILIES[family].rope_theta if family in FAMILIES else None
    return next(iter(given.values()), assumed if own is None else own)


def _rotary_dim(fields: ConfigFields, objects: Mapping[str, Mapping[str, Any]], family: str,
                head_dim: int | None) -> int | None:
    """Of families that may rotate a part of a head, by the names that say how large it is."""
    default = FAMILIES[family].rotary_part if family in FAMILIES else None
    if default is None or head_dim is None:
        return None
    found = {"partial_rotary_factor": fields.number("partial_rotary_factor")}
    for name, content in objects.items():
        found[f"{name}.partial_rotary_factor"] = ConfigFields(content).number("partial_rotary_factor")
    given = {key: value for key, value in found.items() if value is not None}
    if len(set(given.values())) > 1:
        fields.contradict(given)
    size = int(head_dim * next(iter(given.values()), default))
    if "rotary_dim" in FAMILIES[family].read and not given:
        size = fields.integer("rotary_dim") or size
    if size > head_dim or size % 2:
        key = next(iter(given), "rotary_dim")
        fields.problems.append(f"{key}: expected an even part of head_dim = {head_dim}, got {size} features")
        return None
    return None if size == head_dim else size


def _read(fields: ConfigFields, name: str, content: Mapping[str, Any], theta: float | None,
          head_dim: int | None, family: str) -> Rope:
    kinds = {key: content[key] for key in _TYPE_KEYS if content.get(key) is not None}
    given = {key: value for key, value in content.items() if value is not None and not key.startswith("_")}
    if family == "phimoe" and given.get(_MSCALES[0]) == given.get(_MSCALES[1]) is not None:
        given = {key: value for key, value in given.items() if key not in _MSCALES} | {
            "attention_factor": given[_MSCALES[0]]}
    blockers = []
    partial = family not in FAMILIES or FAMILIES[family].rotary_part is not None
    if given.get("partial_rotary_factor", 1.0) != 1.0 and not partial:
        blockers.append(not_built(f"{name}.partial_rotary_factor", given["partial_rotary_factor"],
                                  "a partial rotary embedding", "1.0"))
    if len({str(kind) for kind in kinds.values()}) > 1:
        fields.contradict({f"{name}.{key}": repr(kind) for key, kind in kinds.items()})
    scaling_keys = [key for key in given if key not in _NOT_SCALING]
    kind = next(iter(kinds.values()), None if scaling_keys else "default")
    kind = _ALIASES.get((family, str(kind)), kind)
    allowed = ", ".join(("default", *KINDS))
    if kind is None:
        fields.problems.append(f"{name}.rope_type: missing, expected one of {allowed}")
        return Rope(theta=theta, blockers=tuple(blockers))
    if kind != "default" and kind not in KINDS:
        blockers.append(not_built(f"{name}.{next(iter(kinds))}", kind, "another kind of rotary scaling", allowed))
        return Rope(theta=theta, blockers=tuple(blockers))
    own = set() if kind == "default" else {*REQUIRED[kind], *OPTIONAL.get(kind, ())} - {"max_position_embeddings"}
    unknown = tuple(f"{name}.{key}" for key in scaling_keys if key not in own)
    scaling = None
    if kind != "default":
        values = _lengths(fields, name, kind, {key: given[key] for key in scaling_keys if key in own})
        problems = scaling_problems(kind, values, head_dim, theta)
        fields.problems += [p if p.startswith(_OF_THE_MODEL) else f"{name}.{p}" for p in problems]
        scaling = None if problems else RopeScaling(kind=kind, **values)
    return Rope(theta=theta, scaling=scaling, blockers=tuple(blockers), unknown=unknown)


def _lengths(fields: ConfigFields, name: str, kind: str, values: dict[str, Any]) -> dict[str, Any]:
    """``values`` with the lengths, and the factor, that stand elsewhere in the configuration."""
    longest = fields.integer("max_position_embeddings", high=MAX_LENGTH)
    original = "original_max_position_embeddings"
    if "max_position_embeddings" in REQUIRED[kind] and longest is not None:
        values["max_position_embeddings"] = longest
    if original in REQUIRED[kind]:
        beside = fields.integer(original, high=MAX_LENGTH)
        if beside is not None and values.get(original, beside) != beside:
            fields.contradict({original: beside, f"{name}.{original}": values[original]})
        if original not in values and (beside or longest) is not None:
            values[original] = beside or longest
    if kind == "longrope" and "factor" not in values and longest and isinstance(values.get(original), int):
        values["factor"] = longest / values[original] if values[original] else None
    return {key: value for key, value in values.items() if value is not None}
