"""Typed access to the keys of a config.json.

One place that words the failures, so that each names the key, the value found and what is allowed. Failures are
collected in ``problems``, not raised: a file with three wrong keys is told all three. A key that is null counts as
missing, as in Hugging Face files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .model_features import PER_LAYER
from .rotary import MAX_NUMBER

MAX_SIZE = 1 << 20
"""Upper limit of any size in a configuration; the largest in use is a vocabulary of 262,208."""


class ConfigFields:
    """Typed access to a configuration's keys. A wrong value reads as None and adds to ``problems``."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.raw = raw
        self.problems: list[str] = []

    def fail(self, key: str, expected: str) -> None:
        """Note that ``key`` is missing or wrong."""
        value = self.raw.get(key)
        if value is None:
            self.problems.append(f"{key}: missing, expected {expected}")
        else:
            found = repr(value)
            self.problems.append(f"{key}: expected {expected}, got {found if len(found) < 80 else found[:77] + '...'}")

    def contradict(self, values: Mapping[str, Any]) -> None:
        """Note that several spellings of one field disagree."""
        listed = ", ".join(f"{key} = {value:g}" if isinstance(value, float) else f"{key} = {value}"
                           for key, value in values.items())
        self.problems.append(f"contradictory fields: {listed} (expected one value)")

    def integer(self, key: str, *, low: int = 1, high: int = MAX_SIZE) -> int | None:
        value = self.raw.get(key)
        if value is None or value == PER_LAYER:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.fail(key, f"an integer from {low} to {high}")
            return None
        return value

    def required(self, key: str) -> int | None:
        value = self.integer(key)
        if self.raw.get(key) is None:
            self.fail(key, f"an integer from 1 to {MAX_SIZE}")
        return value

    def number(self, key: str) -> float | None:
        value = self.raw.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_NUMBER:
            self.fail(key, "a positive finite number")
            return None
        return float(value)

    def boolean(self, key: str, default: bool) -> bool:
        value = self.raw.get(key)
        if value is not None and not isinstance(value, bool):
            self.fail(key, "true or false")
            return default
        return default if value is None else value

    def text(self, key: str) -> str | None:
        value = self.raw.get(key)
        if value is not None and not isinstance(value, str):
            self.fail(key, "a string")
            return None
        return value

    def texts(self, key: str) -> None:
        """Check a list of strings."""
        value = self.raw.get(key)
        if value is not None and not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
            self.fail(key, "a list of strings")

    def agreed(self, keys: tuple[str, ...], *, low: int) -> int:
        """The one value of several spellings of the same field; 0 when none is there."""
        present = {key: value for key in keys if (value := self.integer(key, low=low)) is not None}
        if len(set(present.values())) > 1:
            self.contradict(present)
        return next(iter(present.values()), 0)
