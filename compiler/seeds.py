"""Seeds of everything that is drawn."""

from ..rtl.spec.errors import WorkloadError


def check_seed(seed: object) -> None:
    """Raise WorkloadError unless ``seed`` is an integer from 0 to 2**63 - 1."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 63:
        raise WorkloadError(f"seed: expected an integer from 0 to 2**63 - 1, got {seed!r}")
