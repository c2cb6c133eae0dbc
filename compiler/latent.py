"""Multi-head latent attention (MLA): the layer, and which of its two forms a workload is computed in.

Keys and values of all heads are made of one *latent* vector per token (``kv_rank`` numbers, normalized) and a rotated
key part that all heads share (``rope_dim``): ``k[h] = [W_UK[h] c | k_rope]``, ``v[h] = W_UV[h] c``. Two forms give the
same result (DeepSeek-V2, arXiv 2405.04434):

- *expanded*: keys and values of every head are computed, then attention is that of ``heads`` heads;
- *absorbed*: ``q[h] . W_UK[h] c = (W_UK[h]^T q[h]) . c``, so that all heads share one key ``[c | k_rope]`` and one
  value ``c``; W_UV[h] is applied to what a head mixed.

Expanding costs ``kv_rank * (nope_dim + value_dim)`` products per head and key; absorbing costs as many per head and
query, and each pair of a query and a key costs more. ``form = "auto"`` takes the form with fewer products where
all tokens are new, and the absorbed one where some are cached: no kernel expands cached latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from ..rtl.spec.errors import WorkloadError
from .checks import require_choice, require_int
from .layers import AttentionLayer, Workload

Form = Literal["auto", "expanded", "absorbed"]


@dataclass(frozen=True, kw_only=True)
class LatentAttentionLayer(AttentionLayer):
    """MLA. ``head_dim`` is that of q and k, of which the last ``rope_dim`` features are rotated; ``kv_heads`` is
    ``heads``.

    ``q_rank``: q is made of a normalized vector of so many numbers, or None: of x. ``qkv_bias``: vectors are added to
    what x makes, the latents. Caches hold normalized latents and rotated key parts.
    """

    q_rank: int | None = None
    kv_rank: int
    rope_dim: int
    value_dim: int
    form: Form = "auto"

    def __post_init__(self) -> None:
        where = f"attention layer of {self.model}"
        for field in ("kv_rank", "rope_dim", "value_dim"):
            require_int(where, field, getattr(self, field), 1, 1 << 20)
        require_int(where, "kv_heads", self.kv_heads, self.heads, self.heads)
        require_int(where, "head_dim", self.head_dim, self.rope_dim + 1, 1 << 20)
        if self.q_rank is not None:
            require_int(where, "q_rank", self.q_rank, 1, 1 << 20)
        require_choice(where, "form", self.form, get_args(Form))
        require_choice(where, "qk_norm", self.qk_norm, ("none",))
        for field in ("logit_cap", "temperature"):
            if getattr(self, field) is not None:
                raise WorkloadError(f"{where}: {field}: expected None of latent attention, got {getattr(self, field)}")
        object.__setattr__(self, "rotary_dim", self.rope_dim)
        super().__post_init__()

    @property
    def nope_dim(self) -> int:
        """Features of q and k that are not rotated."""
        return self.head_dim - self.rope_dim

    def macs(self, queries: int, keys: int, pairs: int, form: str) -> int:
        """Products per head of one sequence, beside those that both forms have: of ``queries`` new tokens, ``keys`` and
        ``pairs`` of them."""
        lifted = self.kv_rank * (self.nope_dim + self.value_dim)
        if form == "expanded":
            return keys * lifted + pairs * (self.head_dim + self.value_dim)
        return queries * lifted + pairs * (2 * self.kv_rank + self.rope_dim)

    def cut(self, most: Mapping[str, int]) -> LatentAttentionLayer:
        """The same layer with sizes of at most ``most``, by name; ranks are cut as ``hidden``, parts of heads to
        ``head_dim``."""
        heads, size = min(self.heads, most["group"]), most["head_dim"]
        nope, rope = min(self.nope_dim, size), min(self.rope_dim, size)
        return replace(self, hidden=min(self.hidden, most["hidden"]), heads=heads, kv_heads=heads, head_dim=nope + rope,
                       rope_dim=rope, value_dim=min(self.value_dim, size), softmax_scale=None, rotary_dim=rope,
                       q_rank=self.q_rank and min(self.q_rank, most["hidden"]),
                       kv_rank=min(self.kv_rank, most["hidden"]),
                       rope_scaling=self.rope_scaling and self.rope_scaling.cut(rope))

    @property
    def weights(self) -> int:
        """Elements of all matrices (norm vectors and biases not counted)."""
        q = self.heads * self.head_dim
        made = self.hidden * q if self.q_rank is None else self.q_rank * (self.hidden + q)
        return (made + self.hidden * (self.kv_rank + self.rope_dim) + self.heads * (
            self.kv_rank * (self.nope_dim + self.value_dim) + self.value_dim * self.hidden))


def absorbs(layer: LatentAttentionLayer, workload: Workload) -> bool:
    """Is a workload computed in the absorbed form? The rule is in the module docstring; of two forms with as many
    products it is the expanded one."""
    if layer.form != "auto" or workload.cached:
        return layer.form != "expanded"
    absorbed, expanded = (layer.macs(workload.tokens, workload.keys, workload.pairs, form)
                          for form in ("absorbed", "expanded"))
    return absorbed < expanded
