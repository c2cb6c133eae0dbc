"""Of the instructions before one, those that may meet its bytes: by columns, as one by one."""

from __future__ import annotations

import numpy as np

from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.isa import Instruction, Unit
from tilescore.sim.instructions import Instructions
from tilescore.sim.legality.dram_accesses import DramAccesses
from tilescore.sim.legality.dram_streams import dram_streams
from tilescore.sim.lib.strided import Strided, overlaps
from tilescore.tests.instructions import load, store

NANO = load_tile("nano")


def test_those_that_meet_a_region_are_all_found(seed: int) -> None:
    rng = np.random.default_rng(seed)
    made: list[Instruction] = []
    for _ in range(200):
        rows = int(rng.integers(1, 4))
        fields = {"dram_addr": 8 * int(rng.integers(0, 200)), "rows": rows, "row_bytes": 16,
                  "row_stride": 32 if rows > 1 else 0}
        made.append((load if rng.random() < 0.5 else store)(**fields))
    accesses = DramAccesses(Instructions.of(made), NANO, [0, 512, 1024])
    for index in range(0, 200, 7):
        after, region = index // 2, Strided(8 * int(rng.integers(0, 200)), 40)
        for unit in (Unit.LOAD, Unit.STORE):
            for zone in range(3):
                known = list(accesses.before(index, unit, zone))
                later = [earlier for earlier in known if earlier > after]
                wanted = [earlier for earlier in later if any(
                    overlaps(region, stream.region) for stream in dram_streams(made[earlier], NANO))]
                found = accesses.meeting(index, unit, zone, after, region)
                assert set(wanted) <= set(found) <= set(later) and found == sorted(found, reverse=True)
                few = accesses.meeting(index, unit, zone, after, region, most=5)
                assert few == [earlier for earlier in found if earlier in known[:5]]
                assert accesses.nth_before(index, unit, zone, 5) == (known[5] if len(known) > 5 else -1)
