"""The cache: what is made once, under which key, and what a model's fingerprint follows."""

import pickle
import shutil
from pathlib import Path

import pytest
import torch

from rlhf import cache
from rlhf.cache import cached, fingerprint, key
from rlhf.models.loading import Source
from rlhf.models.policy import EMBEDDED


def test_cache(tmp_path, monkeypatch):
    """Made once; a damaged entry is made again; another key is another entry; an unwritable folder costs time only."""
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path))
    made = []

    def make() -> dict:
        made.append(1)
        return {"texts": ["a", "b"], "n": 2}

    entry = key("model", {"n": 1})
    assert [cached("kind", entry, make) for _ in range(3)] == [{"texts": ["a", "b"], "n": 2}] * 3
    assert len(made) == 1
    (file,) = (tmp_path / "kind").iterdir()
    file.write_bytes(file.read_bytes()[:-5])
    cached("kind", entry, make)
    file.write_bytes(b"")
    assert cached("kind", entry, make)["n"] == 2
    assert len(made) == 3
    assert cached("kind", entry, make) == make()
    cached("kind", key("model", {"n": 2}), make)
    assert len(made) == 5
    monkeypatch.setenv("RLHF_CACHE", str(file))  # a file where a folder should be
    assert cached("kind", entry, make)["n"] == 2


def test_fingerprint_follows_weights_and_template(tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(EMBEDDED, folder)
    assert fingerprint(str(folder)) == fingerprint("embedded")
    for name in ("model.safetensors", "chat_template.jinja", "tokenizer.json", "config.json"):
        before, content = fingerprint(str(folder)), (folder / name).read_bytes()
        (folder / name).write_bytes(content + b"\n")
        assert fingerprint(str(folder)) != before, name


def test_the_folder_is_the_variable_or_in_the_home(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path / "here"))
    assert cache.folder() == tmp_path / "here"
    monkeypatch.setenv("RLHF_CACHE", "")
    assert cache.folder() == tmp_path / ".cache" / "rlhf-lab"
    monkeypatch.delenv("RLHF_CACHE")
    assert cache.folder() == tmp_path / ".cache" / "rlhf-lab"


def test_a_key_follows_every_part_and_its_place() -> None:
    """The order of an object's keys means nothing, at any depth; everything else does. Half an emoji has a key too."""
    parts = ["m", 1, {"a": 1, "b": [{"c": 2, "d": 3}]}]
    again = ["m", 1, {"b": [{"d": 3, "c": 2}], "a": 1}]
    assert key(*parts) == key(*again)
    others = [key(*parts), key(*parts[::-1]), key("m", 2, parts[2]), key("m", "1", parts[2]), key("m", 1), key(parts)]
    assert len(set(others)) == len(others)
    assert key("\ud83d") != key("\ud83e")


def test_kinds_are_apart_and_nothing_is_left_beside_them(monkeypatch, tmp_path: Path) -> None:
    """Tensors, tuples and texts come back as they were, from folders that were made for them."""
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path / "not" / "there" / "yet"))
    value = (torch.arange(3), {"text": "a", "n": [1, 2.5]})
    cached("one", "entry", lambda: value)
    first, second = cached("one", "entry", lambda: pytest.fail("made again"))
    assert torch.equal(first, value[0])
    assert second == value[1]
    assert cached("two", "entry", lambda: 2) == 2
    files = sorted(str(file.relative_to(cache.folder())) for file in cache.folder().rglob("*") if file.is_file())
    assert files == ["one/entry.pt", "two/entry.pt"]


@pytest.mark.parametrize("content", [b"\xff" * 100, b"0" * 64 + b"nothing", b"0" * 10])
def test_an_entry_that_is_none_is_made_anew(monkeypatch, tmp_path: Path, content: bytes) -> None:
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path))
    (tmp_path / "kind").mkdir()
    (tmp_path / "kind" / "entry.pt").write_bytes(content)
    assert cached("kind", "entry", lambda: "new") == "new"
    assert cached("kind", "entry", lambda: pytest.fail("made again")) == "new"


def test_what_cannot_be_moved_into_place_is_removed(monkeypatch, tmp_path: Path, capsys) -> None:
    def refuse(_file: Path, _target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("RLHF_CACHE", str(tmp_path))
    monkeypatch.setattr(Path, "replace", refuse)
    assert cached("kind", "entry", lambda: 7) == 7
    assert list((tmp_path / "kind").iterdir()) == []
    assert "No space left on device" in capsys.readouterr().out


class Trap:
    """Unpickled, it would make a file."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> tuple:
        return Path.touch, (self.file,)


def test_an_entry_is_data_and_never_code(monkeypatch, tmp_path: Path) -> None:
    """Even one whose checksum holds."""
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path))
    cached("kind", "entry", lambda: Trap(tmp_path / "canary"))
    with pytest.raises(pickle.UnpicklingError):
        cached("kind", "entry", lambda: None)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "name",
    ["a.safetensors", "a.bin", "a.gguf", "a.json", "a.jinja", "a.model", "a.txt"],
)
def test_a_fingerprint_follows_each_kind_of_file(tmp_path: Path, name: str) -> None:
    """Its name, its bytes, and which name holds which; other files are not read."""
    folder = tmp_path / "m"
    shutil.copytree(EMBEDDED, folder)
    found = [fingerprint(str(folder))]
    for content in (b"1", b"2"):
        (folder / name).write_bytes(content)
        found.append(fingerprint(str(folder)))
    (folder / f"b{name}").write_bytes(b"3")
    found.append(fingerprint(str(folder)))
    (folder / name).write_bytes(b"3")
    (folder / f"b{name}").write_bytes(b"2")
    found.append(fingerprint(str(folder)))
    assert len(set(found)) == 5
    (folder / "notes.md").write_text("x")
    assert fingerprint(str(folder)) == found[-1]


def test_a_quantization_is_known_by_its_own_file(monkeypatch, tmp_path: Path) -> None:
    """The folder holds others, which do not matter."""
    for name in ("q4.gguf", "q8.gguf"):
        (tmp_path / name).write_bytes(name.encode())
    monkeypatch.setattr(cache, "find_model", lambda name: Source(str(tmp_path), gguf_file=name))
    q4, q8 = fingerprint("q4.gguf"), fingerprint("q8.gguf")
    assert q4 != q8
    (tmp_path / "q8.gguf").write_bytes(b"other")
    (tmp_path / "config.json").write_bytes(b"{}")
    assert fingerprint("q4.gguf") == q4
    assert fingerprint("q8.gguf") != q8


def test_a_model_of_the_hub_is_known_by_its_commit(monkeypatch) -> None:
    """And by its name; one that tells no commit has a fingerprint all the same."""

    class Config:
        pass

    commits = {"a/one": "1", "a/two": "1", "a/three": "2", "a/none": None}

    def read(source: Source) -> Config:
        config = Config()
        if commits[source.path]:
            config._commit_hash = commits[source.path]
        return config

    monkeypatch.setattr(cache, "find_model", Source)
    monkeypatch.setattr(cache, "read_config", read)
    found = {name: fingerprint(name) for name in commits}
    assert len(set(found.values())) == 4
    commits["a/one"] = "3"
    assert fingerprint("a/one") != found["a/one"]
    assert fingerprint("a/two") == found["a/two"]
