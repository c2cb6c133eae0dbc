"""Wrong input through the command line: one line on standard error that says what, where and what is allowed; exit
status 2; nothing on standard output; and no file made or changed.

Each case prepares a folder with a tiny model in ``m/`` and what else it needs, then runs one command in it. The
expected texts are the name of the thing, its place and the allowed values; the exact wording is free.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import struct
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from tilescore.cli.main import main
from tilescore.compiler.compile import compile_layer
from tilescore.compiler.layer_readers import attention_layer, moe_layer
from tilescore.compiler.layers import Workload
from tilescore.compiler.lowering.plan import choose_schedule
from tilescore.compiler.models import load_model
from tilescore.compiler.report import describe
from tilescore.compiler.schedule import save_schedule, to_dict
from tilescore.rtl.spec.config import load_tile
from tilescore.rtl.spec.isa import Unit
from tilescore.sim.program import Program, Segment
from tilescore.tests.compiler.tiny import tiny_config, tiny_weights, write_config, write_model, write_safetensors
from tilescore.tests.permissions import tilescore_without_privileges

NANO = load_tile("nano")
SELF, MLP = "model.layers.0.self_attn.", "model.layers.0.mlp."
MOE = "run --model m --layer moe --tokens 5 --tile nano"
ATTENTION = "run --model m --layer attention --tokens 5 --tile nano"


class Case(NamedTuple):
    """``prepare(folder)`` makes files; ``command`` runs in the folder; ``texts`` are in the error."""

    name: str
    command: str
    texts: tuple[str, ...]
    prepare: Callable[[Path], object] = lambda folder: None


def check(case: Case, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    case.prepare(folder)
    before = snapshot(folder)
    monkeypatch.chdir(folder)
    try:
        status: Any = main(shlex.split(case.command))
    except SystemExit as stop:
        status = stop.code
    printed = capsys.readouterr()
    assert status == 2, printed
    assert printed.out == ""
    assert printed.err.endswith("\n") and len(printed.err.splitlines()) == 1, printed.err
    assert printed.err.startswith("tilescore")
    for text in case.texts:
        assert text in printed.err
    assert snapshot(folder) == before


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(tmp_path / "m", "qwen3_moe", seed=1)
    return tmp_path


def table(cases: list[Case]) -> pytest.MarkDecorator:
    assert len({case.name for case in cases}) == len(cases)
    return pytest.mark.parametrize("case", cases, ids=[case.name.replace(" ", "-") for case in cases])


# ---- the command line itself ----

COMMAND_LINE = [
    Case("no command", "", ("COMMAND",)),
    Case("unknown command", "sing", ("COMMAND", "sing", "run", "compile", "simulate")),
    Case("unknown option", "run --speed 9", ("unrecognized arguments", "--speed 9")),
    Case("unknown layer", "run --model m --layer ffn --tokens 5", ("--layer", "ffn", "attention", "moe", "decoder")),
    Case("dense layer of a model with experts", "run --model m --layer mlp --tokens 5", ("m/config.json: mlp", "moe")),
    Case("unknown phase", f"{MOE} --phase train", ("--phase", "train", "prefill", "decode")),
    Case("unknown mask", f"{MOE} --mask full", ("--mask", "full", "causal", "none")),
    Case("unknown level", f"{MOE} --level reference,spice", ("--level", "spice", "reference, timing, rtl")),
    Case("empty level", f"{MOE} --level ''", ("--level", "''", "reference, timing, rtl")),
    Case("tokens not a number", f"{MOE} --tokens many", ("--tokens", "int", "many")),
    Case("compile without output", "compile --model m --layer moe --tokens 5", ("required", "-o/--output")),
    Case("compile without model", "compile --layer moe -o x", ("--model", "--layer", "attention, moe")),
    Case("simulate without program", "simulate", ("required", "program")),
    Case("run without layer", "run --model m --tokens 5", ("--layer is needed", "attention, moe")),
    Case("run without model", "run --layer moe", ("--layer moe", "--model is needed")),
    Case("zero tokens without model", "run --tokens 0", ("--tokens 0", "--model is needed")),
    Case("routing without model", "run --routing balanced", ("--routing balanced", "--model is needed")),
    Case("prefill without tokens", "run --model m --layer moe --tile nano", ("--tokens is needed", "prefill")),
    Case("unknown model", "run --model qwen3-30b --layer moe --tokens 5",
         ("unknown model 'qwen3-30b'", "did you mean qwen3-30b-a3b", "config.json", "olmoe-1b-7b")),
    Case("unknown tile", f"{MOE} --tile mega", ("tile 'mega'", "nano, edge, server", "file")),
    Case("unknown tile for Verilog", "verilog --tile mega", ("tile 'mega'", "nano, edge, server")),
    Case("unknown energy table", f"{MOE} --energy 3nm", ("3nm", "130nm, 7nm")),
    Case("unknown routing", f"{MOE} --routing random", ("routing 'random'", "balanced", "zipf-S", "JSON file")),
    Case("zipf without a number", f"{MOE} --routing zipf-x", ("'zipf-x'", "from 0 to 10", "got 'x'")),
    Case("zipf out of range", f"{MOE} --routing zipf-11", ("'zipf-11'", "from 0 to 10")),
    Case("zipf not finite", f"{MOE} --routing zipf-nan", ("'zipf-nan'", "from 0 to 10")),
    Case("unknown format", f"{MOE} --format fp7", ("format 'fp7'", "e4m3", "nvfp4", "weights:activations:kv")),
    Case("unknown format of the KV cache", f"{ATTENTION} --format e4m3:e4m3:int4", ("kv", "'int4'", "allowed: e4m3")),
    Case("softmax block of an MoE layer", f"{MOE} --softmax-block 64", ("--softmax-block 64", "moe", "attention")),
    Case("softmax block of nothing", f"{ATTENTION} --softmax-block 0", ("softmax_block", "from 1 to 16384", "got 0")),
    Case("softmax block between columns", f"{ATTENTION} --context 60 --softmax-block 40",
         ("(--softmax-block)", "multiple of 16", "tile nano", "got 40")),
    Case("softmax block without model", "formats --softmax-block 64", ("--softmax-block 64", "--model is needed")),
    Case("scale rule without power-of-two scales", f"{ATTENTION} --scale-rule even", ("--scale-rule even", "e4m3")),
    Case("scale rule of NVFP4", f"{MOE} --format nvfp4 --scale-rule rceil", ("--scale-rule rceil", "nvfp4")),
    Case("unknown scale rule", f"{MOE} --scale-rule ceil", ("--scale-rule", "ceil", "floor", "even")),
    Case("scale rule without tensor", "formats --scale-rule even", ("--scale-rule even", "--tensor is needed")),
    Case("sum of no products", "formats --k 0", ("--k", "from 1 to", "got 0")),
    Case("sum of no accumulator", "formats --acc-bits 32", ("--acc-bits", "32", "64, 80, 96")),
    Case("no tensor file", "formats --tensor none.npy", ("tensor file none.npy", "no such file")),
    Case("tensor file of something else", "formats --tensor m/config.json",
         ("m/config.json", "not a safetensors file but a JSON file")),
    Case("tensor not in the file", "formats --tensor m/model.safetensors --tensor-name w",
         ("m/model.safetensors", "'w'", "allowed:", "model.layers.0.mlp")),
    Case("one tensor of many, not named", "formats --tensor m/model.safetensors",
         ("m/model.safetensors", "tensors, name one of them", "model.layers.0.mlp")),
    Case("tensor name without a file", "formats --tensor-name w", ("--tensor-name w", "--tensor is needed")),
    Case("formats of a layer without model", "formats --layer moe", ("--layer moe", "--model is needed")),
    Case("formats with an option of run", "formats --format mxfp4", ("unrecognized arguments", "--format")),
    Case("layer index beyond the model", f"{MOE} --layer-index 3", ("layer index", "from 0 to 0", "got 3")),
    Case("negative layer index", f"{MOE} --layer-index -1", ("layer index", "from 0 to 0", "got -1")),
    Case("ignored key without model", "run --ignore-key a_key", ("--ignore-key a_key", "--model is needed")),
    Case("ignored keys of formats without model", "formats --ignore-key a --ignore-key b",
         ("--ignore-key a, b", "--model is needed")),
    Case("ignored key that is understood", f"{MOE} --ignore-key hidden_size",
         ("--ignore-key hidden_size", "m/config.json", "none, every key is understood")),
    Case("ignored key that is not there", f"compile -o p {MOE[4:]} --ignore-key a_kye",
         ("--ignore-key a_kye", "m/config.json", "allowed: none")),
    Case("formats of a model without layer", "formats --model m", ("--layer is needed", "attention, moe")),
    Case("routing for attention", f"{ATTENTION} --routing balanced", ("--routing balanced", "MoE", "attention")),
    Case("mask of an MoE layer", f"{MOE} --mask none", ("--mask none", "attention", "this one is moe")),
    Case("context of an MoE layer", f"{MOE} --phase decode --context 8", ("--context 8", "attention", "moe")),
    Case("seed without data", f"{ATTENTION} --level timing --seed 3", ("--seed 3", "do not depend on data")),
    Case("seed zero without data", f"{ATTENTION} --level timing --seed 0", ("--seed 0", "do not depend on data")),
    Case("weights without data", f"{ATTENTION} --level timing --weights m", ("--weights m", "do not depend on data")),
    Case("weights that nothing reads", f"{MOE} --level timing --routing balanced --weights m",
         ("--weights m", "--routing balanced", "do not depend on data")),
    Case("seed that nothing reads", f"{MOE} --level timing --routing routes.json --seed 1",
         ("--seed 1", "--routing routes.json", "do not depend on data")),
    Case("change of a tile without model", "formats --tile-set rows=8", ("--tile-set", "rows=8", "--model is needed")),
    Case("seed without data to compile", f"{ATTENTION} --seed 3".replace("run", "compile", 1) + " --no-data -o p.tsp",
         ("--seed 3", "do not depend on data")),
    Case("format page of two kinds", "isa --markdown --json", ("--markdown", "--json", "not allowed")),
    Case("formats on a tile without model", "formats --tile nano", ("--tile nano", "--model is needed")),
    Case("formats with energy without model", "formats --energy 130nm", ("--energy 130nm", "--model is needed")),
    Case("formats of a phase without model", "formats --phase decode", ("--phase decode", "--model is needed")),
    Case("formats of a batch without model", "formats --batch 1", ("--batch 1", "--model is needed")),
    Case("formats with a mask of an MoE layer", "formats --model m --layer moe --tokens 5 --tile nano --mask causal",
         ("--mask causal", "attention", "moe")),
    Case("formats with a routing of attention",
         "formats --model m --layer attention --tokens 5 --tile nano --routing balanced",
         ("--routing balanced", "MoE")),
    Case("compare with a mask of an MoE layer", "compare base tile=nano --model m --layer moe --tokens 5 --mask none",
         ("--mask none", "attention", "moe")),
    Case("compare with a seed without data", "compare base seed=3 --model m --layer attention --tokens 5 --tile nano",
         ("--seed 3", "do not depend on data")),
    Case("name of a tensor in a .npy file", "formats --tensor x.npy --tensor-name x", ("--tensor-name x", ".npy")),
]


@table(COMMAND_LINE)
def test_command_line(case: Case, folder: Path, monkeypatch, capsys) -> None:
    check(case, folder, monkeypatch, capsys)


# ---- the request ----

REQUEST = [
    Case("no tokens", f"{MOE} --tokens 0", ("tokens", "from 1 to 16777216", "got 0")),
    Case("negative tokens", f"{ATTENTION} --tokens -5", ("tokens", "from 1 to", "got -5")),
    Case("too many tokens", f"{ATTENTION} --tokens 999999999", ("tokens", "16777216", "999999999")),
    Case("no sequences", f"{MOE} --batch 0", ("batch", "from 1 to", "got 0")),
    Case("too many rows", f"{MOE} --batch 4194305", ("batch * tokens", "16777216", str(5 * 4194305))),
    Case("negative context", f"{ATTENTION} --context -1", ("context", "from 0 to", "got -1")),
    Case("negative context of a decode", f"{ATTENTION} --phase decode --context -7",
         ("context", "from 0 to", "got -7")),
    Case("too much context", f"{ATTENTION} --context 16777217", ("context", "16777216", "16777217")),
    Case("negative seed", f"{MOE} --seed -1", ("seed", "from 0 to", "got -1")),
    Case("huge seed", f"{MOE} --seed {1 << 70}", ("seed", "2**63 - 1", str(1 << 70))),
    Case("moe of a dense model", "run --model llama-3-8b --layer moe --tokens 5",
         ("llama-3-8b", "no experts", "num_experts")),
]


@table(REQUEST)
def test_request(case: Case, folder: Path, monkeypatch, capsys) -> None:
    check(case, folder, monkeypatch, capsys)


# ---- features that are not built ----

NOT_BUILT = [Case(f"{model} {layer}", f"run --model {model} --layer {layer} --tokens 5 --tile nano",
                  (f"bundled model {model}: {layer}", "not built yet", *texts))
             for model, layer, texts in [
    ("deepseek-v4-pro", "moe", ("hash routing", "scoring_func = 'sqrtsoftplus'")),
    ("deepseek-v3.2", "attention", ("index_topk", "sparse attention indexer", "allowed: absent")),
    ("deepseek-v4-flash", "moe", ("hash routing", "allowed: absent")),
    ("gemma-4-26b-a4b", "moe", ("model_type = 'gemma4_text'", "allowed: mixtral")),
    ("qwen3-next-80b-a3b", "attention", ("linear attention", "allowed: absent")),
]]


@table(NOT_BUILT)
def test_not_built(case: Case, folder: Path, monkeypatch, capsys) -> None:
    check(case, folder, monkeypatch, capsys)


# ---- config.json ----


def config(name: str, family: str, layer: str, texts: tuple[str, ...], **changes: Any) -> Case:
    """A tiny config.json of ``family`` with keys changed, or removed (...)."""
    return Case(name, f"run --model c --layer {layer} --tokens 5 --tile nano",
                ("c/config.json", *texts), lambda folder: write_config(folder / "c", tiny_config(family, **changes)))


def model_file(name: str, content: bytes | None, *texts: str) -> Case:
    """Any file as --model, or a folder without a config.json."""
    def prepare(folder: Path) -> None:
        (folder / "c").mkdir()
        if content is not None:
            (folder / "c/config.json").write_bytes(content)
    return Case(name, "run --model c --layer attention --tokens 5", ("c/config.json", *texts), prepare)


CONFIG = [
    config("missing size", "llama", "attention", ("hidden_size: missing", "integer from 1"), hidden_size=...),
    config("missing family", "llama", "attention", ("model_type: missing", "model family"), model_type=...),
    config("size as text", "llama", "attention", ("hidden_size", "integer", "got '48'"), hidden_size="48"),
    config("size as a fraction", "llama", "attention", ("num_attention_heads", "integer", "got 4.5"),
           num_attention_heads=4.5),
    config("negative size", "qwen3_moe", "moe", ("moe_intermediate_size", "from 1", "got -32"),
           moe_intermediate_size=-32),
    config("heads do not divide", "llama", "attention", ("num_key_value_heads", "divisor", "= 4", "got 3"),
           num_key_value_heads=3),
    config("odd head", "llama", "attention", ("head_dim", "even", "got 15"), head_dim=15),
    config("experts contradict", "qwen3_moe", "moe", ("contradictory", "num_experts = 6", "num_local_experts = 8"),
           num_local_experts=8),
    config("rope contradicts", "llama", "attention", ("contradictory", "rope_theta = 500000", "10000"),
           rope_parameters={"rope_theta": 10000.0}),
    config("more chosen than experts", "qwen3_moe", "moe", ("num_experts_per_tok", "at most the 6", "got 7"),
           num_experts_per_tok=7),
    config("switch as number", "qwen3_moe", "moe", ("norm_topk_prob", "true or false", "got 1"), norm_topk_prob=1),
    config("unknown family", "llama", "attention", ("model_type = 'mamba2'", "not built", "llama"),
           model_type="mamba2"),
    config("sliding window", "llama", "attention", ("sliding_window = 64", "the family does not have", "null"),
           sliding_window=64),
    config("latent attention", "llama", "attention", ("kv_lora_rank = 8", "MLA", "absent"), kv_lora_rank=8),
    config("biases", "mixtral", "attention", ("attention_bias = True", "biases", "false"), attention_bias=True),
    config("scaled rotary embedding", "llama", "attention", ("rope_scaling.rope_type", "mrope", "default, linear"),
           rope_scaling={"rope_type": "mrope", "factor": 4.0}),
    config("keys that are not understood", "llama", "attention",
           ("attention_sink_size = 4", "use_gate = false", "--ignore-key"), attention_sink_size=4, use_gate=False),
    config("sigmoid routing", "qwen3_moe", "moe", ("scoring_func = 'sigmoid'", "softmax"), scoring_func="sigmoid"),
    config("shared expert", "qwen3_moe", "moe", ("n_shared_experts = 1", "not built", "0"), n_shared_experts=1),
    config("another activation", "qwen3_moe", "moe", ("hidden_act = 'quick_gelu'", "gelu_pytorch_tanh"),
           hidden_act="quick_gelu"),
    model_file("empty config", b"", "not valid JSON", "line 1"),
    model_file("cut config", json.dumps(tiny_config("llama")).encode()[:100], "not valid JSON"),
    model_file("config is a list", b"[1, 2]", "expected a JSON object", "list"),
    model_file("config is binary", b"\xff\xfe\x00\x01", "UTF-8"),
    model_file("no config", None, "no such file", "must hold a config.json"),
]


@table(CONFIG)
def test_config_json(case: Case, folder: Path, monkeypatch, capsys) -> None:
    check(case, folder, monkeypatch, capsys)


# ---- tiles ----


def tile(name: str, texts: tuple[str, ...], /, layer: str = "moe", **changes: Any) -> Case:
    """The preset nano in a file t.toml, with keys changed, added, or removed (...)."""
    values = {key: value for key, value in (NANO.to_dict() | changes).items() if value is not ...}
    return Case(name, f"run --model m --layer {layer} --tokens 5 --tile t.toml", texts,
                lambda folder: (folder / "t.toml").write_text(toml(values)))


def toml(values: dict[str, Any]) -> str:
    """Scalars and lists of strings as TOML: JSON but for NaN."""
    return "".join(f"{key} = {'nan' if value != value else json.dumps(value)}\n" for key, value in values.items())


TILE = [
    tile("missing key", ("tile file t.toml", "missing key 'rows'"), rows=...),
    tile("unknown key", ("tile file t.toml", "unknown key 'colums'", "allowed:", "cols"), colums=4),
    tile("wrong keys all at once", ("unknown key 'colums'", "did you mean cols", "unknown key 'speed'",
                                    "missing keys 'rows', 'cols'"), rows=..., cols=..., colums=4, speed=9),
    tile("size without a meaning", ("t.toml", "a_buffer_bytes", "64 KiB", "got '8 KB'"), a_buffer_bytes="8 KB"),
    tile("size that is no whole number", ("t.toml", "index_entries", "4k", "got '0.3k'"), index_entries="0.3k"),
    tile("clock with a wrong unit", ("t.toml", "clock_mhz", "500 MHz", "got '2 GB'"), clock_mhz="2 GB"),
    tile("size out of range", ("t.toml", "b_buffer_bytes", "1..67108864", "got 134217728"), b_buffer_bytes="128 MiB"),
    tile("too many rows", ("t.toml", "rows", "4..256", "got 512"), rows=512),
    tile("rows not a power of two", ("t.toml", "rows", "power of two", "got 6"), rows=6),
    tile("lanes as text", ("t.toml", "lanes", "integer", "got '8'"), lanes="8"),
    tile("lanes as switch", ("t.toml", "lanes", "integer", "got True"), lanes=True),
    tile("accumulator width", ("t.toml", "acc_bits", "64, 80, 96", "got 48"), acc_bits=48),
    tile("unknown format", ("t.toml", "formats", "'posit8'", "allowed: e4m3"), formats=["posit8"]),
    tile("no format", ("t.toml", "formats", "at least one", "e4m3"), formats=[]),
    tile("formats as text", ("t.toml", "formats", "list", "'e4m3'"), formats="e4m3"),
    tile("unknown scale format", ("t.toml", "scales", "'e3m4'", "allowed:"), scales=["e3m4"]),
    tile("unknown multiplier", ("t.toml", "multiplier", "fabric", "'abacus'"), multiplier="abacus"),
    tile("uneven buffer", ("t.toml", "a_buffer_bytes", "multiple of", "got 8000"), a_buffer_bytes=8000),
    tile("bus too wide", ("t.toml", "bus_bytes", "between lanes (8)", "got 64"), bus_bytes=64),
    tile("no clock", ("t.toml", "clock_mhz", "got 0"), clock_mhz=0),
    tile("clock not finite", ("t.toml", "clock_mhz", "got nan"), clock_mhz=float("nan")),
    tile("name as number", ("t.toml", "name", "printable string", "got 4"), name=4),
    tile("attention fits no tiling", ("core", "no tiling", "head_dim = 16", "tile nano", "buffer A", "buffer B"),
         layer="attention", a_buffer_bytes=512, b_buffer_bytes=256),
    tile("router fits no tiling", ("router", "no tiling", "k = 48", "tile nano", "buffer A", "a_buffer_bytes = ",
                                   "would fit"),
         a_buffer_bytes=128, a_banks=2),
    tile("accumulators fit no tiling", ("projection q", "no tiling", "k = 48", "tile nano", "2 banks of 4 rows"),
         layer="attention", acc_banks=2, acc_bank_rows=4, stat_bank_rows=1),
    tile("no statistics bank for the router", ("router", "no tiling", "stat_banks = 1", "acc_banks = 4 would fit"),
         stat_banks=1, acc_banks=2),
    Case("tile is not TOML", f"{MOE} --tile t.toml", ("tile file t.toml", "not valid TOML", "line 2"),
         lambda folder: (folder / "t.toml").write_text('name = "t"\nrows = = 4\n')),
    Case("tile is not text", f"{MOE} --tile t.toml", ("tile file t.toml", "cannot be read as text"),
         lambda folder: (folder / "t.toml").write_bytes(b"\xff\xfe\x00")),
    Case("tile is a folder", f"{MOE} --tile m", ("tile 'm'", "nano, edge, server", "file")),
    Case("format that the tile does not build", f"{MOE} --format nvfp4",
         ("tile nano does not build", "it has", "--tile-set formats=e4m3+e2m1,scales=e4m3")),
    Case("unknown key to set", f"{MOE} --tile-set colums=4", ("--tile-set", "unknown key 'colums'", "allowed:")),
    Case("no value to set", f"{MOE} --tile-set rows", ("--tile-set rows", "KEY=VALUE")),
    Case("value to set", f"{MOE} --tile-set rows=6", ("--tile-set", "rows", "power of two", "got 6")),
    Case("list value to set", f"{MOE} --tile-set formats=e4m3+posit8", ("--tile-set", "formats", "'posit8'", "e5m2")),
    Case("value to set on export", "export folder --tile nano --tile-set rows=x", ("--tile-set", "rows", "'x'")),
    Case("value to set for verilog", "verilog --tile nano --tile-set bus_bytes=64", ("--tile-set", "bus_bytes", "64")),
]


@table(TILE)
def test_tile(case: Case, folder: Path, monkeypatch, capsys) -> None:
    check(case, folder, monkeypatch, capsys)


# ---- schedules ----


def schedule(name: str, layer: str, texts: tuple[str, ...], change: Callable[[dict], object]) -> Case:
    """The automatic schedule of the layer in s.toml, after ``change(values)``."""
    def prepare(folder: Path) -> None:
        values = to_dict(automatic(folder, layer))
        change(values)
        (folder / "s.toml").write_text(as_toml(values))
    command = ATTENTION if layer == "attention" else MOE
    return Case(name, f"{command} --schedule s.toml", texts, prepare)


def automatic(folder: Path, layer: str) -> Any:
    model = load_model(folder / "m")
    if layer == "attention":
        return choose_schedule(Workload(layer=attention_layer(model), tokens=5), NANO)
    workload = Workload(layer=moe_layer(model), tokens=5)
    routing = compile_layer(workload, NANO).routing
    assert routing is not None
    return choose_schedule(workload, NANO, routing=routing)


def as_toml(values: dict[str, Any]) -> str:
    """Tables of plain values, also of wrong ones."""
    lines = [f"order = {json.dumps(values.pop('order'))}"] if "order" in values else []
    for name, part in values.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in part.items())]
    return "\n".join(lines)


SCHEDULE = [
    Case("no schedule file", f"{MOE} --schedule none.toml", ("schedule file none.toml", "No such file")),
    Case("schedule not TOML", f"{MOE} --schedule s.toml", ("schedule file s.toml", "not valid TOML"),
         lambda folder: (folder / "s.toml").write_text("[q")),
    Case("schedule not text", f"{MOE} --schedule s.toml", ("schedule file s.toml", "not valid TOML"),
         lambda folder: (folder / "s.toml").write_bytes(b"\xff\xfe")),
    Case("schedule of an earlier version", f"{MOE} --schedule s.json",
         ("schedule file s.json", "earlier version", "expected TOML", "--schedule-out"),
         lambda folder: (folder / "s.json").write_text(json.dumps({"kind": "moe"}))),
    Case("schedule of another layer", f"{MOE} --schedule s.toml",
         ("schedule: kernels: q is none of this layer's", "allowed: router, experts.gate_up, experts.down, combine"),
         lambda folder: save_schedule(automatic(folder, "attention"), folder / "s.toml")),
    schedule("schedule without a kernel's name", "moe", ("s.toml: router", "kernel = one of gemm, flash, gather_add"),
             lambda v: v["router"].pop("kernel")),
    schedule("schedule without an order", "moe", ("order: expected each of router, experts, combine once, got none",),
             lambda v: v.pop("order")),
    schedule("schedule in an impossible order", "moe", ("order: router must come before experts",),
             lambda v: v.update(order=["experts", "router", "combine"])),
    schedule("schedule with an order of numbers", "moe", ("s.toml: order must be a list of names",),
             lambda v: v.update(order=[1, 2])),
    schedule("schedule with an unknown key", "moe", ("s.toml: experts.down", "'tiles'", "allowed:", "m_tile"),
             lambda v: v["experts.down"].update(tiles=3)),
    schedule("schedule without a key", "attention", ("s.toml: core", "missing key 'q_rows'"),
             lambda v: v["core"].pop("q_rows")),
    schedule("schedule with a wrong part", "attention", ("core: kernel: expected flash, got gemm",),
             lambda v: v.update(core=v["q"])),
    schedule("schedule with a zero", "attention", ("s.toml: k", "m_tile", "at least 1", "got 0"),
             lambda v: v["k"].update(m_tile=0)),
    schedule("schedule with a fraction", "moe", ("s.toml: combine", "m_tile", "integer", "got 1.5"),
             lambda v: v["combine"].update(m_tile=1.5)),
    schedule("schedule beyond buffer B", "attention", ("projection q:", "n_tiles, k_tile", "buffer B: 384 groups",
                                                       "q.n_tiles of at most 32, not 64"),
             lambda v: v["q"].update(n_tiles=64, group_tiles=64)),
    schedule("schedule beyond the accumulators", "attention", ("core", "q_tiles", "buffer A: 800 groups", "224 free",
                                                               "core.q_tiles of at most"),
             lambda v: v["core"].update(q_tiles=200)),
    schedule("schedule beyond the combine", "moe", ("m_tile * n_tiles", "accumulator rows", "banks of 16",
                                                    "combine.n_tiles of at most"),
             lambda v: v["combine"].update(n_tiles=250)),
    schedule("schedule between bus beats", "attention", ("q:", "k_tile = 3", "bus_bytes = 16"),
             lambda v: v["q"].update(k_tile=3)),
    schedule("schedule between column tiles", "attention", ("core", "kv_tile", "multiple of 16", "got 3"),
             lambda v: v["core"].update(kv_tile=3)),
    schedule("schedule of parts that do not match", "moe", ("down: m_tile", "gate_up, 4000"),
             lambda v: v["experts.gate_up"].update(m_tile=4000)),
]


@table(SCHEDULE)
def test_schedule(case: Case, folder: Path, monkeypatch, capsys) -> None:
    check(case, folder, monkeypatch, capsys)


# ---- energy tables ----

TABLE_130 = resources.files("tilescore.sim").joinpath("energy_tables/130nm.toml").read_text()


def energy(name: str, content: str, *texts: str) -> Case:
    return Case(name, f"{MOE} --energy e.toml", ("energy table e.toml", *texts),
                lambda folder: (folder / "e.toml").write_text(content))


ENERGY = [
    energy("energy not TOML", "name = ", "not valid TOML"),
    energy("energy without constants", 'name = "x"\nnode_nm = 5\n', "missing key 'constants'"),
    energy("energy without a constant", 'name = "x"\nnode_nm = 5\n[constants]\n', "missing constant 'pe_idle'"),
    energy("energy out of its range", TABLE_130.replace("value = 60.0", "value = 600.0"), "dram_byte",
           "low <= value <= high", "600.0"),
    energy("energy in another unit", TABLE_130.replace('unit = "pJ/byte"', 'unit = "nJ/byte"'), "acc_byte",
           "'pJ/byte'", "'nJ/byte'"),
]


@table(ENERGY)
def test_energy_table(case: Case, folder: Path, monkeypatch, capsys) -> None:
    check(case, folder, monkeypatch, capsys)


# ---- weights ----


def weights(name: str, layer: str, texts: tuple[str, ...], change: Callable[[dict[str, np.ndarray]], object],
            *options: str, **dtypes: str) -> Case:
    """The model's weights after ``change(tensors)`` in w.safetensors."""
    def prepare(folder: Path) -> None:
        tensors = tiny_weights(tiny_config("qwen3_moe"), 1)
        change(tensors)
        write_safetensors(folder / "w.safetensors", tensors, dtypes=dtypes)
    command = ATTENTION if layer == "attention" else MOE
    return Case(name, f"{command} --weights w.safetensors {' '.join(options)}", ("w.safetensors", *texts), prepare)


