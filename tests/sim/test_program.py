"""`Program`: construction, wrong construction, DRAM image, and the file format with damaged files."""

import numpy as np
import pytest

from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.encoding import decode_program
from tilescore.rtl.spec.errors import ProgramError
from tilescore.rtl.spec.isa import Halt, Load, Space, Unit
from tilescore.sim.program import Program, Region, Segment, boot_load

NANO = load_tile("nano")


def make_program(**changes) -> Program:
    values = {
        "config": NANO,
        "instructions": [Load(space=Space.A, dram_addr=2048, row_stride=16, rows=4, row_bytes=16), Halt()],
        "program_addr": 0,
        "dram_bytes": 4096,
        "segments": [Segment("x", 2048, np.arange(64, dtype=np.uint8)), Segment("zeros", 2200, None, 40)],
        "outputs": [Region("y", 2048, 2, 8, 16, "float32", (4,))],
        "labels": ["load x", "end"],
        "meta": {"layer": "test"},
    }
    return Program(**(values | changes))


def test_image_is_padded_to_pages_and_placed() -> None:
    program = make_program(program_addr=1024)
    dram = program.initial_dram()
    assert program.pages == 1 and program.image_bytes == NANO.page_bytes == 1024
    words = dram[1024:1024 + 64].reshape(2, 32)
    assert decode_program(words) == program.instructions
    assert not dram[1024 + 64:2048].any()
    assert (dram[2048:2112] == np.arange(64)).all() and not dram[2112:].any()


def test_pages_follow_each_other() -> None:
    program = make_program(instructions=[Halt()] * 33, labels=[], dram_bytes=8192)
    assert program.pages == 2 and program.page_addr(1) == 1024


def test_boot_load_covers_one_page_and_signals_the_dispatcher() -> None:
    load = boot_load(NANO, 512)
    assert load.rows * load.row_bytes == NANO.page_bytes
    assert load.signal_wr == 1 << Unit.DISPATCH and load.dram_addr == 512


def test_region_reads_strided_rows() -> None:
    dram = np.zeros(64, np.uint8)
    dram[4:12] = np.array([1.5, -2.0], "<f4").view(np.uint8)
    dram[36:44] = np.array([3.0, 4.0], "<f4").view(np.uint8)
    region = Region("y", 4, 2, 8, 32, "float32", (2, 2))
    assert region.read(dram).tolist() == [[1.5, -2.0], [3.0, 4.0]]


def test_result_hash_sees_output_bytes_only() -> None:
    program = make_program()
    dram = program.initial_dram()
    before = program.result_sha256(dram)
    dram[2048 + 8] ^= 1
    assert program.result_sha256(dram) == before
    dram[2048 + 16] ^= 1
    assert program.result_sha256(dram) != before


def test_lazy_segment_is_called_for_the_image_only() -> None:
    calls = []

    def data() -> np.ndarray:
        calls.append(1)
        return np.full(8, 7, np.uint8)

    program = make_program(segments=[Segment("lazy", 3000, data, 8)])
    assert not calls
    assert (program.initial_dram()[3000:3008] == 7).all() and len(calls) == 1


@pytest.mark.parametrize(("changes", "text"), [
    ({"instructions": []}, "at least one"),
    ({"labels": ["one"]}, "1 labels for 2"),
    ({"dram_bytes": 0}, "dram_bytes"),
    ({"dram_bytes": 1000}, "outside"),
    ({"program_addr": 8}, "multiple of 16"),
    ({"program_addr": -16}, "outside"),
    ({"segments": [Segment("low", 0, np.zeros(4, np.uint8))]}, "image: starts at 0, inside segment low"),
    ({"segments": [Segment("p", 2000, None, 20), Segment("q", 2010, None, 20)]}, "segment q: starts at 2010"),
    ({"outputs": [Region("far", 4090, 1, 8, 8, "float32", (2,))]}, "region far"),
])
def test_wrong_program(changes: dict, text: str) -> None:
    with pytest.raises(ProgramError, match=text):
        make_program(**changes)


@pytest.mark.parametrize(("make", "text"), [
    (lambda: Segment("s", 0, None), "size must be given"),
    (lambda: Segment("s", 0, np.zeros((2, 2), np.uint8)), r"expected data uint8\[4\], got uint8\[2, 2\]"),
    (lambda: Segment("s", 0, np.zeros(4, np.float32)), "float32"),
    (lambda: Segment("s", 0, lambda: np.zeros(3, np.uint8), 4).bytes_(), r"uint8\[3\]"),
    (lambda: Region("r", 0, 1, 4, 4, "float16", (2,)), "unknown dtype 'float16'"),
    (lambda: Region("r", 0, 1, 4, 4, "float32", (2,)), "are not the 8 bytes"),
    (lambda: Region("r", -1, 1, 4, 4, "float32", (1,)), "negative"),
])
def test_wrong_part(make, text: str) -> None:
    with pytest.raises(ProgramError, match=text):
        make()


def test_saved_file_gives_the_same_program(tmp_path) -> None:
    program = make_program()
    path = tmp_path / "p.score"
    program.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["p.score"]
    again = Program.load(path)
    assert again.config == program.config and again.instructions == program.instructions
    assert again.outputs == program.outputs and again.labels == program.labels and again.meta == program.meta
    assert (again.initial_dram() == program.initial_dram()).all()


def test_every_truncation_and_every_flipped_byte_is_found(tmp_path) -> None:
    path = tmp_path / "p.score"
    make_program().save(path)
    good = path.read_bytes()
    for size in (0, 5, 8, 20, 55, 56, 100, len(good) - 1):
        path.write_bytes(good[:size])
        with pytest.raises(ProgramError, match=r"p\.score: (truncated|not a tilescore program)"):
            Program.load(path)
    for position in range(0, len(good), 7):
        path.write_bytes(good[:position] + bytes([good[position] ^ 0x10]) + good[position + 1:])
        with pytest.raises(ProgramError, match=r"p\.score: "):
            Program.load(path)


@pytest.mark.parametrize(("content", "text"), [
    (b"PK\x03\x04 a zip file of some length........................................", "wrong magic"),
    (b"", "wrong magic"),
])
def test_foreign_file(tmp_path, content: bytes, text: str) -> None:
    path = tmp_path / "f.bin"
    path.write_bytes(content)
    with pytest.raises(ProgramError, match=text):
        Program.load(path)


def test_too_long_and_missing_files(tmp_path) -> None:
    path = tmp_path / "p.score"
    make_program().save(path)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ProgramError, match="too long"):
        Program.load(path)
    with pytest.raises(ProgramError, match="cannot be read"):
        Program.load(tmp_path / "absent")


def test_failed_save_leaves_nothing(tmp_path) -> None:
    def data() -> np.ndarray:
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError):
        make_program(segments=[Segment("bad", 3000, data, 8)]).save(tmp_path / "p.score")
    assert list(tmp_path.iterdir()) == []
