"""One command from arguments to exit status; every error that is the user's is one line on standard error."""

import os
import sys
from collections.abc import Sequence

from ..rtl.errors import SimulationError, TilescoreError
from .parser import parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status (`tilescore.__main__` says what it means)."""
    arguments = parser().parse_args(argv)
    try:
        status = arguments.run(arguments)
        sys.stdout.flush()
        return status
    except TilescoreError as error:
        print(f"tilescore: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return 1 if isinstance(error, SimulationError) else 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader is gone: drop what is left
        return 1
    except MemoryError:
        print("tilescore: out of memory: expected a workload that fits, such as fewer --tokens, --context or --batch",
              file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
