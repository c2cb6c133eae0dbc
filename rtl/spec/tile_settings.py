"""Changes to a tile from the command line: ``KEY=VALUE[,KEY=VALUE...]``.

Keys are those of a tile file. A list is written with ``+`` between its values (``formats=e4m3+e2m1``; nothing after the
``=`` is the empty list), so that a comma always begins the next key and nothing needs quotes in a shell. TOML values
were rejected for that reason: brackets and quotes mean something to a shell.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from .config import TileConfig
from .errors import ConfigError, did_you_mean
from .tile_keys import KEYS

OPTION = "--tile-set"

_FIELDS = {field.name: field for field in dataclasses.fields(TileConfig)}
_LISTS = ("formats", "scales")


def change_tile(config: TileConfig, settings: Sequence[str], source: str = OPTION) -> TileConfig:
    """``config`` with ``settings``, each ``KEY=VALUE[,KEY=VALUE...]``.

    The name gets ``+KEY`` for every key whose value changed, unless the name itself is set. Raises `ConfigError` naming
    ``source``, the key, its value and what is allowed, as a tile file's errors do.
    """
    values: dict[str, object] = {}
    for text in settings:
        for pair in text.split(","):
            key, equals, value = (part.strip() for part in pair.partition("="))
            if not equals or not key:
                raise ConfigError(f"{source} {text}: expected KEY=VALUE[,KEY=VALUE...] with lists as A+B, got {pair!r}")
            if key not in _FIELDS:
                raise ConfigError(f"{source} {text}: unknown key {key!r}{did_you_mean(key, _FIELDS)}; allowed: "
                                  f"{', '.join(sorted(_FIELDS))}")
            if key in values:
                raise ConfigError(f"{source} {text}: {key} is set twice")
            values[key] = _parse(key, value, f"{source} {text}")
    old = config.to_dict()
    changed = [key for key, value in values.items() if value != old[key]]
    if not changed:
        return config
    if "name" not in values:
        values["name"] = "+".join([config.name, *changed])
    return TileConfig.from_dict(old | values, source=f"{source} {','.join(settings)}")


def settings_text(changes: Mapping[str, object]) -> str:
    """The setting that makes ``changes``, values of a `TileConfig`; `change_tile` reads it."""
    return ",".join(f"{key}={_written(value)}" for key, value in changes.items())


def _written(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    return "+".join(value) if isinstance(value, (list, tuple)) else value


def _parse(key: str, text: str, source: str) -> object:
    if key in _LISTS:
        return [part.strip() for part in text.split("+")] if text else []
    try:
        return KEYS[key].from_text(text)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
