"""A tile as the TOML that `load_tile` reads back, each key with its meaning, range and default."""

import dataclasses
import json

from .config import TileConfig
from .tile_keys import KEYS, Key


def _toml(value: object) -> str:
    """A text, number or list of texts. JSON's escapes are TOML's, but for DEL, which TOML wants escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _defaults() -> dict[str, object]:
    return {f.name: f.default for f in dataclasses.fields(TileConfig) if f.default is not dataclasses.MISSING}


def _default_text(key: Key) -> str:
    """The default as a tile file has it, "" for a key that must be there."""
    defaults = _defaults()
    if key.name not in defaults:
        return ""
    value = defaults[key.name]
    return _toml(list(value) if isinstance(value, tuple) else value)


def tile_toml(config: TileConfig) -> str:
    """Every key of ``config`` with a comment; `load_tile` of it gives an equal configuration."""
    lines = [f"# {config.rows} x {config.cols} x {config.lanes}, {config.macs_per_cycle:,} FP8 MAC/cycle, "
             f"configuration {config.digest}"]
    for name, value in config.to_dict().items():
        key = KEYS[name]
        default = _default_text(key)
        about = [key.meaning, *([f"in {key.unit}"] if key.unit else []), *([key.range] if key.range != "any" else []),
                 *([f"default {default}"] if default else [])]
        lines += ["", f"# {'; '.join(about)}", f"{name} = {_toml(value)}"]
    return "\n".join(lines) + "\n"


def keys_table() -> str:
    """Every key as a Markdown table."""
    rows = []
    for key in KEYS.values():
        default = _default_text(key)
        shown = f"`{default}`" if default else "required"
        rows.append(f"| `{key.name}` | {key.meaning} | {key.unit} | {key.range} | {shown} |")
    return "\n".join(["| key | meaning | unit | allowed | default |", "|---|---|---|---|---|", *rows]) + "\n"
