"""Files are whole or not there, whatever happens; tools leave no children behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tilescore.sim.hardware.processes import run_quietly
from tilescore.sim.lib.atomic_file import atomic_file, write_text


def test_a_new_file(tmp_path: Path) -> None:
    write_text(tmp_path / ("n" * 255), "naïve\n")
    (path,) = tmp_path.iterdir()
    assert path.read_bytes() == "naïve\n".encode()
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_failure_keeps_the_old_one(error: BaseException, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")
    with pytest.raises(type(error)), atomic_file(tmp_path / "f") as file:
        file.write(b"half")
        raise error
    assert (tmp_path / "f").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "none" / "f"):
        pass
    assert not any(tmp_path.iterdir())


def test_output_that_is_no_text() -> None:
    done = run_quietly([sys.executable, "-c", "import os; os.write(1, b'a\\xff'); os.write(2, b'e')"])
    assert (done.returncode, done.stdout, done.stderr) == (0, "a\ufffd", "e")


def test_grandchildren_end_too(tmp_path: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        run_quietly(["sh", "-c", f"sleep 1000 & echo $! > '{tmp_path}/pid'; wait"], timeout_s=1)
    pid = int((tmp_path / "pid").read_text())
    for _ in range(200):  # it is ended by a signal, and then reaped by init
        status = Path(f"/proc/{pid}/stat")
        try:
            if status.read_text().split()[2] == "Z":
                break
        except OSError:
            break
        time.sleep(0.05)
    else:
        pytest.fail("the grandchild is still running")
