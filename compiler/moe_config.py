"""The router and the shared expert of a config.json, by what its family has (`families`)."""

from __future__ import annotations

from dataclasses import replace

from ..rtl.spec.errors import WorkloadError
from .config_fields import ConfigFields
from .families import GROUPS, Family
from .scoring import Scoring


def read_scoring(fields: ConfigFields, family: Family, experts: int) -> Scoring:
    """How the router goes from logits to weights; what is wrong is added to ``fields.problems``."""
    scoring = family.scoring
    if not experts:
        return scoring
    if family.grouped and fields.raw.get("topk_method") == "greedy":  # DeepSeek-V2 does not look at its groups then
        scoring = replace(scoring, groups=1, kept_groups=1)
    elif family.grouped:
        groups, kept = (fields.integer(key) for key in GROUPS)
        scoring = replace(scoring, groups=groups or scoring.groups, kept_groups=kept or groups or scoring.kept_groups)
    if family.scaled:
        scoring = replace(scoring, scale=fields.number("routed_scaling_factor") or scoring.scale)
    if scoring.score == "sparsemixer" and (jitter := fields.raw.get("router_jitter_noise")) is not None:
        scoring = replace(scoring, jitter=fields.number("router_jitter_noise") or 0.0 if jitter else 0.0)
    try:
        scoring.check("router", experts, 1)
    except WorkloadError as error:
        fields.problems.append(f"{', '.join(GROUPS)}: {error}")
        return family.scoring
    return scoring


def read_shared_width(fields: ConfigFields, family: Family, expert_width: int | None) -> int:
    """Width of the shared expert, 0 for none; what is wrong is added to ``fields.problems``."""
    if family.shared is None:
        return 0
    found = fields.integer(family.shared, low=0) or 0
    return found * (expert_width or 0) if family.shared == "n_shared_experts" else found
