"""Program files that are wrong but have a right checksum: each is refused in one line, or it runs.

Seeded mutations of good files: values, types, keys and lists of the header, its JSON text, instruction words, fields,
and the bytes of segments. What `Program.load` and `verify` accept must run in the reference and in the timing model;
only indices of the run may still lead out of their extent.
"""

from __future__ import annotations

import copy
import hashlib
import json
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilescore.compiler.builder import ProgramBuilder
from tilescore.rtl.spec.config import TileConfig
from tilescore.rtl.spec.encoding import decode_program, encode
from tilescore.rtl.spec.errors import ProgramError, SimulationError, TilescoreError
from tilescore.rtl.spec.isa import HEADER, INSTRUCTION_BYTES, Gather, Load, Scatter, Space, Store
from tilescore.sim.energy import load_table
from tilescore.sim.legality.verifier import verify
from tilescore.sim.program import Program
from tilescore.sim.program_file import VERSION
from tilescore.sim.simulate import simulate
from tilescore.testing.random_program import random_program

TILE = TileConfig(
    name="small", rows=4, cols=4, lanes=8, formats=("e4m3", "e2m1"), scales=("e4m3", "e8m0"),
    a_buffer_bytes=4 * 2 * 16 * 20, a_banks=2, b_buffer_bytes=4 * 2 * 16 * 20, b_banks=2, acc_banks=4,
    acc_bank_rows=10, stat_banks=3, stat_bank_rows=4, index_entries=16, imem_page=16, queue_depth=3, bus_bytes=16,
    dram_latency=5, dma_outstanding=2)
PREFIX = struct.Struct("<8sIIQ32s")
ENERGY = load_table("7nm")
FILES = 4
"""Good files, in every test."""


def copied_indices() -> Program:
    """A list goes through A to a segment of its own and comes back as indices of a GATHER and a SCATTER."""
    builder = ProgramBuilder(TILE)
    lists = builder.dram("lists", data=np.array([3, 0, 2, 3], "<u4"))
    copy_, rows, out = builder.dram("copy", 16), builder.dram("rows", data=np.arange(64)), builder.dram("out", 64)
    one = {"rows": 1, "row_bytes": 16, "row_stride": 16}
    many = {"rows": 4, "row_bytes": 16, "row_stride": 16}
    builder.emit(Load(space=Space.A, dram_addr=lists.addr, **one))
    builder.emit(Store(space=Space.A, dram_addr=copy_.addr, **one))
    builder.emit(Load(space=Space.INDEX, dram_addr=copy_.addr, **one))
    builder.emit(Gather(space=Space.ACC, dram_addr=rows.addr, **many))
    builder.emit(Scatter(space=Space.ACC, dram_addr=out.addr, **many))
    builder.output("out", out.addr, (4, 4), "uint32")
    return builder.finish()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict, bytes]]:
    """(header, payload) of the good files."""
    path, parts = tmp_path_factory.mktemp("good") / "p.tsp", []
    programs = [random_program(TILE, np.random.default_rng([5, n]), 8) for n in range(FILES - 1)]
    for program in [*programs, copied_indices()]:
        program.meta.update(useful_macs=1000, layer="none")
        program.save(path)
        raw = path.read_bytes()
        size = PREFIX.unpack_from(raw)[2]
        parts.append((json.loads(raw[PREFIX.size:PREFIX.size + size]), raw[PREFIX.size + size:]))
    return parts


def write(path: Path, header: bytes, payload: bytes) -> None:
    """A file with sizes and checksum made right."""
    digest = hashlib.sha256(header + payload).digest()
    path.write_bytes(PREFIX.pack(b"TLSCORE\n", VERSION, len(header), len(payload), digest) + header + payload)


def outcome(path: Path) -> str:
    """How far a file comes. Anything but a `TilescoreError` in one line fails the test."""
    stage = "refused"
    try:
        program = Program.load(path)
        stage = "rejected"
        verify(program)
        stage = "stopped"
        result = simulate(program, energy_table=ENERGY)
    except TilescoreError as error:
        assert str(error) and str(error).isprintable(), error
        assert stage == "refused" or isinstance(error, ProgramError | SimulationError)
        if stage == "stopped":
            assert "outside '" in str(error) or "dram_bytes" in str(error) or "meta" in str(error), error
        return stage
    assert result.cycles > 0 and set(result.outputs or {}) == {region.name for region in program.outputs}
    return "runs"


# Mutations -----------------------------------------------------------------------------------------------

VALUES: tuple[Any, ...] = (None, True, False, -1, 0, 1, 3, 16, 255, 4096, 1 << 31, 1 << 40, (1 << 40) + 1, 1 << 63,
                           10**30, 1.0, -0.5, 1e300, "", "x", "lists", "e5m2", "fp32", "dsp", "a\nb", "\ud800",
                           "\x1b[1m", "n" * 999, [], [1], ["e2m1", "e2m1"], [[]], {}, {"a": 1})


def places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything in a JSON value."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    return [place for key in keys for place in [(value, key), *places(value[key])]]


