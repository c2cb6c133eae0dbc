"""Energy tables, the sum of the components, and their dependence on events, range and wrong tables."""

import dataclasses
import math

import numpy as np
import pytest

from tilescore.rtl.spec.config import TileConfig, load_tile
from tilescore.rtl.spec.errors import ConfigError
from tilescore.rtl.spec.events import EVENT_NAMES
from tilescore.sim.area import area_of
from tilescore.sim.energy import CONSTANTS, EnergyReport, energy_of, load_table
from tilescore.sim.energy_components import COMPONENTS
from tilescore.sim.names import TABLES
from tilescore.sim.structure import pe_structure
from tilescore.sim.timing import time_program

NANO = load_tile("nano")
NO_EVENTS = dict.fromkeys(EVENT_NAMES, 0)
GOOD = load_table("130nm")


@pytest.mark.parametrize("name", TABLES)
def test_every_constant_has_unit_source_and_range(name: str) -> None:
    table = load_table(name)
    assert set(table.constants) == set(CONSTANTS)
    for constant in table.constants.values():
        assert 0 <= constant.low <= constant.value <= constant.high
        assert len(constant.source) >= 10
        assert constant.low < constant.high or constant.name == "register_area"  # one flip-flop in every part


@pytest.mark.parametrize("name", TABLES)
def test_components_sum_to_the_total(name: str, tiny_program, rng: np.random.Generator) -> None:
    for config in (NANO, load_tile("edge")):
        timing = time_program(tiny_program(config, rng))
        report = energy_of(timing.events, timing.cycles, config, load_table(name), useful_macs=1000)
        assert tuple(report.components) == COMPONENTS
        assert math.isclose(math.fsum(report.components.values()), report.total_pj, rel_tol=1e-12)
        assert min(report.components.values()) >= 0
        assert 0 < report.low_pj < report.total_pj < report.high_pj
        assert report.pj_per_op == report.total_pj / 2000
        assert report.macs == timing.events["a_group_reads"] * config.cols * config.lanes
        assert report.to_dict()["table"] == name


def of(events: dict[str, int], cycles: int = 0, config: TileConfig = NANO) -> EnergyReport:
    return energy_of(NO_EVENTS | events, cycles, config, GOOD)


@pytest.mark.parametrize("event", EVENT_NAMES)
def test_every_event_costs_energy(event: str) -> None:
    base = of({})
    assert base.total_pj == 0 and base.pj_per_mac is None and base.pj_per_op is None
    one = of({event: 1}).total_pj
    assert one > 0 or event in ("vector_functions", "vector_quantizations")  # all registers move with every row
    assert of({event: 1}).high_pj > 0
    assert math.isclose(of({event: 7}).total_pj, 7 * one)


def test_known_figures() -> None:
    """4x4x8 tile: DRAM beat 16 bytes; a step of a row in four columns, 32 MACs in E4M3: 8 products of 8 + 5 + 1 bits
    and a NaN, 8 terms of 37 bits and a NaN, sums of 38, 39 and 40 bits and NaNs; operands of 128 bits, tags of 3 in 6
    stages."""
    c = GOOD.at("value")
    beats = of({"dram_read_beats": 2, "dram_write_beats": 1})
    assert math.isclose(beats.components["dram"], 3 * 16 * c["dram_byte"])
    assert math.isclose(beats.components["dma"], 3 * 16 * c["dma_byte"])
    step = of({"a_group_reads": 1, "e4m3_row_steps": 1})
    assert step.macs == 32
    assert math.isclose(step.components["multipliers"], 4 * (8 * (15 + 37) + 1) * c["e4m3_bit"])
    assert math.isclose(step.components["accumulators"], 4 * (4 * 38 + 2 * 39 + 40 + 3) * c["e4m3_bit"])
    assert math.isclose(step.components["operand_registers"], 4 * (128 + 18) * c["e4m3_bit"])
    bank = NANO.a_buffer_bytes / (4 * NANO.a_banks)
    scaled = c["sram_byte_8kib"] * (bank / 8192) ** c["sram_capacity_exponent"]
    read = max(scaled, 8 * c["shadow_bit"]) + c["slice_byte"]
    assert math.isclose(step.components["a_buffer_reads"], 8 * read)
    drained = of({"drain_rows": 1})
    assert math.isclose(drained.total_pj, 4 * (5 * 67 * c["shadow_bit"] + c["drain_value"]))


