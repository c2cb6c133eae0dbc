"""A machine whose weights and cache lie in SRAM beside the tile.

It is the same tile with the widest port there is and a latency of a few cycles. What the port moves is priced as a read
or write of a bank of `BANK_BYTES` of the table's SRAM in place of its DRAM, and the SRAM that holds the layer's weights
and cache is part of its silicon; DRAM is not part of any.
"""

from collections.abc import Sequence

from ...sim.energy import EnergyTable, load_table
from ...sim.energy_components import sram_byte
from ..layers import ATTENDING
from ..model_layers import layer_of
from ..model_report import ModelPart, layer_weight_bytes, model_kv_bytes
from ..sweep.table import Row, SweepTable
from .study import ENDS, SMALL_MODELS, TILES, Answer, Case, Series, Study, balanced, decode, good, model_of, span
from .versus import Versus, certainty, extremes, versus

PORT: Case = {"bus_bytes": 64, "dram_latency": 4}
BANK_BYTES = 1 << 20
_TABLE_ENDS = ("low", "value", "high")
_AREAS = ("area_low_mm2", "area_mm2", "area_high_mm2")


def _points(models: Sequence[str]) -> tuple[dict, list[Case]]:
    points = (decode(1, 1024), decode(16, 1024), decode(16, 8192))
    return {"layer": ["decoder"], "tile": TILES}, [
        {"model": name, **balanced(name), **point, **machine}
        for name in models for point in points for machine in ({}, PORT)]


def _name(row: Row) -> str:
    return "SRAM" if "dram_latency" in row else "DRAM"


def held_bytes(row: Row) -> int:
    """Of the layer's weights and of the cache of all sequences."""
    layer = layer_of(model_of(row), row["layer"]).layer
    part = ModelPart(name="", layer=layer, count=1)
    cache = model_kv_bytes([part], context=row["context"], batch=row["batch"]) if layer.kind in ATTENDING else 0
    return layer_weight_bytes(layer) + cache


def in_sram(row: Row, table: EnergyTable) -> Row:
    """The row with the energy and the area of a machine of SRAM."""
    changed = dict(row)
    for end, energy, area in zip(_TABLE_ENDS, ENDS, _AREAS, strict=True):
        c = table.at(end)
        read = sram_byte(BANK_BYTES, c)
        changed[energy] += (row["read_bytes"] * (read - c["dram_byte"])
                            + row["write_bytes"] * (read * c["sram_write_ratio"] - c["dram_byte"]))
        changed[area] += held_bytes(row) * c["sram_area"] * 1e-6
    return changed


def _per_area(one: Versus) -> list[float]:
    """Tokens per second and mm2 against the machine with DRAM, at the ends of the areas' range."""
    return [1 / one.time / one.ratio(area) for area in _AREAS]


def _answer(table: SweepTable) -> Answer:
    constants = load_table(good(table)[0]["energy"])
    rows = [in_sram(row, constants) if _name(row) == "SRAM" and row["error"] is None else row for row in table.rows]
    found = versus(SweepTable(given=table.given, rows=rows), _name, "DRAM")
    energies = [one.energies for one in found]
    per_area = [_per_area(one) for one in found]
    silicon = [one.row["area_mm2"] / one.base["area_mm2"] for one in found]
    byte = [sram_byte(BANK_BYTES, constants.at(end)) for end in _TABLE_ENDS]
    return Answer(
        stands=all(max(three) < 1 for three in energies) and all(min(three) > 1 for three in per_area),
        sentences=[f"From SRAM a layer takes {extremes(found)} of the time and {span([e[1] for e in energies])} of the "
                   f"energy.",
                   f"Its silicon is {span(silicon, 0)} times the tile's, so that it makes "
                   f"{span([three[1] for three in per_area], 4)} of the tokens per second and mm2. The port of edge "
                   "doubles to the widest that a tile can have, 64 B; server has it already."],
        energy=certainty(found, "DRAM") + f" A byte from a bank of {BANK_BYTES >> 20} MiB takes {span(byte, 2)} pJ in "
               f"place of {constants.at('low')['dram_byte']:g} to {constants.at('high')['dram_byte']:g}; over the "
               "range of areas tokens per second and mm2 are "
               f"{span([value for three in per_area for value in three], 4)} of those with DRAM.",
        head=["model", "point", "tile", "time / DRAM", "energy / DRAM", "energy, over the range", "held, MB",
              "silicon, mm2", "tokens/s/mm2 / DRAM", "over the range of areas"],
        rows=[[one.model, one.point, one.tile, f"{one.time:.3f}", f"{one.energies[1]:.3f}", span(one.energies),
               f"{held_bytes(one.row) / 1e6:.1f}", f"{one.row['area_mm2']:.1f}", f"{three[1]:.4f}", span(three, 4)]
              for one, three in zip(found, per_area, strict=True)],
        drawn=Series(unit="SRAM / DRAM", names=("time", "energy", "tokens/s/mm2"), rows=[
            (one.where, [one.time, one.energies[1], three[1]]) for one, three in zip(found, per_area, strict=True)]))


STUDY = Study(
    name="sram-machine", title="Weights in SRAM",
    claimed="A machine that holds weights and cache in SRAM decodes with less energy and makes more tokens per second "
            "and mm2 of silicon than one with DRAM.",
    refuted="One decode in the table that takes as much energy from SRAM at either end of the range, or makes fewer "
            "tokens per second and mm2.",
    models=SMALL_MODELS, points=_points, answer=_answer)