def mutate_header(header: dict, rng: np.random.Generator) -> None:
    found = places(header)
    # Lists of texts are long; without this they would be most of what is changed.
    container, key = found[rng.integers(len(found))] if rng.random() < 0.3 else found[rng.choice(
        [n for n, (c, _) in enumerate(found) if c is not header.get("labels")])]
    action = rng.integers(7)
    if action == 0 and isinstance(container[key], int):
        container[key] += int(rng.choice([-16, -1, 1, 16, 1024]))
    elif action == 1 and isinstance(container, dict):
        container[f"{key}s"] = container.pop(key)
    elif action == 2:
        del container[key]
    elif action == 3 and isinstance(container, list):
        container.insert(key, copy.deepcopy(container[key]))
    elif action == 4:
        other, place = found[rng.integers(len(found))]
        container[key] = copy.deepcopy(other[place])
    else:
        container[key] = copy.deepcopy(VALUES[rng.integers(len(VALUES))])


def mutate_text(text: bytes, rng: np.random.Generator) -> bytes:
    """Another byte, or a number or key that JSON or this format does not have."""
    if rng.random() < 0.5:
        at = int(rng.integers(len(text)))
        return text[:at] + bytes([rng.integers(256)]) + text[at + 1:]
    new = rng.choice([b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"[" * 4000, b'{"a": 1, "a": 1}', b"1.0", b"016"])
    starts = [n for n in range(1, len(text)) if text[n - 1:n] in b" [" and text[n:n + 1].isdigit()]
    at = starts[rng.integers(len(starts))]
    end = next(n for n in range(at, len(text)) if not text[n:n + 1].isdigit())
    return text[:at] + bytes(new) + text[end:]


def mutate_payload(header: dict, payload: bytes, rng: np.random.Generator) -> bytes:
    count = header["instructions"]
    words = np.frombuffer(payload, np.uint8)[:count * INSTRUCTION_BYTES].reshape(count, -1).copy()
    rest = np.frombuffer(payload, np.uint8)[count * INSTRUCTION_BYTES:].copy()
    action, at = rng.integers(5), int(rng.integers(count))
    if action == 0:
        words[at, rng.integers(INSTRUCTION_BYTES)] ^= 1 << int(rng.integers(8))
    elif action == 1:
        other = int(rng.integers(count))
        words[[at, other]] = words[[other, at]]
    elif action == 2:
        rest[4 * int(rng.integers(rest.size // 4)):][:4] = rng.integers(0, 256, 4)
    elif action == 3:
        return payload[:-int(rng.integers(1, 64))] if rng.random() < 0.5 else payload + bytes(16)
    else:
        words[at] = np.frombuffer(another_field(words[at], rng), np.uint8)
    return words.tobytes() + rest.tobytes()


def another_field(word: np.ndarray, rng: np.random.Generator) -> bytes:
    """The instruction with one field, tokens apart, near its old value or one of its limits."""
    instruction = decode_program(word[None])[0]
    if not instruction.spec.fields:
        return word.tobytes()
    spec = instruction.spec.fields[rng.integers(len(instruction.spec.fields))]
    assert spec not in HEADER
    old, top = int(getattr(instruction, spec.name)), spec.values[-1]
    setattr(instruction, spec.name, int(rng.choice([0, 1, top, top >> 1, max(old - 1, 0), min(old + 1, top),
                                                    min(old + 16, top), min(2 * old, top)])))
    try:
        return encode(instruction).to_bytes(INSTRUCTION_BYTES, "little")
    except ProgramError:
        return word.tobytes()


# Tests ---------------------------------------------------------------------------------------------------


def outcomes(files: list[tuple[dict, bytes]], path: Path, count: int,
             change: Callable[[dict, bytes, np.random.Generator], tuple[bytes, bytes]], seed: int) -> Counter:
    found: Counter = Counter()
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        header, payload = files[number % len(files)]
        text, payload = change(copy.deepcopy(header), payload, rng)
        write(path, text, payload)
        try:
            found[outcome(path)] += 1
        except Exception as error:
            raise AssertionError(f"mutation {number} of seed {seed}") from error
    return found


def test_the_good_files_run(files, tmp_path: Path) -> None:
    for header, payload in files:
        write(tmp_path / "p.tsp", json.dumps(header).encode(), payload)
        assert outcome(tmp_path / "p.tsp") == "runs"


def test_headers(files, tmp_path: Path) -> None:
    def change(header: dict, payload: bytes, rng: np.random.Generator) -> tuple[bytes, bytes]:
        for _ in range(int(rng.integers(1, 3))):
            mutate_header(header, rng)
        return json.dumps(header).encode(), payload

    found = outcomes(files, tmp_path / "p.tsp", 2500, change, 1)
    assert found["refused"] > 1000 and found["rejected"] > 5 and found["runs"] > 50, found


def test_header_text(files, tmp_path: Path) -> None:
    def change(header: dict, payload: bytes, rng: np.random.Generator) -> tuple[bytes, bytes]:
        return mutate_text(json.dumps(header).encode(), rng), payload

    found = outcomes(files, tmp_path / "p.tsp", 600, change, 2)
    assert found["refused"] > 300 and found["runs"] > 5, found


def test_payloads(files, tmp_path: Path) -> None:
    def change(header: dict, payload: bytes, rng: np.random.Generator) -> tuple[bytes, bytes]:
        return json.dumps(header).encode(), mutate_payload(header, payload, rng)

    found = outcomes(files, tmp_path / "p.tsp", 1000, change, 3)
    assert min(found[stage] for stage in ("refused", "rejected", "stopped", "runs")) >= 3, found
