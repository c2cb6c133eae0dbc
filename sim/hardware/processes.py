"""Run a tool quietly, and leave nothing of it behind: neither its output on the terminal nor its children."""

import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path


def run_quietly(command: list[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None,
                timeout_s: float | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``command`` to its end; its output as text, undecodable bytes replaced.

    It runs in a process group of its own: Ctrl-C reaches tilescore alone, and when anything interrupts the wait
    (Ctrl-C, SIGTERM, ``timeout_s``), the whole group is killed, compilers that make has started included.
    """
    with subprocess.Popen(command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="replace",
                          start_new_session=True) as process:
        try:
            stdout, stderr = process.communicate(timeout=timeout_s)
        except BaseException:
            _kill_group(process)
            raise
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def _kill_group(process: subprocess.Popen[str]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    process.wait()