def weight_file(name: str, change: Callable[[bytes], bytes], *texts: str) -> Case:
    """The bytes of the model's file, changed."""
    def prepare(folder: Path) -> None:
        (folder / "w.safetensors").write_bytes(change((folder / "m/model.safetensors").read_bytes()))
    return Case(name, f"{MOE} --weights w.safetensors", ("w.safetensors", *texts), prepare)


def put(name: str, value: float) -> Callable[[dict[str, np.ndarray]], None]:
    """Set the second element of the tensor's last row."""
    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors[name][-1, 1] = value
    return change


def index_of_missing_shard(folder: Path) -> None:
    (folder / "w").mkdir()
    (folder / "w/model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {f"{SELF}q_proj.weight": "model-00001-of-00002.safetensors"}}))


def quantized(folder: Path) -> None:
    """A model whose configuration says FP8, and a checkpoint whose first projection is."""
    write_config(folder / "q", tiny_config("llama", quantization_config={"quant_method": "fp8", "fmt": "e4m3"}))
    tensors = tiny_weights(tiny_config("llama"), 1)
    name = f"{SELF}q_proj.weight"
    tensors[name] = tensors[name].astype(np.float16).view(np.uint8)[:, ::2]
    write_safetensors(folder / "w.safetensors", tensors, dtypes={name: "F8_E4M3"})


WEIGHTS = [
    Case("no weights", f"{MOE} --weights none", ("none", "no such file", "safetensors")),
    Case("folder without weights", f"{MOE} --weights w", ("w:", "model.safetensors.index.json", "*.safetensors"),
         lambda folder: (folder / "w").mkdir()),
    Case("missing shard", f"{ATTENTION} --weights w",
         ("w/model-00001-of-00002.safetensors", "cannot be read", "q_proj.weight is in it"),
         index_of_missing_shard),
    Case("weights are something else", f"{MOE} --weights m/config.json",
         ("m/config.json", "not a safetensors file but a JSON file")),
    Case("weights of another format", f"{MOE} --weights a.npz", ("a.npz", "not a safetensors file but a NumPy archive"),
         lambda folder: np.savez(folder / "a.npz", w=np.zeros(3))),
    Case("a folder of another format", f"{MOE} --weights w", ("w:", "found only model.gguf"),
         lambda folder: ((folder / "w").mkdir(), (folder / "w/model.gguf").write_bytes(b"GGUF"))),
    Case("quantized weights", "run --model q --layer attention --tokens 5 --tile nano --weights w.safetensors",
         ("w.safetensors", "got F8_E4M3", "quantization_config: the checkpoint is quantized, fp8"), quantized),
    weights("missing tensor", "attention", (f"{SELF}k_proj.weight", "missing", "(32, 48)"),
            lambda t: t.pop(f"{SELF}k_proj.weight")),
    weights("missing expert", "moe", (f"{MLP}experts.5.up_proj.weight", "missing", "(32, 48)"),
            lambda t: t.pop(f"{MLP}experts.5.up_proj.weight")),
    weights("too many experts", "moe", (f"{MLP}experts.6.gate_proj.weight", "expected 6 experts", "more"),
            lambda t: t.update({f"{MLP}experts.6.gate_proj.weight": np.zeros((32, 48), np.float32)})),
    weights("wrong shape", "attention", (f"{SELF}q_proj.weight", "shape", "expected (64, 48)", "got (48, 64)"),
            lambda t: t.update({f"{SELF}q_proj.weight": np.zeros((48, 64), np.float32)})),
    weights("wrong rank", "moe", (f"{MLP}gate.weight", "shape", "expected (6, 48)", "got (288,)"),
            lambda t: t.update({f"{MLP}gate.weight": np.zeros(288, np.float32)})),
    weights("integers", "moe", (f"{MLP}gate.weight", "dtype", "F32, F16, BF16", "got I32"),
            lambda t: t.update({f"{MLP}gate.weight": np.zeros((6, 48), np.int32)})),
    weights("doubles", "attention", (f"{SELF}o_proj.weight", "dtype", "F32, F16, BF16", "got F64"),
            lambda t: t.update({f"{SELF}o_proj.weight": np.zeros((48, 64))})),
    weights("NaN in attention", "attention", (f"{SELF}v_proj.weight", "element (31, 1)", "finite", "got nan"),
            put(f"{SELF}v_proj.weight", np.nan)),
    weights("NaN in an expert", "moe", ("down_proj.weight", "element (47, 1)", "finite", "got nan"),
            lambda t: [put(f"{MLP}experts.{e}.down_proj.weight", np.nan)(t) for e in range(6)]),
    weights("infinity in the router", "moe", (f"{MLP}gate.weight", "element (5, 1)", "finite", "got inf"),
            put(f"{MLP}gate.weight", np.inf)),
    weights("bias", "attention", (f"{SELF}q_proj.bias", "not built"),
            lambda t: t.update({f"{SELF}q_proj.bias": np.zeros(64, np.float32)})),
    weights("activations of another length", "moe", ("x", "shape", "expected (5, 48)", "got (4, 48)"),
            lambda t: t.update(x=np.zeros((4, 48), np.float32))),
    weight_file("empty weights", lambda raw: b"", "not a safetensors file"),
    weight_file("cut weights", lambda raw: raw[:-1], "truncated", "bytes of data"),
    weight_file("cut header", lambda raw: raw[:100], "truncated", "the file has 100"),
    weight_file("header not JSON", lambda raw: raw[:8] + b"!" + raw[9:], "header is not valid JSON"),
    weight_file("huge header", lambda raw: b"\xff" * 8 + raw[8:], "not a safetensors file"),
]


@table(WEIGHTS)
def test_weights(case: Case, folder: Path, monkeypatch, capsys) -> None:
    check(case, folder, monkeypatch, capsys)


# ---- routing files ----


def routing(name: str, content: Any, *texts: str) -> Case:
    """A routing file for five tokens, two of six experts each."""
    text = content if isinstance(content, str) else json.dumps(content)
    return Case(name, f"{MOE} --routing r.json", ("r.json", *texts),
                lambda folder: (folder / "r.json").write_text(text))


FOUR = [[0, 1]] * 4
ROUTING = [
    routing("routing not JSON", "[[0, 1],", "not valid JSON"),
    routing("routing for other tokens", FOUR, "list of 5 tokens", "4 entries"),
    routing("routing under another key", {"choice": [*FOUR, [0, 1]]}, "experts", "choice"),
    routing("routing of too many experts", [*FOUR, [0, 1, 2, 3, 4, 5, 0]], "token 4", "at most 6 experts", "[0, 1"),
    routing("routing to an expert beyond the last", [[0, 6], *FOUR], "token 0", "from 0 to 5", "got 6"),
    routing("routing to a negative expert", [*FOUR, [-1, 2]], "token 4", "from 0 to 5", "got -1"),
    routing("routing to a fraction", [*FOUR, [0.5, 2]], "token 4", "from 0 to 5", "got 0.5"),
    routing("routing twice to one expert", [*FOUR, [2, 2]], "token 4", "distinct", "[2, 2]"),
    Case("routing is a folder", f"{MOE} --routing m", ("routing 'm'", "balanced", "zipf-S", "JSON file")),
]


@table(ROUTING)
def test_routing_file(case: Case, folder: Path, monkeypatch, capsys) -> None:
    check(case, folder, monkeypatch, capsys)


# ---- program files ----


def good(folder: Path) -> Program:
    """What `tilescore compile` writes for the attention layer."""
    compiled = compile_layer(Workload(layer=attention_layer(load_model(folder / "m")), tokens=2), NANO)
    compiled.program.meta.update(describe(compiled, NANO, seed=0), data=True)
    return compiled.program


def program(name: str, change: Callable[[Program], Program], *texts: str) -> Case:
    """A well-formed file of a changed program."""
    return Case(name, "simulate p.tsp", ("program file p.tsp", *texts),
                lambda folder: change(good(folder)).save(folder / "p.tsp"))


def program_file(name: str, change: Callable[[bytes], bytes], *texts: str) -> Case:
    """A good file with some bytes changed."""
    def prepare(folder: Path) -> None:
        good(folder).save(folder / "p.tsp")
        (folder / "p.tsp").write_bytes(change((folder / "p.tsp").read_bytes()))
    return Case(name, "simulate p.tsp", ("program file p.tsp", *texts), prepare)


def tamper(name: str, **fields: Any) -> Callable[[Program], Program]:
    """Change fields of the first instruction of that name; values may be functions of the old one."""
    def change(p: Program) -> Program:
        instructions = list(p.instructions)
        at = next(i for i, instruction in enumerate(instructions) if instruction.spec.name == name)
        new = {k: v(getattr(instructions[at], k)) if callable(v) else v for k, v in fields.items()}
        instructions[at] = replace(instructions[at], **new)
        return replace(p, instructions=instructions)
    return change


def header(raw: bytes, change: Callable[[dict], object]) -> bytes:
    """The file with another header, sizes and checksum corrected: what a foreign tool might write."""
    magic, version, size, payload_size, _ = struct.unpack_from("<8sIIQ32s", raw)
    values = json.loads(raw[56:56 + size])
    change(values)
    text = json.dumps(values).encode()
    body = text + raw[56 + size:]
    return struct.pack("<8sIIQ32s", magic, version, len(text), payload_size, hashlib.sha256(body).digest()) + body


def foreign(name: str, change: Callable[[dict], object], *texts: str) -> Case:
    return program_file(name, lambda raw: header(raw, change), *texts)


def flip(raw: bytes, at: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ 0x10]) + raw[at:][1:]


