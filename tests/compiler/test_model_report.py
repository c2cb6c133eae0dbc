"""Reports of whole models: sums of layers that run singly, against one program of two layers, published figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tilescore.cli.main import main
from tilescore.compiler.compile import compile_layer
from tilescore.compiler.graph.calibrate import Scales
from tilescore.compiler.graph.ir import Graph, Role
from tilescore.compiler.graph.layers import layer_graph
from tilescore.compiler.layers import DecoderLayer, Workload
from tilescore.compiler.lowering.plan import plan
from tilescore.compiler.model_layers import layer_of
from tilescore.compiler.model_report import model_kv_bytes, model_parameters, model_parts, model_report
from tilescore.compiler.models import ModelConfig, load_model, parse_config
from tilescore.compiler.products import useful_macs
from tilescore.compiler.report import report_compiled
from tilescore.rtl.spec.errors import TilescoreError, WorkloadError
from tilescore.sim.legality.verifier import verify
from tilescore.sim.timing import time_program
from tilescore.tests.compiler.play import EDGE, NANO
from tilescore.tests.compiler.tiny import tiny_config, write_config

MIXED = {"num_hidden_layers": 5, "mlp_only_layers": [0, 3]}


def _model(family: str = "llama", **keys: Any) -> ModelConfig:
    return parse_config(tiny_config(family, **keys), name="m", source="m")


def test_figures_are_those_of_layers_run_singly() -> None:
    model = _model("qwen3_moe", **MIXED)
    found = model_report(model, NANO, prefill=9, decode_context=20, batch=[1, 3], prefill_batch=2, dram_bytes=1 << 20)
    layers = {index: layer_of(model, "decoder", index).layer for index in (0, 1)}
    head = layer_of(model, "head").layer
    passes = [(found["prefill"], "prefill", 9, 0, 2), *((step, "decode", 1, 20, size) for step, size in
                                                        zip(found["decode"], (1, 3), strict=True))]
    for entry, phase, tokens, context, batch in passes:
        single = {}
        for index, layer in layers.items():
            workload = Workload(layer=layer, phase=phase, tokens=tokens, context=context, batch=batch)  # type: ignore[arg-type]
            single[index] = report_compiled(compile_layer(workload, NANO, data=False,
                                                          routing="balanced" if index else None))
        single["embedding"] = report_compiled(compile_layer(Workload(
            layer=layer_of(model, "embedding").layer, tokens=tokens, batch=batch), NANO, data=False))
        single["head"] = report_compiled(compile_layer(Workload(layer=head, tokens=1, batch=batch), NANO, data=False))
        counts = {0: 2, 1: 3, "embedding": 1, "head": 1}
        assert entry["cycles"] == sum(counts[name] * one["cycles"] for name, one in single.items())
        assert entry["useful_macs"] == sum(counts[name] * one["useful_macs"] for name, one in single.items())
        joules = 1e-12 * sum(counts[name] * one["energy"]["total_pj"] for name, one in single.items())
        assert entry["joules_per_token"] * tokens * batch == pytest.approx(joules)
        assert [part["cycles"] for part in entry["layers"]] == [single[name]["cycles"] for name in
                                                                ("embedding", 0, 1, "head")]
        assert sum(part["share"] for part in entry["layers"]) == pytest.approx(1)
        for part in entry["layers"]:
            assert part["cycles"] >= part["bound_cycles"] > 0 and sum(part["phases"].values()) == part["cycles"]
        assert entry["gap"] >= 1 and entry["seconds"] == entry["cycles"] / (NANO.clock_mhz * 1e6)
        assert entry["fits_dram"] and entry["memory_bytes"] == found["weight_bytes"] + entry["kv_bytes"]
    assert [layer["indices"] for layer in found["layers"]] == ["", "0, 3", "1 to 2, 4", ""]
    assert found["kv_bytes_per_token"] == 5 * 2 * 2 * 16
    assert found["decode"][1]["kv_bytes"] == 3 * 21 * found["kv_bytes_per_token"]
    assert found["decode"][1]["tokens_per_s"] == pytest.approx(3 * found["decode"][1]["tokens_per_s_per_request"])


def _twice(workload: Workload) -> Graph:
    """Two layers in one graph, the second behind the first."""
    graph, values, nodes = layer_graph(workload), {}, []
    for number in range(2):
        def name(old: str, number: int = number) -> str:
            if old == "x":
                return "x" if number == 0 else "middle"
            return {("out", 0): "middle", ("out", 1): "out"}.get((old, number), f"{old} of {number}")

        for value in graph.values.values():
            if value.role is Role.INPUT and number:
                continue
            role = Role.ACTIVATION if value.role is Role.OUTPUT and not number else value.role
            values[name(value.name)] = replace(value, name=name(value.name), role=role)
        nodes += [replace(node, name=f"{node.name} of {number}", inputs=tuple(map(name, node.inputs)),
                          output=name(node.output)) for node in graph.nodes]
    return Graph(values=values, nodes=tuple(nodes))


@pytest.mark.parametrize(("phase", "tokens", "context"), [("prefill", 40, 0), ("decode", 1, 60)])
def test_two_layers_as_one_program_are_the_sum_of_their_parts(phase: str, tokens: int, context: int) -> None:
    """As many multiplications and bytes written; cycles within what the end of one hides of the other."""
    layer = layer_of(_model(hidden_size=96, intermediate_size=200), "decoder").layer
    workload = Workload(layer=layer, phase=phase, tokens=tokens, context=context)  # type: ignore[arg-type]
    steps = plan(_twice(workload), EDGE)
    both = steps.program(steps.schedule(), Scales())
    verify(both)
    one, two = time_program(compile_layer(workload, EDGE, data=False).program), time_program(both)
    for event in ("e4m3_row_steps", "drain_rows", "vector_rows", "dram_write_beats"):
        assert two.events[event] == 2 * one.events[event] > 0
    assert 0.9 * 2 * one.cycles < two.cycles <= 2 * one.cycles


def test_every_reason_in_one_line() -> None:
    model = _model(num_hidden_layers=2, layer_types=["linear_attention", "full_attention"], hidden_act="quick_gelu",
                   vocab_size=...)
    with pytest.raises(WorkloadError) as error:
        model_report(model, NANO, prefill=4, decode_context=4)
    text = str(error.value)
    assert text.startswith("m: ") and "\n" not in text
    assert all(text.count(part) == 1 for part in ("'linear_attention' needs", "mlp: hidden_act = 'quick_gelu'",
                                                  "embedding: vocab_size: missing", "head: vocab_size: missing"))


@pytest.mark.parametrize(("keys", "problem"), [
    ({"prefill": 0}, "tokens: expected an integer"), ({"batch": 0}, "batch: expected an integer"),
    ({"batch": []}, "batch: expected at least one"), ({"routing": "f.json"}, "routing 'f.json': expected balanced"),
    ({"decode_context": -1}, "context: expected an integer")])
def test_wrong_requests(keys: dict[str, Any], problem: str) -> None:
    with pytest.raises(TilescoreError, match=problem):
        model_report(_model(), NANO, **{"prefill": 4, "decode_context": 4, **keys})


PARAMETERS = {"llama-3-8b": 8.030, "llama-3-70b": 70.55, "mixtral-8x7b": 46.70, "olmoe-1b-7b": 6.92,
              "qwen3-30b-a3b": 30.53, "qwen3-235b-a22b": 235.1, "granite-3.0-1b-a400m": 1.335,
              "granite-3.0-3b-a800m": 3.30, "glm-4.5": 352.8, "gpt-oss-20b": 20.91, "gpt-oss-120b": 116.83,
              "deepseek-v2": 235.7, "deepseek-v3": 671.03, "kimi-k2": 1026.4}
"""In 10^9, of `torch.nn.Module.parameters` of the published configurations on PyTorch's meta device."""


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_of_published_models(name: str) -> None:
    assert model_parameters(model_parts(load_model(name))) / 1e9 == pytest.approx(PARAMETERS[name], rel=1e-3)


