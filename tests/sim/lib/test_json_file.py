"""What a JSON file may be, and the one line for each that it may not be."""

from pathlib import Path

import pytest

from tilescore.rtl.spec.errors import ConfigError, WorkloadError
from tilescore.sim.lib.json_file import read_json


@pytest.mark.parametrize("raw", [b'{"a": [1, 2.5, null]}', b'\xef\xbb\xbf{"a": [1, 2.5, null]}\r\n'])
def test_a_byte_order_mark_does_not_matter(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(raw)
    assert read_json(tmp_path / "a.json", ConfigError) == {"a": [1, 2.5, None]}
    assert read_json(tmp_path / "a.json", ConfigError, pairs=list) == [("a", [1, 2.5, None])]


@pytest.mark.parametrize(("raw", "message"), [
    (b"", "not valid JSON: line 1: "), (b'{"a": 1,\n"b"}', "not valid JSON: line 2: "),
    (b"\xff\xfe[\0]\0", "not valid JSON: expected UTF-8 text"), (b"[" * 100_000, "not valid JSON: nested too deeply"),
    (b"1" * 5000, "not valid JSON: Exceeds the limit"),
])
def test_refused_in_one_line(raw: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(raw)
    with pytest.raises(ConfigError) as refused:
        read_json(path, ConfigError, "baseline")
    assert str(refused.value).startswith(f"baseline {path}: {message}") and "\n" not in str(refused.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(WorkloadError) as refused:
            read_json(path, WorkloadError)
        assert str(refused.value).startswith(f"{path}: cannot be read: ")