def opcode(raw: bytes) -> bytes:
    """Opcode 15 in the first instruction, checksum corrected."""
    start = 56 + struct.unpack_from("<I", raw, 12)[0]
    return header(raw[:start] + b"\x0f" + raw[start + 1:], lambda h: None)


PROGRAM = [
    Case("no program", "simulate none.tsp", ("program file none.tsp", "No such file")),
    Case("program is a folder", "simulate m", ("program file m", "directory")),
    Case("program is something else", "simulate m/config.json", ("m/config.json", "not a tilescore program")),
    program_file("empty program", lambda raw: b"", "not a tilescore program"),
    program_file("program cut in the prefix", lambda raw: raw[:40], "truncated", "40 bytes", "56"),
    program_file("program cut in the header", lambda raw: raw[:300], "truncated", "300 bytes, expected"),
    program_file("program cut at the end", lambda raw: raw[:-1], "truncated", "expected"),
    program_file("program with a tail", lambda raw: raw + b"\0", "too long", "expected"),
    program_file("program of another version", lambda raw: raw[:8] + b"\x09" + raw[9:], "version 9", "expected 3",
                 "compile it again"),
    program_file("program of the version before", lambda raw: raw[:8] + b"\x02" + raw[9:], "version 2", "expected 3",
                 "compile it again"),
    program_file("flipped bit in the header", lambda raw: flip(raw, 80), "corrupted", "SHA-256"),
    program_file("flipped bit in the data", lambda raw: flip(raw, -100 + len(raw)), "corrupted", "SHA-256"),
    program_file("flipped bit in the checksum", lambda raw: flip(raw, 30), "corrupted", "SHA-256"),
    program_file("unknown opcode", opcode, "instruction 0", "opcode 15"),
    foreign("program for no tile", lambda h: h.pop("tile"), "header: missing key 'tile'"),
    foreign("program for a wrong tile", lambda h: h["tile"].update(rows=5), "rows", "power of two", "got 5"),
    foreign("program with odd addresses", lambda h: h.update(program_addr="0"), "program_addr", "expected an integer",
            "got '0'"),
    foreign("program without DRAM", lambda h: h.update(dram_bytes=0), "dram_bytes", "1..", "got 0"),
    foreign("program outside of DRAM", lambda h: h.update(dram_bytes=64), "outside the 64 bytes of DRAM"),
    foreign("program with a bad result", lambda h: h["outputs"][0].__setitem__(5, "int3"), "int3", "float32"),
    foreign("program with too few labels", lambda h: h["labels"].pop(), "labels", "instructions"),
    foreign("program without description", lambda h: h.update(meta={}), "expected layer", "a string", "None"),
    foreign("program with a wrong description", lambda h: h["meta"]["bounds"].update(dram_cycles="9"),
            "expected bounds.dram_cycles", "an integer of at least 1", "got '9'"),
    foreign("program without a peak rate", lambda h: h["meta"].update(peak_macs_per_cycle=0),
            "peak_macs_per_cycle", "an integer of at least 1", "got 0"),
    foreign("program with too much work", lambda h: h["meta"].update(useful_macs=10**400), "useful_macs",
            "below 2**63"),
    foreign("program of a wrong gain", lambda h: h["meta"].update(e4m3_read_bytes="many"),
            "e4m3_read_bytes", "an integer", "'many'"),
    foreign("program for half a tile", lambda h: h["tile"].update(rows=4.0), "rows", "integer", "4.0"),
    foreign("program with a yes for a size", lambda h: h["segments"][0].__setitem__(2, True), "segments[0]: size",
            "an integer from 0 to", "True"),
    foreign("program with an extra key", lambda h: h.update(checked=True), "unknown key 'checked'", "extents"),
    foreign("program with an extra value", lambda h: h["outputs"][0].append(1), "outputs[0]", "7 values", "got 8"),
    foreign("program with fewer instructions", lambda h: h.update(instructions=1, phases=[]), "payload",
            "1 instructions"),
    foreign("program with phases of another length", lambda h: h.update(phases=[["core", 1]]), "phases",
            "1 instructions"),
    foreign("program with two lines in a name", lambda h: h["segments"][0].__setitem__(0, "a\nb"), "segment name",
            "printable", "a\\nb"),
    foreign("program with two segments of a name", lambda h: h["segments"][1].__setitem__(0, h["segments"][0][0]),
            "the name is there twice"),
    foreign("program with an extent of a LOAD", lambda h: h.update(extents=[[0, h["segments"][0][0]]]), "extents",
            "instruction 0 (LOAD"),
    foreign("program with infinite work", lambda h: h["meta"].update(useful_macs=float("inf")), "header",
            "finite numbers", "Infinity"),
    foreign("program with another result", lambda h: h["outputs"][0].__setitem__(0, "logits"), "named out", "logits"),
    program("program with a wrong float64 layer", lambda p: replace(p, segments=[
        *p.segments, Segment("expected (float64 layer)", p.dram_bytes, np.zeros(8, np.uint8))],
        dram_bytes=p.dram_bytes + 16), "float64", "got 8"),
    program("missing HALT", lambda p: replace(p, instructions=p.instructions[:-1], labels=p.labels[:-1],
                                           phases=p.phases[:-1]), "instruction", "HALT"),
    program("lost token", tamper("MATMUL", wait_wr=lambda old: old | 1 << Unit.MATRIX), "instruction", "MATMUL"),
    program("surplus token", tamper("STORE", signal_wr=1 << Unit.LOAD), "instruction", "STORE"),
    program("address beyond DRAM", tamper("STORE", dram_addr=(1 << 40) - 16), "instruction", "STORE", "DRAM"),
    program("hazard", tamper("MATMUL", wait_wr=0), "instruction", "MATMUL", "bank 1 of A", "LOAD"),
    program("rows beyond the buffer", tamper("LOAD", addr=(1 << 8) - 1), "instruction", "LOAD"),
]


