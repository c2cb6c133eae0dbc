"""Norms of rows, as layers of their own and as parts of others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..rtl.spec.errors import WorkloadError
from .checks import require_bool, require_int, require_positive


@dataclass(frozen=True, kw_only=True)
class NormLayer:
    """RMS norm of rows: ``(offset + weight) * x / sqrt(mean(x^2) + eps)``; ``centered``, a LayerNorm: of x - mean(x) in
    place of x; ``bias``: a vector is added to a LayerNorm's result."""

    model: str = "custom"
    hidden: int
    eps: float = 1e-6
    offset: float = 0.0
    centered: bool = False
    bias: bool = False

    def __post_init__(self) -> None:
        where = f"norm layer of {self.model}"
        require_int(where, "hidden", self.hidden, 1, 1 << 20)
        require_positive(where, "eps", self.eps)
        for field in ("centered", "bias"):
            require_bool(where, field, getattr(self, field))
        if self.bias and not self.centered:
            raise WorkloadError(f"{where}: bias: expected false unless centered (a LayerNorm), got true")

    @property
    def kind(self) -> str:
        """The name of this layer on the command line and in reports."""
        return "norm"

    def cut(self, most: Mapping[str, int]) -> NormLayer:
        """The same layer with sizes of at most ``most``, by name."""
        return replace(self, hidden=min(self.hidden, most["hidden"]))

    @property
    def weights(self) -> int:
        """Elements of its weight."""
        return self.hidden
