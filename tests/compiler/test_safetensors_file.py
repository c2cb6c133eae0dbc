"""The safetensors reader: values of each dtype against the ``safetensors`` package, and damaged files."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilescore.compiler.safetensors_file import SafetensorsFile
from tilescore.rtl.spec.errors import WorkloadError
from tilescore.tests.compiler.tiny import write_safetensors


@pytest.fixture
def good(tmp_path: Path, rng: np.random.Generator) -> Path:
    tensors = {
        "a": rng.standard_normal((3, 5)).astype(np.float32),
        "b": np.arange(8, dtype=np.int32),
        "c": rng.standard_normal((2, 3, 4)).astype(np.float32),
    }
    return write_safetensors(tmp_path / "good.safetensors", tensors)


def rewrite(path: Path, header: Any, data: bytes) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


# ---- reading ----


def test_agrees_with_the_safetensors_package(tmp_path: Path, rng: np.random.Generator) -> None:
    """Outside writer; 1- and 2-byte tensors before others make the data unaligned."""
    numpy_api = pytest.importorskip("safetensors.numpy", reason="needs the test extra (safetensors)")
    tensors = {
        "bytes": np.arange(3, dtype=np.uint8),
        "half": rng.standard_normal((7, 3)).astype(np.float16),
        "single": rng.standard_normal((4, 6)).astype(np.float32),
    }
    numpy_api.save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    file = SafetensorsFile(tmp_path / "x.safetensors")
    assert set(file.names) == set(tensors)
    for name in ("half", "single"):
        read = file.read(name, tensors[name].shape)
        assert read.dtype == np.float32
        assert np.array_equal(read, tensors[name].astype(np.float32))


def test_every_bfloat16(tmp_path: Path) -> None:
    """All 65,280 finite codes, against ml_dtypes."""
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="needs the test extra (ml-dtypes)")
    codes = np.arange(65536, dtype=np.uint16)
    codes = codes[(codes & 0x7F80) != 0x7F80]
    path = write_safetensors(tmp_path / "b.safetensors", {"w": codes}, dtypes={"w": "BF16"})
    expected = codes.view(ml_dtypes.bfloat16).astype(np.float32)
    read = SafetensorsFile(path).read("w", (65280,))
    assert np.array_equal(read.view(np.uint32), expected.view(np.uint32))


def test_slice_of_the_leading_dimension(good: Path) -> None:
    file = SafetensorsFile(good)
    whole = file.read("c", (2, 3, 4))
    assert np.array_equal(file.read("c", (2, 3, 4), index=1), whole[1])


def test_a_read_tensor_is_writable_and_leaves_the_file_alone(good: Path) -> None:
    before = good.read_bytes()
    SafetensorsFile(good).read("a", (3, 5))[:] = 0
    assert good.read_bytes() == before


# ---- damaged files and wrong requests ----


def refused(path: Path, *expected: str) -> None:
    with pytest.raises(WorkloadError) as error:
        SafetensorsFile(path)
    for part in (str(path), *expected):
        assert part in str(error.value)


def test_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "none.safetensors", "cannot be read")


def test_every_truncation_is_refused(good: Path) -> None:
    content = good.read_bytes()
    for size in range(len(content)):
        good.write_bytes(content[:size])
        refused(good)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "not a safetensors file but an empty file"),
        (b"short", "truncated or not a safetensors file"),
        (b"GGUF\x03\0\0\0" + bytes(64), "not a safetensors file but a GGUF file"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "but a pickle, as old PyTorch checkpoints"),
        (b"\x93NUMPY\x01\0" + bytes(64), "but a NumPy array (.npy)"),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "but an HDF5 file"),
        (b'{"weight_map": {}}', "but a JSON file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "but a Git LFS pointer"),
        (b"PK\x03\x04 this is a zip file, not tensors", "truncated or not a safetensors file"),
        ((3).to_bytes(8, "little") + b"{}{", "the header is not valid JSON"),
        ((2).to_bytes(8, "little") + b"[]", "expected an object in the header"),
        ((4).to_bytes(8, "little") + b"\xff\xff\xff\xff", "the header is not valid JSON"),
    ],
)
def test_not_safetensors(content: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    refused(path, expected)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (7, "expected dtype, shape and two data_offsets"),
        ({"dtype": "F32", "shape": [2]}, "expected dtype, shape and two data_offsets"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0]}, "expected dtype, shape and two data_offsets"),
        ({"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}, "expected non-negative integers"),
        ({"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]}, "expected non-negative integers"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}, "expected non-negative integers"),
        ({"dtype": 32, "shape": [2], "data_offsets": [0, 8]}, "expected non-negative integers"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, "expected 8 bytes for F32 (2,), got 4"),
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}, "truncated: expected 12 bytes of data"),
    ],
)
def test_bad_entry(entry: Any, expected: str, tmp_path: Path) -> None:
    refused(rewrite(tmp_path / "bad.safetensors", {"w": entry}, bytes(8)), "w: ", expected)


def test_overlapping_tensors(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    path = rewrite(tmp_path / "bad.safetensors", {"w": entry, "v": entry}, bytes(4))
    refused(path, "overlaps the tensor before it at byte 0")


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("z", (3, 5), "z: missing; expected a tensor of shape (3, 5)"),
        ("a", (5, 3), "a: shape: expected (5, 3), got (3, 5)"),
        ("b", (8,), "b: dtype: expected one of F32, F16, BF16, got I32"),
    ],
)
def test_wrong_request(name: str, shape: tuple[int, ...], expected: str, good: Path) -> None:
    with pytest.raises(WorkloadError) as error:
        SafetensorsFile(good).read(name, shape)
    assert f"{good}: {expected}" in str(error.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("index", [None, 1])
def test_not_finite(value: float, index: int | None, tmp_path: Path) -> None:
    tensor = np.zeros((2, 3), np.float32)
    tensor[1, 2] = value
    file = SafetensorsFile(write_safetensors(tmp_path / "n.safetensors", {"w": tensor}))
    with pytest.raises(WorkloadError) as error:
        file.read("w", (2, 3), index=index)
    assert f"w: element (1, 2): expected a finite number, got {value}" in str(error.value)


@pytest.mark.parametrize(
    ("member", "expected"),
    [
        ("x.npy", "but a NumPy archive (.npz)"),
        ("archive/data.pkl", "but a PyTorch checkpoint (.bin, .pt)"),
        ("readme.txt", "but a ZIP archive"),
    ],
)
def test_archives_are_named_by_their_content(member: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, "content")
    refused(path, f"not a safetensors file {expected}")


def test_a_header_that_looks_like_another_kind_is_read(tmp_path: Path) -> None:
    """The first bytes are the header's length: 0x0280 bytes begin as a pickle of protocol 2 does."""
    path = tmp_path / "x.safetensors"
    header = b'{"__metadata__": {"a": "' + b"x" * (0x280 - 27) + b'"}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert SafetensorsFile(path).names == ()
