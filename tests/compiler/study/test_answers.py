"""What pages say, against other code on planted tables, and against whole models."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from tilescore.compiler.model_report import model_report
from tilescore.compiler.models import changed_model, load_model
from tilescore.compiler.study.depth import SHAPES, shape_changes, shape_of, whole_models
from tilescore.compiler.study.factorial import cells, effects
from tilescore.compiler.study.hundredfold import FACTORS, cell_of
from tilescore.compiler.study.page import study_files
from tilescore.compiler.study.sram_machine import BANK_BYTES, held_bytes, in_sram
from tilescore.compiler.study.studies import STUDIES
from tilescore.compiler.study.study import Study
from tilescore.compiler.study.versus import versus
from tilescore.compiler.sweep.columns import COLUMNS
from tilescore.compiler.sweep.plan import SweepPlan
from tilescore.compiler.sweep.run import sweep
from tilescore.compiler.sweep.table import Row, SweepTable
from tilescore.rtl.spec.config import load_tile
from tilescore.sim.energy import load_table
from tilescore.tests.compiler.tiny import tiny_config, write_config


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tiny")
    write_config(folder, tiny_config("qwen3_moe") | {"num_hidden_layers": 4})
    return str(folder)


def table_of(study: Study, model: str, **changes: object) -> SweepTable:
    """Its points on a model, every column 1 but those of ``changes``: a value, or a function of the row."""
    rows: list[Row] = []
    for point in study.plan([model]).points():
        row: Row = {"point": None, **point, "error": None} | dict.fromkeys(COLUMNS, 1)
        rows.append(row | {name: value(row) if callable(value) else value for name, value in changes.items()})
    return SweepTable(given=study.plan([model]).given, rows=rows)


def verdict(study: Study, table: SweepTable) -> str:
    page = study_files(study, table)[f"{study.name}.md"]
    return page.partition("**Measured.** The claim ")[2].partition(".")[0]


# ---- verdicts ----

PLANTED = [
    ("formats", lambda row: 0.7 if row["format"] == "w4a8-nvfp4" else 1, "time_us", 0.76),
    ("alignment", lambda row: 5.0 if row["model_set"] != "moe_intermediate_size=32" else 1, "time_us", 1.04 * 40 / 32),
    ("activation", lambda row: 0.98 if "relu" in row["model_set"] else 1, "time_us", 1.0),
    ("rounding", lambda row: 0.9 if "round" in row["routing"] else 1, "time_us", 0.97),
    ("wide-mlp-decode", lambda row: 1.09 if row["model_set"].endswith("=160") else 1, "time_us", 1.11),
]


@pytest.mark.parametrize(("name", "value", "column", "other"), PLANTED, ids=[case[0] for case in PLANTED])
def test_one_row_turns_a_claim(name: str, value, column: str, other: float, model: str) -> None:
    study = STUDIES[name]
    table = table_of(study, model, **{column: value})
    assert verdict(study, table) == "stands"
    changed = [row for row in table.rows if row[column] != 1]
    changed[-1][column] = other
    assert verdict(study, table) == "is refuted"


def test_the_verdict_of_bounds(model: str) -> None:
    study = STUDIES["prefill-decode"]
    table = table_of(study, model, vector_bound_cycles=0, compute_bound_cycles=lambda row: row["phase"] == "prefill",
                     dram_bound_cycles=lambda row: row["phase"] == "decode")
    assert verdict(study, table) == "stands"
    table.rows[0] |= {"compute_bound_cycles": 0, "dram_bound_cycles": 1}
    assert table.rows[0]["phase"] == "prefill" and verdict(study, table) == "is refuted"


def test_versus_pairs_and_divides(model: str, rng: np.random.Generator) -> None:
    """Against loops over the rows."""
    study = STUDIES["formats"]
    table = table_of(study, model, time_us=lambda row: rng.uniform(1, 2), useful_macs=lambda row: rng.uniform(1, 2),
                     energy_low_pj=lambda row: rng.uniform(1, 2))
    found = versus(table, lambda row: row["format"], "e4m3", lambda row: row["useful_macs"])
    wanted = []
    for row in table.rows:
        for base in table.rows:
            same = all(row.get(k) == base.get(k) for k in ("model", "tile", "phase", "batch", "tokens", "context"))
            if same and base["format"] == "e4m3" != row["format"]:
                work = row["useful_macs"] / base["useful_macs"]
                wanted.append((row["time_us"] / base["time_us"] / work,
                               row["energy_low_pj"] / base["energy_low_pj"] / work))
    assert [(one.time, one.energies[0]) for one in found] == [pytest.approx(pair) for pair in wanted]
    assert len(found) == 3 * 3 * 2


# ---- factorials ----


@pytest.mark.parametrize("factors", [2, 3, 4, 5])
def test_effects_of_planted_gains(factors: int, rng: np.random.Generator) -> None:
    """Where gains multiply they are found and nothing else; one pair's interaction is found where it is planted."""
    gains = rng.uniform(0.5, 8, factors).tolist()
    values = {cell: 7 / math.prod(g for g, high in zip(gains, cell, strict=True) if high) for cell in cells(factors)}
    found = effects(values, [str(i) for i in range(factors)])
    assert found.gains == pytest.approx(gains) and found.alone == pytest.approx(gains)
    assert found.explained == pytest.approx(1) and list(found.pairs.values()) == pytest.approx([1] * len(found.pairs))
    assert found.product == pytest.approx(found.whole) == pytest.approx(math.prod(gains))
    for i, j in itertools.combinations(range(factors), 2):
        both = {cell: value / (9 if cell[i] and cell[j] else 1) for cell, value in values.items()}
        found = effects(both, [str(i) for i in range(factors)])
        assert found.strongest == (i, j) and found.pairs[i, j] == pytest.approx(3)  # half of the logarithm of 9
        assert found.gains[i] == pytest.approx(3 * gains[i]) and found.alone == pytest.approx(gains)
        assert found.whole == pytest.approx(9 * found.product) and found.explained < 1


