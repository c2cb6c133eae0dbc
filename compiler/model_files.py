"""Finding and reading a config.json: names of models, folders, the Hugging Face cache, parts of multimodal models."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..rtl.spec.errors import ConfigError, WorkloadError
from ..sim.lib.json_file import read_json

TEXT_PARTS = ("text_config", "llm_config", "language_config", "thinker_config", "text_model_config", "llm")
"""Where multimodal configurations keep their language model; Qwen-Omni nests two of them."""

_SAID_TWICE = ("hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size",
               "moe_intermediate_size", "num_experts", "num_local_experts", "num_experts_per_tok", "rope_theta")

_NOT_IN_NAMES = {"meta", "instruct", "chat", "base", "hf", "it", "thinking", "fp8", "awq", "gptq", "bf16"}
"""Words of published names that say how a model was tuned or stored, not which sizes it has."""


def config_file(name_or_path: str | Path) -> Path | None:
    """The configuration file that is meant: the path itself, or config.json in that folder, or in the snapshot of
    a model of the Hugging Face cache. None when there is no such path."""
    path = Path(name_or_path)
    if not path.is_dir():
        return path if path.is_file() else None
    found = snapshot(path) / "config.json"
    if not found.is_file():
        raise WorkloadError(f"{found}: no such file; a model directory must hold a config.json")
    return found


def snapshot(folder: Path) -> Path:
    """The snapshot in a model's folder of the Hugging Face cache: the only one, or that of main; else ``folder``."""
    found = [path for path in folder.glob("snapshots/*") if path.is_dir()]
    main = folder / "refs" / "main"
    if len(found) > 1 and main.is_file():
        wanted = main.read_text(encoding="utf-8", errors="replace").strip()
        found = [path for path in found if path.name == wanted]
    return found[0] if len(found) == 1 else folder


def model_name(path: Path) -> str:
    """What to call the model of a configuration file: by its folder, as it was named and not where links lead.

    In the Hugging Face cache, ``models--ORG--NAME/snapshots/HASH/config.json``, it is NAME. A file of another name
    than config.json is called by its own.
    """
    absolute = Path(os.path.abspath(path))
    for folder in absolute.parents:
        if folder.name.startswith("models--"):
            return folder.name.rpartition("--")[2]
    if absolute.name != "config.json":
        return absolute.stem
    return absolute.parent.name or absolute.stem


def suggestion(name: str, models: Iterable[str]) -> str:
    """What to use instead of an unknown ``name``: similar bundled models, whatever the organization and tuning."""
    names = tuple(models)
    meant = name.lower().rstrip("/").rpartition("/")[2]
    alike: dict[str, list[str]] = {}  # those that differ in the version alone
    for model in names:
        alike.setdefault(_bare(model), []).append(model)
    bare = [_bare(name)] if _bare(name) in alike else difflib.get_close_matches(_bare(name), alike, n=3, cutoff=0.75)
    close = [difflib.get_close_matches(meant, alike[match], n=1, cutoff=0.0)[0] for match in bare]
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    return f"expected a path to a config.json or one of {', '.join(names)}{hint}"


def _bare(name: str) -> str:
    """The words that say which sizes: without organization, version, date and tuning."""
    rest = re.sub(r"v\d+(\.\d+)*\b", " ", name.lower().rstrip("/").rpartition("/")[2])
    words = (word for word in re.findall(r"[a-z0-9]+", rest) if not re.fullmatch(r"\d{4}", word))
    return "".join(word for word in words if word not in _NOT_IN_NAMES)


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. ConfigError names what is wrong, a key that stands twice with two values included."""
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content: dict[str, Any] = {}
        for key, value in pairs:
            if key in content and content[key] != value:
                raise ConfigError(f"{path}: contradictory fields: {key} stands twice, {content[key]!r} and {value!r}")
            content[key] = value
        return content

    raw = read_json(path, ConfigError, pairs=unique)
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected a JSON object, got {type(raw).__name__}")
    return raw


def text_part(raw: Mapping[str, Any], source: str) -> tuple[Mapping[str, Any], str]:
    """The configuration of the language model in ``raw``, and its place (``thinker_config.text_config``; "": all).

    ConfigError when two places could be meant, or when a size stands outside and inside with two values.
    """
    place: list[str] = []
    while inner := [key for key in TEXT_PARTS if isinstance(raw.get(key), Mapping) and raw[key]]:
        if len(inner) > 1:
            raise ConfigError(f"{source}: expected one language model, got {' and '.join(inner)}")
        outside, raw = raw, raw[inner[0]]
        place += inner
        for key in _SAID_TWICE:
            values = outside.get(key), raw.get(key)
            if None not in values and values[0] != values[1]:
                raise ConfigError(f"{source}: contradictory fields: {key} = {values[0]!r}, "
                                  f"{'.'.join(place)}.{key} = {values[1]!r} (expected one value)")
    return raw, ".".join(place)
