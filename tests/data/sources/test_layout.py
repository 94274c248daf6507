"""Reading annotation files: large arrays, odd lists, and one sentence for what cannot be read."""

import json

import pytest

from snp_jax.data.sources import layout
from snp_jax.errors import UserError


@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_is_read_item_by_item_across_chunks(indent, tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "_CHUNK", 7)
    items = [{"a": [1, {"b": "]},"}]}, 12345, "ü" * 20, [], None]
    (tmp_path / "a.json").write_text(" " + json.dumps(items, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")
    assert list(layout.iter_json_array(tmp_path / "a.json")) == items
    (tmp_path / "a.json").write_text(" [ ]")
    assert list(layout.iter_json_array(tmp_path / "a.json")) == []


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"a": 1}', "expected a JSON array"),
        ('[{"a": 1}, {"b"', "not valid JSON"),
        ('[{"a": 1}, ', "ends in the middle"),
        ("", "ends in the middle"),
    ],
)
def test_a_bad_array_is_one_sentence(text, message, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=message):
        list(layout.iter_json_array(tmp_path / "a.json"))


def test_text_that_is_not_utf8(tmp_path):
    (tmp_path / "list.txt").write_bytes("gut\nschön\n".encode("latin-1"))
    with pytest.raises(UserError, match="list.txt: is not UTF-8 text"):
        layout.read_list(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfgood\r\n\r\nlast")
    assert layout.read_list(tmp_path / "list.txt") == ["good", "last"]


def test_media_are_found_by_name_then_by_stem(tmp_path):
    for name in ("a/x.mov", "b/x.mp4", "y.mov.mp4", "z.", ".hidden.mp4", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    index = layout.MediaIndex(tmp_path)

    def found(*names):
        media = index.find(*names)
        return media and media.read().decode()

    assert found("x.mp4") == "b/x.mp4"
    assert found("x") == "b/x.mp4"  # .mp4 before other suffixes
    assert found("x.avi") == "a/x.mov"
    assert found("y.mov") == "y.mov.mp4"
    assert found("z.") == found("z") == "z."
    assert found("no", "some/where/x.mov") == "a/x.mov"
    assert found("notes") is None and found(".hidden.mp4") is None
