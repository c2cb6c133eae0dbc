"""Options and fixtures of the whole suite: ``--slow`` with its ``--depth``, one seed for everything that is random.

Every random choice derives from ``--seed``: Hypothesis is seeded with it, programs and tensors take it
through the ``seed`` and ``rng`` fixtures. Without the option it is fresh in every run, so that repeated runs
cover new ground; the first and last lines of the output name the option that repeats the run.
"""

from __future__ import annotations

import os
import secrets
import zlib

import numpy as np
import pytest

from tilescore.sim.hardware.toolchain import missing_for_verilator
from tilescore.sim.legality import initialized


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tilescore")
    group.addoption("--slow", action="store_true", help="also run the tests marked slow")
    group.addoption("--depth", type=int, default=1, metavar="N",
                    help="N times as many random programs, stalls and mishaps in the slow tests; from 3 on also "
                         "every case of the slow tests with many, of which each run takes a fifth")
    group.addoption("--update-golden", action="store_true", help="write the goldens of tests/golden anew")
    group.addoption("--seed", type=int, help="seed of everything random in the suite (default: a fresh one)")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Fix the seed before Hypothesis reads its own option; pytest-xdist hands both on to its workers."""
    if config.option.seed is None:
        config.option.seed = secrets.randbelow(2**31)
    if getattr(config.option, "hypothesis_seed", "absent") is None:
        config.option.hypothesis_seed = str(config.option.seed)
    try:
        from hypothesis import HealthCheck, settings
    except ImportError:
        return
    slow_machine = [HealthCheck.too_slow, HealthCheck.data_too_large]
    settings.register_profile("tilescore", deadline=None, database=None, suppress_health_check=slow_machine)
    if not getattr(config.option, "hypothesis_profile", None):
        settings.load_profile("tilescore")


def pytest_report_header(config: pytest.Config) -> list[str]:
    missing = missing_for_verilator()
    rtl = "skips Verilator, missing: " + ", ".join(missing) if missing else "includes Verilator"
    slow = "included" if config.option.slow else "skipped (--slow)"
    return [f"tilescore: --seed={config.option.seed}; rtl level {rtl}; slow tests {slow}"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    terminalreporter.write_line(f"repeat this run's random choices with --seed={config.option.seed}")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    turn = pytest.mark.skip(reason="one in five per run: all with --slow --depth 3")
    in_turn = config.option.slow and config.option.depth < 3
    for item in items:
        always = item.get_closest_marker("always")
        if always is not None and item.callspec.id in always.args:
            continue
        if always is not None or "sampled" in item.keywords:
            item.add_marker("slow")
        one_of_many = "sampled" in item.keywords or ("slow" in item.keywords and hasattr(item, "callspec"))
        if in_turn and one_of_many and _seed(item) % 5:
            item.add_marker(turn)
    if config.option.slow:
        return
    skip = pytest.mark.skip(reason="slow: runs with --slow (make slow)")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


def _seed(item: pytest.Item) -> int:
    return zlib.crc32(item.nodeid.encode(), item.config.option.seed & 0xFFFFFFFF)


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A seed for this test, from 0 to 2**32 - 1: a function of ``--seed`` and of the test's name."""
    return _seed(request.node)


@pytest.fixture
def depth(request: pytest.FixtureRequest) -> int:
    """How many times the usual number of random cases a slow test is to try (``--depth``)."""
    return request.config.option.depth


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    """A numpy generator seeded with ``seed``."""
    return np.random.default_rng(seed)


@pytest.fixture
def all_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """For programs that are about order alone: what they read counts as written."""
    monkeypatch.setattr(initialized.Initialized, "add", lambda *arguments: None)


@pytest.fixture(autouse=True, scope="session")
def _builtin_yosys() -> None:
    """Amaranth's built-in Yosys, whatever is on PATH, so that the Verilog is the same on every machine."""
    os.environ["AMARANTH_USE_YOSYS"] = "builtin"