def test_a_statistic_is_one_word() -> None:
    row, word = of({"acc_row_reads": 1}), of({"statistic_reads": 1})
    assert 0 < word.components["acc_buffer_reads"] <= row.components["acc_buffer_reads"] / 4


@pytest.mark.parametrize("preset", ["nano", "edge"])
def test_steps_of_each_format_are_of_its_own_constant(preset: str) -> None:
    """Mixed pairs move the bits of the wider format; E2M1 has twice the products."""
    config = load_tile(preset)
    c = GOOD.at("value")
    bits = {"e4m3": "e4m3_bit", "e5m2": "e5m2_bit", "e4m3xe5m2": "e5m2_bit", "e2m1": "e2m1_bit",
            "e4m3xe2m1": "e4m3_bit"}
    moved = pe_structure(config)
    for name, constant in bits.items():
        step = of({f"{name}_row_steps": 1}, config=config)
        assert step.macs == config.cols * 8 * (2 if name == "e2m1" else 1)
        size = moved.operands + moved.tags + moved.products + moved.terms + moved.tree + moved.block
        assert math.isclose(sum(step.components[part] for part in ("multipliers", "accumulators", "operand_registers")),
                            config.cols * size * c[constant])


def test_scaled_terms_read_their_scales() -> None:
    edge = dataclasses.replace(load_tile("edge"), scales=("e4m3", "e8m0", "fp32"))
    names = ["unscaled_terms", "e8m0_scaled_terms", "e4m3_scaled_terms", "fp32_scaled_terms"]
    costs = [of({name: 1}, config=edge) for name in names]
    assert costs[0].components["a_buffer_reads"] == 0 < costs[1].components["a_buffer_reads"]
    assert costs[3].components["b_buffer_reads"] == pytest.approx(4 * costs[2].components["b_buffer_reads"])


def test_every_cycle_is_clocked() -> None:
    """Of an empty run nothing but the clock of all registers and leakage, both in proportion to its cycles."""
    report, twice = of({}, 1000), of({}, 2000)
    clocks = {name: value for name, value in report.components.items() if value}
    assert set(clocks) == {"array_clock", "vector_clock", "buffer_clock", "control_clock", "leakage"}
    assert twice.total_pj == pytest.approx(2 * report.total_pj) and report.average_watt == pytest.approx(
        report.total_pj / 1000 * 1e-12 * 100e6)
    assert report.components["array_clock"] == pytest.approx(
        1000 * 16 * pe_structure(NANO).clocked * GOOD.at("value")["pe_idle"])
    assert report.idle_pj == {"array": report.components["array_clock"], "vector": report.components["vector_clock"]}


def test_idle_is_the_clock_of_cycles_without_work() -> None:
    """Steps of one row of four keep a quarter of the PEs busy; rows of the vector unit all lanes."""
    report = of({"e4m3_row_steps": 400, "unscaled_terms": 400, "vector_rows": 1000}, 1000)
    assert report.idle_pj["array"] == pytest.approx(0.9 * report.components["array_clock"])
    assert report.idle_pj["vector"] == 0 < report.components["vector_clock"]
    assert of({"vector_rows": 5}, 3).idle_pj["vector"] == 0  # a phase whose rows lie in another's cycles


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("preset", ["nano", "edge"])
def test_leakage_follows_the_time_and_nothing_else_does(name: str, preset: str, tiny_program, rng) -> None:
    """The same program at another clock: leakage energy is inverse to it at both ends of the range as well, leakage
    power and every other component stay to the last bit."""
    config = load_tile(preset)
    timing = time_program(tiny_program(config, rng))
    base, half, fast = (energy_of(timing.events, timing.cycles, dataclasses.replace(config, clock_mhz=clock),
                                  load_table(name)) for clock in (config.clock_mhz, config.clock_mhz / 2, 2000.0))
    for other, ratio in ((half, 2.0), (fast, config.clock_mhz / 2000.0)):
        leakage, rest = other.components["leakage"], base.total_pj - base.components["leakage"]
        assert leakage == pytest.approx(ratio * base.components["leakage"])
        assert {**other.components, "leakage": 0} == {**base.components, "leakage": 0}
        assert other.total_pj == pytest.approx(rest + leakage)
        assert other.leakage_watt == base.leakage_watt
        assert other.average_watt == pytest.approx(rest / base.total_pj * base.average_watt / ratio + base.leakage_watt)
    assert half.high_pj - base.high_pj > half.low_pj - base.low_pj >= 0
    assert base.leakage_watt * timing.cycles / (config.clock_mhz * 1e6) * 1e12 == pytest.approx(
        base.components["leakage"])


