"""`Numerics`: one value, its digest, its JSON, and what the command line makes of options."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

import pytest

from tilescore.compiler.formats import PRESETS
from tilescore.compiler.numerics import DEFAULT, LARGEST_BLOCK, Numerics, from_options
from tilescore.rtl.spec.errors import CompileError, TilescoreError, WorkloadError
from tilescore.rtl.spec.isa import ScaleRule

VALUES = [DEFAULT, Numerics(softmax_block=128), Numerics(formats=PRESETS["nvfp4"]),
          Numerics(formats=PRESETS["mxfp8"]), Numerics(formats=PRESETS["mxfp8"], scale_rule=ScaleRule.EVEN),
          Numerics(formats=PRESETS["mxfp8"], scale_rule=ScaleRule.RCEIL)]


def test_the_default() -> None:
    assert Numerics() == DEFAULT and DEFAULT.softmax_block == 256
    assert DEFAULT.to_dict() == {"digest": DEFAULT.digest, "formats": "e4m3:e4m3:e4m3", "softmax_block": 256,
                                 "router_terms": 3, "scale_rule": "floor"}


@pytest.mark.parametrize("changes, message", [
    ({"softmax_block": 0}, "numerics: softmax_block must be an integer from 1 to 16384, got 0"),
    ({"softmax_block": LARGEST_BLOCK + 1}, "from 1 to 16384, got 16385"),
    ({"softmax_block": True}, "got True"),
    ({"softmax_block": 64.0}, "got 64.0"),
    ({"router_terms": 0}, "numerics: router_terms must be one of 1, 2, 3, got 0"),
    ({"scale_rule": "even"}, "numerics: scale_rule must be a ScaleRule, got 'even'"),
    ({"scale_rule": ScaleRule.EVEN}, "scale_rule even: formats e4m3:e4m3:e4m3 have no power-of-two block scales"),
    ({"scale_rule": ScaleRule.RCEIL, "formats": PRESETS["nvfp4"]}, "formats nvfp4:nvfp4:e4m3 have no power-of-two"),
    ({"formats": "e4m3"}, "numerics: formats must be a LayerFormat, got 'e4m3'"),
])
def test_wrong_values_name_the_field(changes: dict, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        Numerics(**changes)


def test_digests_tell_values_apart_and_are_the_same_in_every_process() -> None:
    assert len({value.digest for value in VALUES}) == len(VALUES)
    assert all(len(value.digest) == 12 and int(value.digest, 16) >= 0 for value in VALUES)
    code = "import tilescore; print(tilescore.Numerics(softmax_block=128).digest)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == VALUES[1].digest


def test_written_and_read_back() -> None:
    for value in VALUES:
        assert Numerics.from_dict(json.loads(json.dumps(value.to_dict()))) == value
    fields = {key: value for key, value in DEFAULT.to_dict().items() if key != "digest"}
    assert Numerics.from_dict(fields) == DEFAULT


@pytest.mark.parametrize("changes, message", [
    ({"softmax_block": 128}, "file: digest: expected [0-9a-f]{12}, that of the other fields, got '"),
    ({"softmax_block": "256"}, "file: softmax_block must be an integer from 1 to 16384, got '256'"),
    ({"scale_rule": "up"}, "file: scale_rule: expected one of floor, rceil, even, got 'up'"),
    ({"scale_rule": None}, "file: scale_rule: .* got None"),
    ({"formats": "posit"}, "file: format 'posit': expected one of e4m3"),
    ({"slots": 1}, "file: expected an object with the keys formats, softmax_block, router_terms, scale_rule, got"),
])
def test_wrong_json_names_source_and_key(changes: dict, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        Numerics.from_dict(DEFAULT.to_dict() | changes, "file")
    with pytest.raises(CompileError, match="file: expected an object"):
        Numerics.from_dict([1], "file")


def test_differences_name_fields() -> None:
    assert DEFAULT.differences(Numerics()) == []
    assert DEFAULT.differences(Numerics(softmax_block=64)) == ["softmax_block: 256 -> 64"]
    for a, b in itertools.permutations(VALUES, 2):
        assert a.differences(b)


def test_options() -> None:
    assert from_options("e4m3") == DEFAULT
    assert from_options("mxfp4", softmax_block=32, scale_rule="even") == Numerics(
        formats=PRESETS["mxfp4"], softmax_block=32, scale_rule=ScaleRule.EVEN)


@pytest.mark.parametrize("options, error, message", [
    ({"scale_rule": "floor"}, WorkloadError, "--scale-rule floor: formats e4m3:e4m3:e4m3 have"),
    ({"softmax_block": -1}, CompileError, "softmax_block must be .*, got -1"),
])
def test_options_that_would_be_ignored_or_wrong(options: dict, error: type[TilescoreError], message: str) -> None:
    with pytest.raises(error, match=message):
        from_options("e4m3", **options)
