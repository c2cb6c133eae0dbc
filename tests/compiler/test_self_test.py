"""The self-test: that it is whole and the same everywhere, in memory as boards get it, and the exported C program."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tilescore.cli.main import main
from tilescore.compiler.self_test import self_test, self_test_program
from tilescore.rtl.export import folder as export
from tilescore.rtl.spec.config import TileConfig, load_tile
from tilescore.rtl.spec.formats import built_with
from tilescore.rtl.spec.isa import Func, Reduce, Scale, Space
from tilescore.rtl.spec.registers import ID, mask, offset
from tilescore.rtl.spec.tensor_formats import built_quantizers
from tilescore.sim.hardware.toolchain import missing_for_verilator
from tilescore.sim.host.bus import run_now
from tilescore.sim.host.verilator_bus import VerilatorBus
from tilescore.sim.reference.run import run_reference
from tilescore.tests.odd_tiles import ODD_TILES

NANO = load_tile("nano")
TILES = [NANO, load_tile("edge"), *ODD_TILES.values()]
BASE = 0x5000


@pytest.mark.parametrize("tile", TILES, ids=lambda tile: tile.name)
def test_it_uses_all_of_the_tile(tile: TileConfig) -> None:
    """Every opcode, pair, scale, function, quantizer and reduction that is built, every row and column of the array."""
    program = self_test_program(tile)
    by_name: dict[str, list] = {}
    for instruction in program.instructions:
        by_name.setdefault(instruction.spec.name, []).append(instruction)
    assert {"LOAD", "GATHER", "STORE", "SCATTER", "MATMUL", "VECTOR", "HALT"} <= set(by_name)
    matmuls, vectors = by_name["MATMUL"], by_name["VECTOR"]
    assert {i.pair for i in matmuls} == {spec.pair for spec in built_with(tile.formats)}
    assert {Scale(i.scale).name.lower() for i in matmuls} == {"none", *tile.scales}
    assert {i.m_rows for i in matmuls} == {tile.rows} and any(i.raw for i in matmuls) and any(i.merge for i in matmuls)
    assert {i.func for i in vectors} >= set(Func) - {Func.ANCHOR} and {i.reduce for i in vectors} == set(Reduce)
    assert {i.quant for i in vectors if i.dest == 2} == set(built_quantizers(tile))
    assert {i.space for i in by_name["LOAD"]} >= {Space.B, Space.ACC, Space.INDEX}


@pytest.mark.parametrize("tile", TILES, ids=lambda tile: tile.name)
def test_results_say_something(tile: TileConfig) -> None:
    """They are finite but for the mask, differ between rows, and do not depend on what the tile held before."""
    program, again = self_test_program(tile), self_test_program(tile)
    assert (program.initial_dram() == again.initial_dram()).all()
    dram = run_reference(program).dram
    assert (dram == run_reference(program, poison=True).dram).all()
    for region in program.outputs:
        values = region.read(dram)
        if region.dtype == "float32":
            used = values[np.any(values != 0, axis=1)]
            assert not np.isnan(used).any() and (region.name == "masked" or np.isfinite(used).all()), region.name
            assert len(used) == 1 or len({row.tobytes() for row in used}) > 1, region.name


# Memory files and the command line ------------------------------------------------------------------------


def test_image_and_check(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`selftest`, `image` in both forms, and `check` of right memory, a wrong byte, a short file and a wrong text."""
    monkeypatch.chdir(tmp_path)
    assert main(["selftest", "--tile", "nano", "-o", "t.tsp"]) == 0
    program = self_test_program(NANO)
    for name in ("before.bin", "before.hex"):
        assert main(["image", "t.tsp", "-o", name]) == 0
    assert Path("before.bin").read_bytes() == program.initial_dram().tobytes()
    words = Path("before.hex").read_text().split()
    data = b"".join(bytes.fromhex(word)[::-1] for word in words)
    assert data[:program.dram_bytes] == program.initial_dram().tobytes()
    assert {len(word) for word in words} == {2 * NANO.bus_bytes}

    after = run_reference(program).dram
    after.tofile("after.bin")
    Path("after.hex").write_text("// from a simulator\n@0 " + " /* beat */\n".join(
        after[low:low + 16][::-1].tobytes().hex().upper() for low in range(0, after.size, 16)))
    for name in ("after.bin", "after.hex"):
        capsys.readouterr()
        assert main(["check", "t.tsp", name]) == 0
        assert capsys.readouterr().out.endswith("bytes, all as expected\n")
    region = program.outputs[3]
    after[region.addr + region.row_stride + 5] ^= 0x40
    after.tofile("wrong.bin")
    assert main(["check", "t.tsp", "wrong.bin"]) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and (f"wrong.bin: result {region.name}: row 1, byte 5, address "
                                         f"0x{region.addr + region.row_stride + 5:X}: expected 0x") in message
    after[:500].tofile("short.bin")
    Path("text.hex").write_text("00 0g")
    Path("far.hex").write_text("@ffffffff 00")
    for name, text in (("short.bin", "ends at byte"), ("text.hex", "word 1: expected @ADDRESS or at most 32 hexa"),
                       ("far.hex", "far beyond the 1 words"), ("none.bin", "cannot be read: No such file"),
                       ("t.tsp", "expected a name that ends in .bin or .hex, got '.tsp'")):
        assert main(["check", "t.tsp", name]) == 2
        assert text in capsys.readouterr().err
    assert main(["image", "t.tsp", "-o", "memory.txt"]) == 2


