"""Builds the exported Verilog for a simulator, and runs a job of `bench.py` in it.

Builds are kept in the cache under a key made of the Verilog and the tools, so that a second run of the suite builds
nothing.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tilescore.rtl.spec.config import AXI_KEYS, TileConfig
from tilescore.sim.hardware.toolchain import cache_dir, find_verilator, missing_for_cosim, verilator_env
from tilescore.sim.hardware.verilator_build import lock, rtl_digest
from tilescore.sim.program import Program

SIMULATORS = ("icarus", "verilator")
TOP = "tilescore_axi"
BASE = 5 << 12
"""Of the memory window: not 0, so that a forgotten base is noticed."""

_VERILATOR_ARGS = (
    "-Wno-fatal", "-Wno-lint", "-Wno-style", "-O3", "--x-assign", "fast", "--noassert", "--output-split", "20000",
    "-CFLAGS", "-O0", "--no-public-flat-rw")
"""cocotb's runner makes every signal public, which keeps modules apart; a control file makes the ports public instead.

The C++ compiler does not optimize: that takes longer than the tests play.
"""

_PUBLIC_PORTS = f'`verilator_config\npublic_flat_rw -module "{TOP}" -var "*"\n'


def needs(simulator: str) -> pytest.MarkDecorator:
    """Skips a test, with the reason, where the simulator cannot run cocotb."""
    missing = missing_for_cosim(simulator)
    return pytest.mark.skipif(bool(missing), reason=f"cosimulation with {simulator} lacks {', '.join(missing)}")


def exported_verilog(config: TileConfig) -> Path:
    """The Verilog of ``config``, exported once per state of the sources."""
    axi = "-".join(str(getattr(config, key)) for key in AXI_KEYS)
    path = cache_dir("cosim") / f"{config.name}-{config.digest}-{axi}-{rtl_digest()}.v"

    def export() -> str:
        from tilescore.rtl.export.folder import axi_verilog

        return axi_verilog(config)

    return cached_text(path, export)


def cached_text(path: Path, make: Callable[[], str]) -> Path:
    """``path``, written with what ``make`` returns if it is not there."""
    with lock(path.with_suffix(".lock")):
        if not path.is_file():
            temporary = path.with_suffix(".new")
            temporary.write_text(make())
            temporary.replace(path)
    return path


def build(simulator: str, verilog: Path) -> Path:
    """Folder with the compiled simulation of ``verilog``."""
    versions = [importlib.metadata.version(name) for name in ("cocotb", "cocotbext-axi")]
    settings = repr((simulator, versions, _VERILATOR_ARGS, find_verilator(), sys.executable))
    key = hashlib.sha256(verilog.read_bytes() + settings.encode()).hexdigest()[:16]
    folder = cache_dir("cosim", f"{simulator}-{key}")
    with lock(folder.with_suffix(".lock")):
        if not (folder / "complete").is_file():
            shutil.rmtree(folder)
            folder.mkdir()
            _build(simulator, verilog, folder)
            (folder / "complete").write_text("")
    return folder


def _build(simulator: str, verilog: Path, folder: Path) -> None:
    from cocotb_tools.runner import get_runner

    sources, arguments = [verilog], []
    if simulator == "verilator":
        (folder / "ports.vlt").write_text(_PUBLIC_PORTS)
        sources, arguments = [folder / "ports.vlt", verilog], list(_VERILATOR_ARGS)
    with _environment(simulator, folder):
        get_runner(simulator).build(sources=sources, hdl_toplevel=TOP, build_dir=folder, build_args=arguments,
                                    timescale=("1ns", "1ps"), log_file=folder / "build.log")


@contextmanager
def _environment(simulator: str, folder: Path) -> Iterator[None]:
    """cocotb's runner looks for ``verilator`` on PATH and hands os.environ on to make."""
    before = dict(os.environ)
    install = find_verilator()
    if simulator == "verilator" and install is not None:
        os.environ.update(verilator_env(install))
        shim = folder / "bin" / "verilator"
        shim.parent.mkdir()
        shim.write_text(f'#!/bin/sh\nexec "{install.binary}" "$@"\n')
        shim.chmod(0o755)
        os.environ["PATH"] = f"{shim.parent}{os.pathsep}{os.environ['PATH']}"
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def run_job(simulator: str, verilog: Path, folder: Path, body: str, programs: Sequence[Program],
            may_fail: bool = False, **arguments: Any) -> Any:
    """What the body returns. When it fails, fails with the simulator's log, or returns None if it ``may_fail``.

    ``folder`` is for files; ``job.violations`` in it lists what the monitor saw.
    """
    from cocotb_tools.runner import get_runner

    built = build(simulator, verilog)
    files = []
    for number, program in enumerate(programs):
        files.append(str(folder / f"program{number}.tsp"))
        program.save(files[-1])
    memory = max(program.dram_bytes for program in programs)
    job, log = folder / "job.json", folder / "simulator.log"
    content = {"body": body, "programs": files, "memory_bytes": memory, "memory_base": BASE} | arguments
    job.write_text(json.dumps(content))
    variables = {"TILESCORE_COSIM_JOB": str(job), "COCOTB_LOG_LEVEL": "WARNING", "PYTHONWARNINGS": "ignore"}
    result = job.with_suffix(".result")
    try:
        get_runner(simulator).test(
            test_module="tilescore.tests.cosim.bench", hdl_toplevel=TOP, hdl_toplevel_lang="verilog", build_dir=built,
            test_dir=folder, results_xml=str(folder / "results.xml"), log_file=log,
            extra_env=variables)
    except (RuntimeError, SystemExit) as error:
        if may_fail:
            return None
        pytest.fail(f"{simulator}: {error}\n{_tail(log)}", pytrace=False)
    if not result.is_file():
        pytest.fail(f"{simulator}: the body has not ended\n{_tail(log)}", pytrace=False)
    return json.loads(result.read_text())


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-60:]) if log.is_file() else "no log"
