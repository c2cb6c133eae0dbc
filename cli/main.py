"""One command from arguments to exit status; whatever goes wrong outside tilescore is one line on standard error."""

import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from types import FrameType

from ..rtl.spec.errors import SimulationError, TilescoreError
from .parser import parser


class _Stopped(BaseException):
    """A signal that asks to end; not an `Exception`, so that nothing on the way takes it for an error."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status (`tilescore.__main__` says what it means)."""
    try:
        with _signals():
            _prepare_streams()
            words = sys.argv[1:] if argv is None else list(argv)
            arguments = parser().parse_args(words)
            arguments.words = words
            status = arguments.run(arguments)
            sys.stdout.flush()
            return status
    except TilescoreError as error:
        _say(str(error))
        return 1 if isinstance(error, SimulationError) else 2
    except BrokenPipeError:
        _drop_output()
        return 1
    except OSError as error:
        _drop_output()
        _say(f"{error.filename or 'standard output'}: {error.strerror or error}")
        return 2
    except MemoryError:
        _say("out of memory: expected a workload that fits, such as fewer --tokens, --context or --batch")
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except _Stopped as stopped:
        return 128 + stopped.number


def _say(message: str) -> None:
    """One line on standard error, if there is one."""
    with contextlib.suppress(OSError, ValueError):
        print(f"tilescore: {' '.join(message.splitlines())}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end a command as Ctrl-C does: whatever is open is cleaned up on the way out."""
    def stop(number: int, frame: FrameType | None) -> None:
        raise _Stopped(number)

    before = {}
    with contextlib.suppress(ValueError):  # not in the main thread: whoever started it handles signals
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup
                before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _prepare_streams() -> None:
    """A terminal that has no sign for a letter gets its code; a closed standard output is refused before any work."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:
        raise OSError(None, "is closed", "standard output")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """What standard output still holds cannot be written; at exit Python would try again and complain."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