# The C program --------------------------------------------------------------------------------------------

TRANSPORT = r"""
#include <stdio.h>
#include "tilescore_selftest.h"

uint32_t tilescore_read(uint32_t offset) {
    unsigned value;
    printf("read %u\n", (unsigned)offset);
    fflush(stdout);
    return scanf("%u", &value) == 1 ? value : 0;
}
void tilescore_write(uint32_t offset, uint32_t value) { printf("write %u %u\n", (unsigned)offset, (unsigned)value); }
void tilescore_read_memory(uint64_t address, uint8_t *data, uint32_t size) {
    unsigned byte;
    printf("peek %llu %u\n", (unsigned long long)address, (unsigned)size);
    fflush(stdout);
    for (uint32_t k = 0; k < size; k++) data[k] = scanf("%u", &byte) == 1 ? (uint8_t)byte : 0;
}
void tilescore_write_memory(uint64_t address, const uint8_t *data, uint32_t size) {
    printf("poke %llu", (unsigned long long)address);
    for (uint32_t k = 0; k < size; k++) printf(" %u", data[k]);
    printf("\n");
}
int main(void) {
    const char *failed = tilescore_selftest(0x5000);
    printf("end %lu %s\n", (unsigned long)tilescore_failed_address, failed ? failed : "passed");
    return failed != 0;
}
"""


class FakeTile:
    """The registers that a run needs, and memory; a program is run by the reference. ``spoil`` is applied after it."""

    def __init__(self, spoil: Callable[[bytearray], None] = lambda memory: None, **values: int) -> None:
        self.program, self.spoil, self.memory = self_test_program(NANO), spoil, bytearray(4096)
        digest = int(NANO.digest, 16)
        known = {"ID": ID, "DIGEST_LO": digest & 0xFFFFFFFF, "DIGEST_HI": digest >> 32,
                 "RESULT_FLAGS": self_test(NANO).flags, "STATUS": 0}
        self.values = {offset(name): value for name, value in (known | values).items()}

    def read(self, at: int) -> int:
        return self.values[at]

    def write(self, at: int, value: int) -> None:
        self.values[at] = value
        if at == offset("CONTROL") and value & mask("CONTROL", "START"):
            assert self.values[offset("DRAM_BASE_LO")] == BASE
            assert self.values[offset("PROGRAM_ADDR_LO")] == self.program.program_addr
            assert self.memory[:self.program.dram_bytes] == self.program.initial_dram().tobytes()
            self.memory[:self.program.dram_bytes] = run_reference(self.program).dram.tobytes()
            self.spoil(self.memory)
            self.values[offset("STATUS")] |= mask("STATUS", "DONE")

    def peek(self, address: int, size: int) -> bytes:
        return bytes(self.memory[address - BASE:][:size])

    def poke(self, address: int, data: bytes) -> None:
        self.memory[address - BASE:address - BASE + len(data)] = data