@table(PROGRAM)
def test_program_file(case: Case, folder: Path, monkeypatch, capsys) -> None:
    check(case, folder, monkeypatch, capsys)


def test_instructions_without_data_have_no_results(folder: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(folder)
    assert main(["compile", *ATTENTION.split()[1:], "--no-data", "-o", "p.tsp"]) == 0
    capsys.readouterr()
    case = Case("no data", "simulate p.tsp", ("p.tsp", "--no-data", "--level timing"))
    check(case, folder, monkeypatch, capsys)


# ---- outputs ----

COMPILE = MOE.replace("run", "compile", 1)
OUTPUT = [
    Case("output in a missing folder", f"{COMPILE} -o none/p.tsp", ("none/p.tsp", "folder none", "does not exist")),
    Case("output is a folder", f"{COMPILE} -o m", ("m:", "is a folder", "file name")),
    Case("output is a pipe", f"{COMPILE} -o pipe", ("pipe:", "not a regular file", "new name"),
         lambda folder: os.mkfifo(folder / "pipe")),
    Case("output below a file", f"{COMPILE} -o m/config.json/p.tsp", ("m/config.json", "does not exist")),
    Case("listing in a missing folder", f"{COMPILE} -o p.tsp --listing none/p.txt",
         ("none/p.txt", "folder none", "does not exist")),
    Case("listing over the program", f"{COMPILE} -o p.tsp --listing ./p.tsp", ("p.tsp", "twice", "different")),
    Case("report folder is a file", f"{MOE} --out m/config.json", ("--out m/config.json", "is a file", "folder")),
    Case("report folder below a file", f"{MOE} --out m/config.json/out", ("m/config.json/out", "cannot be made")),
    Case("Verilog in a missing folder", "verilog --tile nano -o none/t.v", ("none/t.v", "folder none")),
    Case("Verilog to a folder", "verilog --tile nano -o m", ("m:", "is a folder")),
    Case("wrong weights leave no program", f"{COMPILE} -o p.tsp --weights none", ("none", "no such file")),
    Case("wrong routing leaves no report", f"{MOE} --out out --routing none", ("routing 'none'",)),
    Case("wrong energy table leaves no report", f"{MOE} --out out --energy none", ("none", "130nm, 7nm")),
]


@table(OUTPUT)
def test_output(case: Case, folder: Path, monkeypatch, capsys) -> None:
    check(case, folder, monkeypatch, capsys)


@pytest.mark.parametrize("content", ["old", None], ids=["replacing", "new"])
def test_a_failed_write_leaves_no_half_file(content: str | None, folder: Path, monkeypatch, capsys) -> None:
    """The disk is full at the rename: the old file stays, the temporary one goes."""
    if content:
        (folder / "p.tsp").write_text(content)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    case = Case("full", f"{COMPILE} -o p.tsp", ("p.tsp", "cannot be written", "No space left"))
    check(case, folder, monkeypatch, capsys)


@pytest.mark.parametrize(("name", "options"), [
    ("config.json", ["--model", "m"]), ("model.safetensors", ["--weights", "m/model.safetensors"]),
    ("s.json", ["--schedule", "m/s.json"]), ("r.json", ["--routing", "m/r.json"]), ("t.toml", ["--tile", "m/t.toml"]),
])
def test_unreadable_file(name: str, options: list[str], folder: Path) -> None:
    path = folder / "m" / name
    path.touch()
    content = path.read_bytes()
    path.chmod(0)
    try:
        done = tilescore_without_privileges([*MOE.split(), *options], folder)
    finally:
        path.chmod(0o600)
    assert done.returncode == 2 and not done.stdout
    assert f"m/{name}" in done.stderr and "read" in done.stderr and len(done.stderr.splitlines()) == 1
    assert path.read_bytes() == content


def test_there_are_at_least_two_hundred_cases() -> None:
    tables = [COMMAND_LINE, REQUEST, NOT_BUILT, CONFIG, TILE, SCHEDULE, ENERGY, WEIGHTS, ROUTING, PROGRAM, OUTPUT]
    assert sum(map(len, tables)) >= 200
