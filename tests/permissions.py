"""The command line as a user whom file permissions bind: root, in containers and CI, passes them by."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest


def tilescore_without_privileges(arguments: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """``tilescore ARGUMENTS`` in ``folder``, by root only without the capabilities that override permissions."""
    command = [sys.executable, "-m", "tilescore", *arguments]
    if os.geteuid() == 0:
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            pytest.skip("root may read and write everything, and setpriv (util-linux) is not installed")
        command = [setpriv, "--bounding-set=-dac_override,-dac_read_search", *command]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
