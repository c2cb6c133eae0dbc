"""JSON files that a person may have written: read, or refused in one line that says why."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...rtl.spec.errors import TilescoreError


def read_json(path: Path, error: type[TilescoreError], what: str = "", *,
              pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """The content of a JSON file in UTF-8, with or without a byte order mark.

    what: kind of file, which stands before its name in messages ("schedule file"). pairs: makes the value of an object
    from its (key, value) pairs, as in `json.loads`. Raises ``error`` naming the file where it cannot be read, is not
    UTF-8, not JSON, or nested too deeply.
    """
    source = f"{what} {path}" if what else str(path)
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=pairs)
    except OSError as problem:
        raise error(f"{source}: cannot be read: {problem.strerror}") from None
    except UnicodeDecodeError:
        raise error(f"{source}: not valid JSON: expected UTF-8 text") from None
    except json.JSONDecodeError as problem:
        raise error(f"{source}: not valid JSON: line {problem.lineno}: {problem.msg}") from None
    except ValueError as problem:
        raise error(f"{source}: not valid JSON: {problem}") from None
    except RecursionError:
        raise error(f"{source}: not valid JSON: nested too deeply") from None
