"""Checks of fields, with the words of their errors."""

import math

from ..rtl.spec.errors import WorkloadError


def require_int(where: str, field: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise WorkloadError(f"{where}: {field}: expected an integer from {low} to {high}, got {value!r}")


def require_choice(where: str, field: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise WorkloadError(f"{where}: {field}: expected one of {', '.join(allowed)}, got {value!r}")


def require_bool(where: str, field: str, value: object) -> None:
    if not isinstance(value, bool):
        raise WorkloadError(f"{where}: {field}: expected true or false, got {value!r}")


def require_positive(where: str, field: str, value: object) -> None:
    ok = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
    if not ok:
        raise WorkloadError(f"{where}: {field}: expected a positive finite number, got {value!r}")
