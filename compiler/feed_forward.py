"""Feed-forward layers: experts behind a router, and the dense layer. What the sizes mean stands in `layers`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..rtl.spec.errors import WorkloadError
from .activation_names import check_activation
from .checks import require_bool, require_int
from .scoring import SOFTMAX, Scoring


@dataclass(frozen=True, kw_only=True)
class MoELayer:
    """Mixture of SwiGLU experts behind a top-k router.

    ``y[t] = sum over the top_k experts e of w[t, e] * down_e(silu(gate_e(x[t])) * up_e(x[t]))`` where w are the scores
    of ``scoring``, by default the softmax over all experts' logits, divided by the sum of the chosen ones if
    ``norm_topk``. Equal logits are broken by the lowest expert index.

    ``shared``: width of an expert that every token uses beside them, 0 for none, with weight 1, or, ``shared_gated``,
    the sigmoid of a linear of x. ``activation``: of all experts, a name in `activation_names`.
    ``biases``: each of an expert's matrices has one.
    """

    model: str = "custom"
    hidden: int
    experts: int
    top_k: int
    intermediate: int
    norm_topk: bool
    scoring: Scoring = SOFTMAX
    shared: int = 0
    shared_gated: bool = False
    activation: str = "silu"
    biases: bool = False

    def __post_init__(self) -> None:
        where = f"MoE layer of {self.model}"
        for field in ("hidden", "experts", "top_k", "intermediate"):
            require_int(where, field, getattr(self, field), 1, 1 << 20)
        if self.top_k > self.experts:
            raise WorkloadError(
                f"{where}: top_k: expected at most experts = {self.experts}, got {self.top_k}"
            )
        require_bool(where, "norm_topk", self.norm_topk)
        self.scoring.check(where, self.experts, self.top_k)
        require_int(where, "shared", self.shared, 0, 1 << 20)
        require_bool(where, "shared_gated", self.shared_gated)
        check_activation(where, self.activation)
        require_bool(where, "biases", self.biases)
        if self.biases and self.scoring.on_input:
            raise WorkloadError(f"{where}: biases: expected false with weights on the input, got true")
        if self.shared_gated and not self.shared:
            raise WorkloadError(f"{where}: shared_gated: expected false without a shared expert, got true")

    @property
    def kind(self) -> str:
        """The name of this layer on the command line and in reports."""
        return "moe"

    def cut(self, most: Mapping[str, int]) -> MoELayer:
        """The same layer with sizes of at most ``most``, by name."""
        sizes = {name: min(getattr(self, name), most[name]) for name in ("hidden", "experts", "top_k", "intermediate")}
        return replace(self, scoring=self.scoring.cut(sizes["experts"]), shared=min(self.shared, most["intermediate"]),
                       **sizes)

    @property
    def router(self) -> str:
        """How it chooses and weighs, in a line (`Scoring.text`)."""
        return self.scoring.text(self.top_k, norm_topk=self.norm_topk)

    @property
    def weights(self) -> int:
        """Elements of the router and of all experts, the shared one and its gate among them."""
        shared = 3 * self.hidden * self.shared + self.hidden * self.shared_gated
        return self.hidden * self.experts + self.experts * self.expert_weights + shared

    @property
    def expert_weights(self) -> int:
        """Elements of the gate, up and down matrices of one expert."""
        return 3 * self.hidden * self.intermediate


@dataclass(frozen=True, kw_only=True)
class MlpLayer:
    """Dense feed-forward layer: ``y = down(activation(gate(x)) * up(x))``, without a gate ``down(activation(up(x)))``.

    activation: a name in `activation_names`. biases: each of its matrices has one."""

    model: str = "custom"
    hidden: int
    intermediate: int
    activation: str = "silu"
    gated: bool = True
    biases: bool = False

    def __post_init__(self) -> None:
        where = f"MLP layer of {self.model}"
        for field in ("hidden", "intermediate"):
            require_int(where, field, getattr(self, field), 1, 1 << 20)
        for field in ("gated", "biases"):
            require_bool(where, field, getattr(self, field))
        check_activation(where, self.activation, alone=not self.gated)

    @property
    def kind(self) -> str:
        """The name of this layer on the command line and in reports."""
        return "mlp"

    def cut(self, most: Mapping[str, int]) -> MlpLayer:
        """The same layer with sizes of at most ``most``, by name."""
        return replace(self, **{name: min(getattr(self, name), most[name]) for name in ("hidden", "intermediate")})

    @property
    def weights(self) -> int:
        """Elements of the matrices (biases not counted)."""
        return (2 + self.gated) * self.hidden * self.intermediate
