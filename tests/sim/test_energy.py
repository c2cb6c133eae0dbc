"""Energy tables, the sum of the components, and their dependence on events, range and wrong tables."""

import dataclasses
import math

import numpy as np
import pytest

from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.errors import ConfigError
from tilescore.rtl.spec.events import EVENT_NAMES
from tilescore.sim.energy import COMPONENTS, CONSTANTS, TABLES, energy_of, load_table
from tilescore.sim.timing import time_program

NANO = load_tile("nano")
NO_EVENTS = dict.fromkeys(EVENT_NAMES, 0)


@pytest.mark.parametrize("name", TABLES)
def test_every_constant_has_unit_source_and_range(name: str) -> None:
    table = load_table(name)
    assert set(table.constants) == set(CONSTANTS)
    for constant in table.constants.values():
        assert 0 <= constant.low <= constant.value <= constant.high
        assert constant.low < constant.high and len(constant.source) >= 10


def test_confirmed_constants_are_the_published_ones() -> None:
    """Horowitz, ISSCC 2014, 45 nm: the rows of PMC8934428 table 3; 10 pJ per 8-byte read of 8 KiB."""
    constants = load_table("45nm").constants
    confirmed = {n: c.value for n, c in constants.items() if c.status == "confirmed"}
    assert confirmed == {"int32_add": 0.1, "int32_mul": 3.1, "fp32_add": 0.9, "fp32_mul": 3.7,
                         "sram_byte_8kib": 10 / 8}
    assert not [c for c in load_table("7nm").constants.values() if c.status == "confirmed"]


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


@pytest.mark.parametrize("event", EVENT_NAMES)
def test_every_event_costs_energy(event: str) -> None:
    table = load_table("45nm")
    base = energy_of(NO_EVENTS, 0, NANO, table)
    assert base.total_pj == 0 and base.pj_per_mac is None and base.pj_per_op is None
    one = energy_of(NO_EVENTS | {event: 1}, 0, NANO, table).total_pj
    assert one > 0
    assert math.isclose(energy_of(NO_EVENTS | {event: 7}, 0, NANO, table).total_pj, 7 * one)


def test_known_figures() -> None:
    """4x4x8 tile: DRAM beat 16 bytes at 60 pJ; 32 MACs (one A group, four columns) at 0.13 + 37 * 0.0031 pJ."""
    table = load_table("45nm")
    beats = energy_of(NO_EVENTS | {"dram_read_beats": 2, "dram_write_beats": 1}, 0, NANO, table)
    assert math.isclose(beats.components["dram"], 3 * 16 * 60.0)
    step = energy_of(NO_EVENTS | {"a_group_reads": 1, "e4m3_row_steps": 1}, 0, NANO, table)
    assert step.macs == 32
    assert math.isclose(step.components["multipliers"], 32 * (0.13 + 37 * 0.0031))
    bank = NANO.a_buffer_bytes / (4 * NANO.a_banks)
    assert math.isclose(step.components["a_buffer_reads"], 8 * 1.25 * (bank / 8192) ** 0.48)


def test_products_of_each_format() -> None:
    """By hand, in adder bits: significands, exponents, levels of the shifter at 0.2 x its average width. Two E2M1
    products per lane."""
    sizes = {"e4m3": 16 + 5 + 5 * 22 * 0.2, "e5m2": 9 + 6 + 6 * 35 * 0.2, "e4m3xe5m2": 12 + 6 + 6 * 28.5 * 0.2,
             "e2m1": 4 + 3 + 3 * 6 * 0.2, "e4m3xe2m1": 8 + 5 + 5 * 14 * 0.2}
    bits = {"e4m3": 37, "e5m2": 65, "e4m3xe5m2": 51, "e2m1": 9, "e4m3xe2m1": 23}
    table = load_table("45nm")
    for name, size in sizes.items():
        step = energy_of(NO_EVENTS | {f"{name}_row_steps": 1}, 0, NANO, table)
        assert step.macs == 4 * 8 * (2 if name == "e2m1" else 1)
        assert math.isclose(step.components["multipliers"], step.macs * (0.13 * size / 43 + bits[name] * 0.0031)), name


def test_scaled_terms_cost_more_the_wider_the_scale() -> None:
    edge = dataclasses.replace(load_tile("edge"), scales=("e4m3", "e8m0", "fp32"))
    names = ["unscaled_terms", "e8m0_scaled_terms", "e4m3_scaled_terms", "fp32_scaled_terms"]
    costs = [energy_of(NO_EVENTS | {name: 1}, 0, edge, GOOD) for name in names]
    assert costs[0].components["accumulators"] == pytest.approx(16 * edge.acc_bits * 2 * 0.0031)
    assert costs[0].components["a_buffer_reads"] == 0 < costs[1].components["a_buffer_reads"]
    assert costs[3].components["b_buffer_reads"] == pytest.approx(4 * costs[2].components["b_buffer_reads"])
    totals = [cost.total_pj for cost in costs]
    assert totals == sorted(totals)


def test_idle_cycles_leak() -> None:
    report = energy_of(NO_EVENTS, 1000, NANO, load_table("45nm"))
    assert report.components["leakage"] == report.total_pj > 0 == report.low_pj
    assert math.isclose(report.average_watt, report.total_pj / 1000 * 1e-12 * 100e6)
    assert math.isclose(report.average_watt, report.leakage_watt)


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
    """45 nm, nano: 16 PEs, each with 8 products, tree and accumulator; 0.05 mW per pJ of them, for 10 ns a cycle."""
    busy = energy_of(NO_EVENTS | {"e4m3_row_steps": 4, "unscaled_terms": 4}, 0, NANO, GOOD).total_pj
    idle = energy_of(NO_EVENTS, 7, NANO, GOOD)
    assert idle.total_pj == pytest.approx(70 * 0.05 * busy)
    assert idle.leakage_watt == pytest.approx(0.05e-3 * busy)


def test_missing_event_is_an_error() -> None:
    with pytest.raises(ValueError, match="dram_read_beats"):
        energy_of({n: 0 for n in EVENT_NAMES if n != "dram_read_beats"}, 1, NANO, load_table("45nm"))


GOOD = load_table("45nm")


def as_toml(**changes: str | None) -> str:
    """The 45 nm table as TOML, with whole constants replaced by text or left out (None)."""
    lines = ['name = "own"', "node_nm = 45"]
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
