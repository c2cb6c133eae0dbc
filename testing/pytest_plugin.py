"""The pytest plug-in: the fixture `tilescore_gate`, its options, and a line at the end of the run.

It is loaded in every pytest run of an environment that has tilescore, so it imports nothing but pytest until a test
asks for the fixture.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..compiler.compile import CompiledLayer

_PROPERTY = "tilescore_gate"
_DONE = pytest.StashKey[list]()
_NAMES = pytest.StashKey[dict]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tilescore", "performance gates of tilescore")
    group.addoption("--tilescore-update", action="store_true", help="write the baselines of the gates that run")
    group.addoption("--tilescore-fail", metavar="LIMITS", help="allowed growth of every gate, as cycles:0%%,energy:1%% "
                    "(the default, with bytes:0%%); limits given by a test come first")
    parser.addini("tilescore_baselines", "folder of the baselines, relative to the ini-file; default: a folder "
                  "`tilescore_baselines` beside each test file", default="")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_DONE] = []
    config.stash[_NAMES] = {}


@pytest.fixture
def tilescore_gate(request: pytest.FixtureRequest) -> Callable[..., None]:
    """``tilescore_gate(name, compiled, limits=None, energy="7nm")``: fail when the layer has become slower.

    compiled: a `CompiledLayer`; its cycles, energy and DRAM bytes at the timing level are compared with the baseline
    ``name``. limits: allowed growth, as "cycles:0%,energy:2%" or {"energy": 0.02}; default: those of
    ``--tilescore-fail``, else cycles and bytes +0 %, energy +1 %. With ``--tilescore-update`` the baseline is written.
    """
    return _Gate(request).__call__


class _Gate:
    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request, self._config = request, request.config

    def __call__(self, name: str, compiled: CompiledLayer, limits: str | Mapping[str, float] | None = None,
                 energy: str = "7nm") -> None:
        __tracebackhide__ = True
        from ..compiler.report import report_compiled
        from ..rtl.spec.errors import TilescoreError
        from . import gate

        try:
            path = gate.baseline_path(self._folder(), name)
            allowed = gate.limits_of(limits if limits is not None else self._config.getoption("--tilescore-fail"))
            self._claim(name, path)
            report = report_compiled(compiled, energy=energy)
            if self._config.getoption("--tilescore-update"):
                gate.save_baseline(path, report)
                self._note("updated", f"gate {name}: baseline written to {self._shown(path)}")
                return
            if not path.exists():
                pytest.fail(f"gate {name}: no baseline {self._shown(path)}; write it with --tilescore-update",
                            pytrace=False)
            verdict = gate.judge(name, gate.load_baseline(path), report, allowed)
        except TilescoreError as error:
            pytest.fail(f"gate {name}: {error}", pytrace=False)
        for note in verdict.notes:
            self._note("note", note)
        self._note("passed" if verdict.passed else "failed", "")
        if not verdict.passed:
            pytest.fail(verdict.text, pytrace=False)

    def _folder(self) -> Path:
        folder = self._config.getini("tilescore_baselines")
        if not folder:
            return self._request.path.parent / "tilescore_baselines"
        return (self._config.inipath.parent if self._config.inipath else self._config.rootpath) / folder

    def _claim(self, name: str, path: Path) -> None:
        """Two tests with one baseline would overwrite each other's."""
        owner = self._config.stash[_NAMES].setdefault(path, self._request.node.nodeid)
        if owner != self._request.node.nodeid:
            pytest.fail(f"gate {name}: the name is used by {owner} too; each test needs one of its own", pytrace=False)

    def _shown(self, path: Path) -> Path:
        return path.relative_to(self._config.rootpath) if path.is_relative_to(self._config.rootpath) else path

    def _note(self, kind: str, text: str) -> None:
        # Properties of a test travel with its report, also from another process (xdist).
        self._request.node.user_properties.append((_PROPERTY, [kind, text]))


class _Collector:
    """Notes of all tests, in the process that prints."""

    def __init__(self, notes: list[Any]) -> None:
        self._notes = notes

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self._notes += [value for key, value in report.user_properties if key == _PROPERTY]


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.pluginmanager.register(_Collector(session.config.stash[_DONE]), "tilescore-gate-notes")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    notes = config.stash[_DONE]
    if not notes:
        return
    counts = {kind: sum(1 for found, _ in notes if found == kind) for kind in ("passed", "failed", "updated")}
    terminalreporter.section("tilescore gates", sep="-")
    for _, text in notes:
        if text:
            terminalreporter.write_line(text)
    terminalreporter.write_line(", ".join(f"{count} {kind}" for kind, count in counts.items() if count))
