"""Typed access to the keys of a config.json.

One place that words the failures, so that each names the file, the key, the value found and what is allowed.
A key that is null counts as missing, as in Hugging Face files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..rtl.errors import ConfigError
from .model_features import PER_LAYER

MAX_SIZE = 1 << 20
"""Upper limit of any size in a configuration; the largest in use is a vocabulary of 262,208."""


class ConfigFields:
    """Typed access to a configuration's keys; every failure names file, key, value and what is allowed."""

    def __init__(self, raw: Mapping[str, Any], source: str) -> None:
        self.raw = raw
        self.source = source

    def fail(self, key: str, expected: str) -> ConfigError:
        if self.raw.get(key) is None:
            return ConfigError(f"{self.source}: {key}: missing; expected {expected}")
        return ConfigError(f"{self.source}: {key}: expected {expected}, got {self.raw[key]!r}")

    def integer(self, key: str, *, low: int = 1) -> int | None:
        value = self.raw.get(key)
        if value is None or value == PER_LAYER:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= MAX_SIZE:
            raise self.fail(key, f"an integer from {low} to {MAX_SIZE}")
        return value

    def required(self, key: str) -> int:
        value = self.integer(key)
        if value is None:
            raise self.fail(key, f"an integer from 1 to {MAX_SIZE}")
        return value

    def number(self, key: str) -> float | None:
        value = self.raw.get(key)
        if value is None:
            return None
        ok = (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and math.isfinite(value)
            and value > 0
        )
        if not ok:
            raise self.fail(key, "a positive finite number")
        return float(value)

    def boolean(self, key: str, default: bool) -> bool:
        value = self.raw.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.fail(key, "true or false")
        return default if value is None else value

    def text(self, key: str) -> str | None:
        value = self.raw.get(key)
        if value is not None and not isinstance(value, str):
            raise self.fail(key, "a string")
        return value

    def agreed(self, keys: tuple[str, ...], *, low: int) -> int:
        """The one value of several spellings of the same field; 0 when none is there."""
        present = {key: value for key in keys if (value := self.integer(key, low=low)) is not None}
        if len(set(present.values())) > 1:
            listed = ", ".join(f"{key} = {value}" for key, value in present.items())
            raise ConfigError(f"{self.source}: contradictory fields: {listed}; expected one value")
        return next(iter(present.values()), 0)