def test_the_verdict_of_hundredfold(model: str) -> None:
    study = STUDIES["hundredfold"]
    table = table_of(study, model, time_us=lambda row: 4.0 ** -sum(cell_of(row)) if "model_set" in row else 1)
    for row in table.rows:
        if "model_set" not in row:
            row["error"] = "it has no FP4"
    assert verdict(study, table) == "stands"
    page = study_files(study, table)["hundredfold.md"]
    assert "Gated by missing hardware: format nvfp4 (it has no FP4); format mxfp8 (it has no FP4)" in page
    assert "| 4.00 | 4.00 | 4.00 | 4.00 | 1.00 | 1.00 | 1.00 | 1.00 | 1.00 | 1.00 | 256.0 | 256.0 | 100.0 % |" in page
    every = [row for row in table.rows if row["error"] is None and cell_of(row) == (True,) * len(FACTORS)]
    every[0]["time_us"] *= 1.2
    assert verdict(study, table) == "is refuted"


# ---- whole models ----


def test_a_model_is_the_sum_of_its_layers(model: str) -> None:
    """As `model_report` times it, in another shape too; deep and wide models have as many decoder weights."""
    study = STUDIES["depth"]
    keys, cases = study.points([model])
    shapes = [shape_changes(load_model(model), factor) for factor in (1.0, 0.5)]
    small = [case for case in cases if case.get("context", 1024) == 1024 and case["batch"] == 1
             and case["model_set"] in shapes]
    table = whole_models(sweep(SweepPlan(axes={**keys, "tile": ["nano"]}, cases=small), workers=1))
    assert [shape_of(row) for row in table.rows] == list(SHAPES)[:2]
    weights = []
    for row in table.rows:
        shaped = changed_model(load_model(model), row["model_set"])
        report = model_report(shaped, load_tile("nano"), prefill=1, decode_context=1024, batch=1)
        (step,) = report["decode"]
        assert row["cycles"] == step["cycles"] and row["read_bytes"] == step["dram_read_bytes"]
        for column, name in (("energy_pj", "joules_per_token"), ("energy_low_pj", "joules_per_token_low")):
            assert row[column] == pytest.approx(1e12 * step[name], rel=1e-9)
        weights.append((shaped.num_hidden_layers or 0) * shaped.hidden_size * (shaped.expert_width or 0))
    assert len(set(weights)) == 1 and shape_changes(load_model(model), 1.0).startswith("num_hidden_layers=4+")


# ---- machines of SRAM ----


def test_energy_and_area_of_a_machine_of_sram(model: str) -> None:
    """By hand: bytes at the price of a bank in place of DRAM's, and their memory as silicon."""
    constants = load_table("7nm")
    row: Row = {"model": model, "layer": "decoder", "context": 10, "batch": 3, "read_bytes": 1000, "write_bytes": 100,
                **dict.fromkeys(("energy_low_pj", "energy_pj", "energy_high_pj"), 1e6),
                **dict.fromkeys(("area_low_mm2", "area_mm2", "area_high_mm2"), 1.0)}
    hidden, heads, kv, width, experts, tokens = 48, 4, 2, 32, 6, 33
    matrices = hidden * 16 * (2 * heads + 2 * kv) + 3 * experts * hidden * width
    assert 0 <= held_bytes(row) - matrices - tokens * 2 * kv * 16 < 4 * (4 * hidden + 2 * 16) + 12 * hidden * experts
    changed = in_sram(row, constants)
    read = 0.66 * (BANK_BYTES / 8192) ** 0.18
    assert changed["energy_pj"] == pytest.approx(1e6 + 1000 * (read - 48) + 100 * (1.16 * read - 48))
    assert changed["area_mm2"] == pytest.approx(1 + 0.4e-6 * held_bytes(row))
    assert changed["area_high_mm2"] == pytest.approx(1 + 1.27e-6 * held_bytes(row))
    assert row["energy_pj"] == 1e6


