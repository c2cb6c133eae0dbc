"""The compiler makes the programs it made: digests of many, listings of a few (``--update-golden`` writes them anew).

A line of ``digests.txt`` has the case, its number of instructions, a digest of the decoded instructions (with the DRAM
map and the results) and one of the encoded program: a new encoding changes the latter only. A case may also be that a
layer does not fit. Normally run are all odd
shapes, and of the bundled models what `spread` picks: one format for each layer, preset and phase, in turn, of programs
of at most `LONGEST` instructions. The slow set runs the rest.
"""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterable
from dataclasses import replace
from operator import attrgetter
from pathlib import Path

import pytest

from tilescore.compiler.listing import listing
from tilescore.rtl.spec.encoding import encode_program
from tilescore.rtl.spec.errors import DoesNotFit
from tilescore.rtl.spec.isa import HEADER, SPEC_BY_NAME
from tilescore.sim.legality.verifier import verify
from tilescore.sim.program import Program
from tilescore.tests.golden.cases import LISTED, Case, all_cases, compile_case

HERE = Path(__file__).parent
DIGESTS = HERE / "digests.txt"
LONGEST = 8000
"""Instructions of a program that runs in the normal set, at the most."""

CASES = all_cases()
FIELDS = {name: [f.name for f in HEADER + spec.fields] for name, spec in SPEC_BY_NAME.items()}
VALUES = {name: attrgetter(*fields) for name, fields in FIELDS.items()}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:20]


def decoded_text(program: Program) -> str:
    """A line per segment, result and instruction; an instruction's fields that are not zero, by name."""
    lines = [f"segment {s.name} {s.addr} {s.size}" for s in program.segments]
    lines += [f"output {r.name} {r.addr} {r.rows} {r.row_bytes} {r.row_stride} {r.dtype}" for r in program.outputs]
    lines.append(f"program {program.program_addr} dram {program.dram_bytes}")
    for instruction in program.instructions:
        name = instruction.spec.name
        values = zip(FIELDS[name], VALUES[name](instruction), strict=True)
        lines.append(f"{name} {' '.join([f'{field}={int(value)}' for field, value in values if value])}")
    return "\n".join(lines)


def golden_line(program: Program) -> str:
    """Instructions and both digests, as ``digests.txt`` has them."""
    encoded = encode_program(program.instructions)
    return (f"{len(program.instructions)} {digest(decoded_text(program).encode())} "
            f"{digest(encoded.astype('<u8').tobytes())}")


def case_line(case: Case, *, verified: bool) -> str:
    """`golden_line` of a case, or that no schedule fits."""
    try:
        program = compile_case(case)
    except DoesNotFit:
        return "0 does-not-fit does-not-fit"
    if verified:
        verify(program)
    return golden_line(program)


def read_digests() -> dict[str, str]:
    """{case: the rest of its line}."""
    lines = DIGESTS.read_text().splitlines() if DIGESTS.exists() else []
    return dict(line.split("\t") for line in lines)


def write_digests(found: dict[str, str]) -> None:
    """Replace the lines of ``found``; lines of cases that are no more go. Tests of several processes take turns."""
    with open(HERE / "cases.py") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lines = read_digests() | found
        DIGESTS.write_text("".join(f"{key}\t{lines[key]}\n" for key in CASES if key in lines))


def spread(cases: Iterable[Case], digests: dict[str, str]) -> set[str]:
    """Keys of the cases that run in the normal set."""
    chosen, turns = set(), 0
    groups: dict[tuple[str, str], list[Case]] = {}
    for case in cases:
        if case.group.startswith("odd/"):
            chosen.add(case.key)
        else:
            groups.setdefault((case.group, case.name.partition("/")[0]), []).append(case)
    for formats in groups.values():
        turns += 3  # no divisor of the number of formats: they come in turn
        pick = formats[turns % len(formats)]
        if int(digests.get(pick.key, "0").split()[0]) <= LONGEST:
            chosen.add(pick.key)
    return chosen


NORMAL = spread(CASES.values(), read_digests())


def grouped(keys: Iterable[str]) -> dict[str, list[str]]:
    """Cases of one group make one test, odd shapes of one kind too."""
    groups: dict[str, list[str]] = {}
    for key in keys:
        group = CASES[key].group
        groups.setdefault("/".join(group.split("/")[:2]) if group.startswith("odd/") else group, []).append(key)
    return groups


def check(keys: list[str], update: bool) -> None:
    """Goldens are of verified programs: they are verified when they are written."""
    found = {key: case_line(CASES[key], verified=update) for key in keys}
    if update:
        write_digests(found)
        return
    expected = read_digests()
    wrong = []
    for key, line in found.items():
        old, new = expected.get(key, "none - -").split(), line.split()
        if old != new:
            what = "decoded and encoded" if old[1] != new[1] else "encoded alone"
            wrong.append(f"{key}: {what} differ, {old[0]} -> {new[0]} instructions")
    assert not wrong, "\n".join([f"{len(wrong)} of {len(keys)} programs are not those of digests.txt:", *wrong])


@pytest.fixture
def update(request: pytest.FixtureRequest) -> bool:
    return request.config.getoption("--update-golden")


@pytest.mark.parametrize("keys", [pytest.param(keys, id=group) for group, keys in grouped(sorted(NORMAL)).items()])
def test_programs_are_those_of_before(keys: list[str], update: bool) -> None:
    check(keys, update)


@pytest.mark.slow
@pytest.mark.parametrize("keys", [pytest.param(keys, id=group)
                                  for group, keys in grouped(key for key in CASES if key not in NORMAL).items()])
def test_the_other_programs_are_those_of_before(keys: list[str], update: bool) -> None:
    check(keys, update)


@pytest.mark.parametrize("key", LISTED)
def test_listings_are_those_of_before(key: str, update: bool) -> None:
    path, text = HERE / "listings" / f"{key.replace('/', '.').replace(' ', '-')}.txt", listing(compile_case(CASES[key]))
    if update:
        path.write_text(text)
    assert text == path.read_text()


def test_every_case_has_a_golden_and_no_other_is_kept() -> None:
    assert list(read_digests()) == list(CASES)
    kept = {path.name for path in (HERE / "listings").iterdir()}
    assert kept == {f"{key.replace('/', '.').replace(' ', '-')}.txt" for key in LISTED}


def test_a_changed_field_changes_both_digests() -> None:
    program = compile_case(CASES[LISTED[0]])
    before = golden_line(program).split()
    instructions = list(program.instructions)
    matmul = next(i for i in instructions if i.spec.name == "MATMUL")
    matmul.headroom ^= 1
    after = golden_line(replace(program, instructions=instructions)).split()
    assert before[0] == after[0]
    assert before[1] != after[1]
    assert before[2] != after[2]