LLAMA_405B = {"hidden_size": 16384, "num_hidden_layers": 126, "num_attention_heads": 128, "num_key_value_heads": 8,
              "head_dim": 128, "intermediate_size": 53248, "vocab_size": 128256}


def test_kv_cache_of_published_models() -> None:
    """Published for BF16 (arXiv 2505.09343, table 1): 327,680 bytes per token for 80 layers of 8 heads of 128, 516,096
    for Llama-3.1-405B. E4M3 takes half."""
    parts = model_parts(load_model("llama-3-70b"))
    assert 2 * model_kv_bytes(parts) == 327_680
    assert 2 * model_kv_bytes(parts, context=(1 << 17) - 1) == 40 << 30
    assert 2 * model_kv_bytes(model_parts(_model(**LLAMA_405B))) == 516_096
    assert 2 * model_kv_bytes(model_parts(load_model("deepseek-v3"))) == 70_272


QWEN_72B = {"hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8,
            "intermediate_size": 29568, "vocab_size": 152064, "model_type": "qwen2", "rope_theta": 1e6,
            "rms_norm_eps": 1e-6}


@pytest.mark.parametrize(("keys", "wanted"), [(LLAMA_405B, 2.473e12), (QWEN_72B, 445e9)], ids=["llama", "qwen"])
def test_training_operations_per_token(keys: dict[str, Any], wanted: float) -> None:
    """At 4,096 tokens, forward and twice that backward: 6 times the weights that multiply and the causal half of the
    scores (arXiv 2505.09343, table 2, has 2.448e12 for Llama-3.1-405B; its 394e9 for Qwen2.5-72B is below 6 times its
    72.7e9 parameters)."""
    config = keys if "model_type" in keys else tiny_config("llama", **keys)
    parts = model_parts(parse_config(config, name="m", source="m"))
    macs = sum(part.count * useful_macs(Workload(layer=part.layer, tokens=4096)) for part in parts
               if isinstance(part.layer, DecoderLayer) or part.name == "head")
    assert 6 * macs / 4096 == pytest.approx(wanted, rel=1e-3)


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_config(tmp_path, tiny_config("llama", num_hidden_layers=3))
    command = ["model", str(tmp_path), "--tile", "nano", "--prefill", "8", "--decode-context", "16", "--batch", "1,2"]
    assert main([*command, "--json", "--dram", "1KiB"]) == 0
    found = json.loads(capsys.readouterr().out)
    wanted = model_report(load_model(tmp_path), NANO, prefill=8, decode_context=16, batch=[1, 2], dram_bytes=1024)
    assert found == json.loads(json.dumps(wanted)) and found["decode"][0]["fits_dram"] is False
    assert main(command) == 0
    text = capsys.readouterr().out
    for part in ("prefill: 1 x 8 tokens", "decode: 2 x 1 token after 16", "throughput against interactivity",
                 "full_attention, dense", f"({found['prefill']['cycles']:,} cycles)"):
        assert part in text


@pytest.mark.parametrize(("options", "problem"), [
    (("--batch", "1,x"), "--batch 1,x: expected positive integers"),
    (("--dram", "lots"), "--dram lots: expected a size"),
    (("--dram", "0GB"), "--dram 0GB"), (("--prefill", "0"), "tokens: expected an integer")])
def test_wrong_options(options: tuple[str, ...], problem: str, tmp_path: Path,
                       capsys: pytest.CaptureFixture[str]) -> None:
    write_config(tmp_path, tiny_config("llama"))
    assert main(["model", str(tmp_path), "--tile", "nano", *options]) == 2
    error = capsys.readouterr().err
    assert problem in error and error.count("\n") == 1
