"""The keys of a sweep: what may vary from point to point, how a person writes a value, and what is allowed.

They are the options of `tilescore run` that say what a layer is and what it runs on, and every key of a tile file.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from ...rtl.spec.config import PRESETS, load_tile
from ...rtl.spec.errors import ConfigError, TilescoreError, did_you_mean
from ...rtl.spec.tile_keys import KEYS as TILE_KEYS
from ...sim.energy import load_table
from ...sim.names import TABLES
from ..format_names import SCALE_RULE_NAMES
from ..formats import parse_format
from ..layers import ATTENDING, LAYER_KINDS, MAX_TOKENS, OUTER, ROUTED, Mask, Phase
from ..models import load_model, model_changes
from ..numerics import LARGEST_BLOCK
from ..schedule import load_schedule

AUTO, UNBLOCKED, ROUTER = "auto", "unblocked", "router"
"""Values of `schedule` and `routing` that are no file: chosen by rule; that without blocking (`schedule.unblocked`);
the router's own top k."""

Value = int | float | str | tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SweepKey:
    """A key that is not a tile's. choices, low and high: what is allowed; check: raises for a text that is not.

    layers: the kinds of layers that have it. default: where it is not given, None if it must be.
    """

    name: str
    meaning: str
    choices: tuple[str, ...] = ()
    low: int | None = None
    high: int = 0
    check: Callable[[str], object] | None = None
    layers: tuple[str, ...] = LAYER_KINDS
    default: str | int | None = None

    @property
    def allowed(self) -> str:
        if self.low is not None:
            return f"{self.low}..{self.high}"
        return ", ".join(self.choices)

    def read(self, value: object, source: str) -> Value:
        """The value that a person wrote, as text or TOML. Raises `ConfigError` naming ``source`` and this key."""
        if self.low is not None:
            if isinstance(value, str) and value.strip().isdecimal():
                value = int(value)
            if type(value) is not int or not self.low <= value <= self.high:
                raise ConfigError(f"{source}: {self.name}: expected an integer from {self.low} to {self.high}, got "
                                  f"{value!r}")
            return value
        if not isinstance(value, str) or not value or (self.choices and not self.check and value not in self.choices):
            hint = did_you_mean(value, self.choices) if isinstance(value, str) else ""
            raise ConfigError(f"{source}: {self.name}: expected {self.allowed or 'a text'}, got {value!r}{hint}")
        if self.check and value not in (AUTO, UNBLOCKED, ROUTER):
            try:
                self.check(value)
            except TilescoreError as error:
                raise ConfigError(f"{source}: {self.name}: {error}") from None
        return value


OWN_KEYS = {key.name: key for key in (
    SweepKey(name="model", meaning="bundled model or a config.json", check=load_model),
    SweepKey(name="model_set", meaning="keys of its configuration in place of the model's: KEY=VALUE, several with +",
             check=model_changes),
    SweepKey(name="layer", meaning="kind of layer", choices=LAYER_KINDS),
    SweepKey(name="layer_index", meaning="decoder layer of the model; default: the first that has the kind", low=0,
             high=MAX_TOKENS, layers=tuple(kind for kind in LAYER_KINDS if kind not in OUTER)),
    SweepKey(name="phase", meaning="phase", choices=get_args(Phase), default="prefill"),
    SweepKey(name="tokens", meaning="new tokens per sequence; default for decode: 1", low=1, high=MAX_TOKENS),
    SweepKey(name="context", meaning="cached tokens per sequence; default for prefill: 0, for decode: 1024", low=0,
             high=MAX_TOKENS, layers=ATTENDING),
    SweepKey(name="batch", meaning="sequences", low=1, high=MAX_TOKENS, default=1),
    SweepKey(name="mask", meaning="of attention", choices=get_args(Mask), layers=ATTENDING, default="causal"),
    SweepKey(name="routing", meaning=f"LOAD or LOAD:MODE as of --routing; {ROUTER}: the router's own choice",
             layers=ROUTED, default=ROUTER),
    SweepKey(name="format", meaning="formats of weights, activations and KV cache", check=parse_format,
             default="e4m3"),
    SweepKey(name="softmax_block", meaning="keys per block of attention's softmax", low=1, high=LARGEST_BLOCK,
             layers=ATTENDING),
    SweepKey(name="scale_rule", meaning="of power-of-two block scales", choices=SCALE_RULE_NAMES),
    SweepKey(name="schedule", meaning=f"a schedule file, {AUTO}, or {UNBLOCKED}: {AUTO} with one panel of rows at a "
             "time", check=lambda text: load_schedule(Path(text)),
             default=AUTO),
    SweepKey(name="seed", meaning="of synthetic tensors and routings", low=0, high=(1 << 63) - 1, layers=ROUTED,
             default=0),
    SweepKey(name="energy", meaning=f"energy table: {', '.join(TABLES)} or a TOML file", check=load_table,
             default=TABLES[-1]),
    SweepKey(name="tile", meaning=f"{', '.join(PRESETS)} or a TOML file", check=load_tile, default="edge"),
)}
"""In the order of a table's columns; the keys of a tile follow."""

TILE_NAMES = tuple(name for name in TILE_KEYS if name != "name")
NAMES = (*OWN_KEYS, *TILE_NAMES)


def check_name(name: str, source: str) -> None:
    """Raise `ConfigError` unless ``name`` is a key of a sweep."""
    if name not in NAMES:
        raise ConfigError(f"{source}: unknown key {name!r}{did_you_mean(name, NAMES)}; allowed: {', '.join(NAMES)}")


def read_value(name: str, value: object, source: str) -> Value:
    """The value of a key as a point holds it; lists of a tile are tuples. Raises `ConfigError`."""
    if name in OWN_KEYS:
        return OWN_KEYS[name].read(value, source)
    key = TILE_KEYS[name]
    try:
        if key.kind == "texts":
            parts = [p.strip() for p in value.split("+") if p.strip()] if isinstance(value, str) else value
            if not isinstance(parts, list) or any(part not in key.choices for part in parts):
                raise ConfigError(f"{name} must be {key.range}, more than one as A+B, got {value!r}")
            return tuple(parts)
        read = key.from_text(value) if isinstance(value, str) and key.kind != "text" else value
        key.check("", read)
    except ConfigError as error:
        raise ConfigError(f"{source}: {str(error).removeprefix('tile : ')}") from None
    return read  # type: ignore[return-value]  # checked by the key


def keys_page() -> str:
    """The keys that are not a tile's as a Markdown table."""
    rows = [f"| `{k.name}` | {k.allowed or '-'} | {'-' if k.default is None else k.default} | {k.meaning} |"
            for k in OWN_KEYS.values()]
    return "\n".join(["| key | allowed | default | meaning |", "|---|---|---|---|", *rows]) + "\n"