class VerilatedTile:
    """The same on the hardware."""

    def __init__(self, bus: VerilatorBus) -> None:
        self.bus = bus

    def read(self, at: int) -> int:
        run_now(self.bus.sleep(50))
        return run_now(self.bus.read(at))

    def write(self, at: int, value: int) -> None:
        run_now(self.bus.write(at, value))

    def peek(self, address: int, size: int) -> bytes:
        return run_now(self.bus.read_memory(address, size))

    def poke(self, address: int, data: bytes) -> None:
        run_now(self.bus.write_memory(address, data))


@pytest.fixture(scope="module")
def c_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported C program with a transport over its standard streams."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("c")
    made = export.Export(NANO, "tilescore", self_test(NANO))
    for name in ("tilescore_selftest.c", "tilescore_selftest.h", "tilescore_registers.h"):
        (folder / name).write_text(export.FILES[name](made))
    (folder / "transport.c").write_text(TRANSPORT)
    strict = [compiler, "-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "tilescore_selftest.c"]
    subprocess.run([*strict, "-DTILESCORE_HOSTED", "transport.c", "-o", "hosted"], cwd=folder, check=True)
    subprocess.run([*strict, "-DTILESCORE_BASE=0x30000000", "-DTILESCORE_MEMORY=0x40000000", "-o", "bare"], cwd=folder,
                   check=True)
    return folder / "hosted"


def play(c_program: Path, tile: FakeTile | VerilatedTile) -> str:
    """The last line of the C program, without its first word."""
    with subprocess.Popen([str(c_program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        for line in process.stdout:
            name, *words = line.split()
            if name == "end":
                return line.removeprefix("end ").strip()
            numbers = list(map(int, words))
            answer = ""
            if name == "read":
                answer = str(tile.read(numbers[0]))
            elif name == "write":
                tile.write(*numbers)
            elif name == "peek":
                answer = " ".join(map(str, tile.peek(*numbers)))
            else:
                tile.poke(numbers[0], bytes(numbers[1:]))
            if answer:
                process.stdin.write(answer + "\n")
                process.stdin.flush()
    return "no end"


def test_c_program(c_program: Path) -> None:
    """It passes on a good tile, and says what is wrong with a bad one."""
    assert play(c_program, FakeTile()) == "0 passed"
    assert play(c_program, FakeTile(ID=1)) == "0 ID"
    assert play(c_program, FakeTile(DIGEST_HI=1)) == "0 DIGEST: another tile"
    assert play(c_program, FakeTile(RESULT_FLAGS=9)) == "0 RESULT_FLAGS"
    assert play(c_program, FakeTile(STATUS=mask("STATUS", "READ_ERROR"))) == "0 STATUS: an error"
    region = self_test_program(NANO).outputs[5]

    def spoil(memory: bytearray) -> None:
        memory[region.addr + 3] ^= 1

    assert play(c_program, FakeTile(spoil)) == f"{region.addr + 3} {region.name}"


@pytest.mark.slow
@pytest.mark.skipif(bool(missing_for_verilator()), reason="no Verilator")
def test_c_program_on_the_hardware(c_program: Path) -> None:
    with VerilatorBus(NANO, memory_bytes=4096, memory_base=BASE) as bus:
        assert play(c_program, VerilatedTile(bus)) == "0 passed"
