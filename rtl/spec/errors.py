"""The error tree of tilescore.

::

    TilescoreError            base; catch this to catch everything tilescore reports on purpose
    ├── ConfigError           a TileConfig, preset, energy table or model config.json is wrong
    ├── WorkloadError         a layer, tensor, routing or weights file is wrong or not supported
    ├── CompileError          no schedule, placement or encoding exists for what was asked
    │   └── DoesNotFit        because the tile is too small for it
    ├── ProgramError          a program is malformed, corrupt, or rejected by the verifier
    ├── SimulationError       a simulation could not finish, or two levels disagree
    └── ToolError             an external tool (compiler, simulator, package) is missing or failed

Every one of them is the user's to act on, so ``str(error)`` is a single line that names what is wrong, where
(file, key, field, op, instruction), the value that was found and what is allowed: "tile.toml: rows: expected
an integer from 1 to 256, got 0". The command line prints that line and exits with status 2; no traceback.
A defect of tilescore itself is never reported through this tree: it surfaces as an ordinary Python exception.

The tree stands on the lowest floor, so that every floor can raise and catch it.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "CompileError",
    "ConfigError",
    "DoesNotFit",
    "ProgramError",
    "SimulationError",
    "TilescoreError",
    "ToolError",
    "WorkloadError",
]


def did_you_mean(name: str, allowed: Iterable[object]) -> str:
    """"; did you mean edge?" where one of ``allowed`` (at most three) is spelt like ``name``, else ""."""
    import difflib  # only for an error: every command imports this module

    close = difflib.get_close_matches(name.lower(), [str(a) for a in allowed], n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""


class TilescoreError(Exception):
    """Base of every error that tilescore raises on purpose. ``str(error)`` is one line."""


class ConfigError(TilescoreError):
    """A configuration is wrong: unknown preset or key, value out of range, contradictory fields."""


class WorkloadError(TilescoreError):
    """A model, layer, tensor or routing is wrong: shape, dtype, NaN, unknown model, feature not supported."""


class CompileError(TilescoreError):
    """The compiler found no legal program: the layer fits in no tiling, or a given Schedule is illegal."""


class DoesNotFit(CompileError):
    """What was asked needs more of a buffer, of its banks or of the index memory than the tile has."""


class ProgramError(TilescoreError):
    """A program is wrong: truncated or corrupt file, bad encoding, or a hazard that the verifier names."""


class SimulationError(TilescoreError):
    """A simulation stopped before its program did, or two levels gave different results."""


class ToolError(TilescoreError):
    """An external tool is missing or failed; the message says what needs it and how to get it."""