def test_known_leakage() -> None:
    """Power in proportion to the area of the logic, for 10 ns a cycle."""
    parts = area_of(NANO, GOOD).parts
    logic_um2 = 1e6 * (sum(parts.values()) - parts["sram"])
    idle = of({}, 7)
    assert idle.leakage_watt == pytest.approx(logic_um2 * GOOD.at("value")["leakage"] * 1e-9)
    assert idle.components["leakage"] == pytest.approx(70 * idle.leakage_watt * 1e3)


def test_missing_event_is_an_error() -> None:
    with pytest.raises(ValueError, match="dram_read_beats"):
        energy_of({n: 0 for n in EVENT_NAMES if n != "dram_read_beats"}, 1, NANO, load_table("130nm"))


def as_toml(**changes: str | None) -> str:
    """The 130 nm table as TOML, with whole constants replaced by text or left out (None)."""
    lines = ['name = "own"', "node_nm = 130"]
    for name, c in GOOD.constants.items():
        text = (f"value = {c.value}\nlow = {c.low}\nhigh = {c.high}\nunit = \"{c.unit}\"\n"
                f"status = \"{c.status}\"\nsource = \"somewhere\"")
        text = changes.get(name, text)
        if text is not None:
            lines.append(f"[constants.{name}]\n{text}")
    return "\n".join(lines)


def test_own_table_is_read(tmp_path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(as_toml())
    table = load_table(path)
    assert table.name == "own" and table.at("value") == GOOD.at("value")


UNIT = 'unit = "pJ/byte"\nstatus = "derived"\nsource = "s"'


@pytest.mark.parametrize(("content", "text"), [
    ("name = ", "not valid TOML"),
    ("node_nm = 5", "missing key 'name'"),
    ("name = 'x'\nnode_nm = 5\nconstants = 3", "constants must be tables"),
    (as_toml(dram_byte=None), "missing constant 'dram_byte'"),
    (as_toml() + "\n[constants.dram]\nvalue = 1", "unknown constant 'dram'"),
    (as_toml(dram_byte=f"value = 1\nlow = 0\n{UNIT}"), "dram_byte: expected the keys"),
    (as_toml(dram_byte=f"value = -1\nlow = 0\nhigh = 2\n{UNIT}"), "value must be a number >= 0, got -1"),
    (as_toml(dram_byte=f"value = nan\nlow = 0\nhigh = 2\n{UNIT}"), "value must be a number >= 0, got nan"),
    (as_toml(dram_byte=f"value = 3\nlow = 0\nhigh = 2\n{UNIT}"), "expected low <= value <= high"),
    (as_toml(dram_byte=f"value = 1\nlow = 0\nhigh = 2\n{UNIT}".replace("pJ/byte", "pJ")), "unit must be 'pJ/byte'"),
    (as_toml(dram_byte=f"value = 1\nlow = 0\nhigh = 2\n{UNIT}".replace("derived", "guess")), "status must be"),
])
def test_wrong_table(tmp_path, content: str, text: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(content)
    with pytest.raises(ConfigError, match="bad.toml.*" + text.replace("(", r"\(")):
        load_table(path)


def test_unknown_table() -> None:
    with pytest.raises(ConfigError, match="3nm: neither a built-in table"):
        load_table("3nm")
