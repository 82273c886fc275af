"""Putting a model on the Hub, with a stand-in for it: what is sent, and what is refused before anything is."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.errors import HfHubHTTPError

from rlhf.errors import UserError
from rlhf.publish import __main__ as command

CARD = "---\ntags:\n- rlhf-lab\n---\n\n# speller\n\nfrom_pretrained('PATH_OR_HUB_ID')\n"


class Hub:
    """What is called of HfApi."""

    def __init__(self, *, there: bool = False, refuses: bool = False):
        self.there, self.refuses = there, refuses
        self.made: list[tuple[str, bool]] = []
        self.files: dict[str, bytes] = {}
        self.message = ""

    def repo_exists(self, _name: str) -> bool:
        return self.there

    def create_repo(self, name: str, *, private: bool, exist_ok: bool) -> str:
        assert exist_ok
        if self.refuses:
            response: Any = SimpleNamespace(headers={}, request=None)
            raise HfHubHTTPError("403 Client Error\n\nYou don't have the rights.", response=response)
        self.made.append((name, private))
        return f"https://huggingface.co/{name}"

    def create_commit(self, _name: str, operations: list[Any], *, commit_message: str) -> None:
        self.message = commit_message
        for operation in operations:
            with operation.as_file() as content:
                self.files[operation.path_in_repo] = content.read()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    final = tmp_path / "speller" / "final"
    final.mkdir(parents=True)
    (final.parent / "provenance.json").write_text(json.dumps({"made_by": "rlhf-lab"}))
    (final / "config.json").write_text("{}")
    (final / "model.safetensors").write_bytes(b"weights")
    (final / "README.md").write_text(CARD)
    return final.parent


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A token, a network, and nobody at the keyboard."""
    made = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda token: made if token == "secret" else None)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "secret")
    monkeypatch.setattr(command, "use_cache_if_unreachable", lambda: "")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on stdin"))
    return made


def test_final_is_sent_in_one_commit(run: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    """All files as they are, but that the card names the repository where its model is loaded."""
    assert command.main([str(run), "me/speller", "--private"]) == 0
    assert hub.made == [("me/speller", True)]
    assert hub.files.pop("README.md").decode() == CARD.replace("PATH_OR_HUB_ID", "me/speller")
    assert hub.files == {"config.json": b"{}", "model.safetensors": b"weights"}
    assert "speller" in hub.message
    out = capsys.readouterr().out
    assert "https://huggingface.co/me/speller" in out
    assert "No license is given" in out


def test_a_license_is_the_users(run: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "final" / "README.md").write_text(CARD.replace("tags:", "license: mit\ntags:"))
    command.main([str(run), "me/speller"])
    assert hub.made == [("me/speller", False)]
    assert "license" not in capsys.readouterr().out


def test_what_is_there_is_left_alone_unless_asked(run: Path, hub: Hub) -> None:
    hub.there = True
    with pytest.raises(UserError, match="me/speller is there already") as refused:
        command.main([str(run), "me/speller"])
    assert "--overwrite" in str(refused.value.hint)
    assert not hub.files
    assert command.main([str(run), "me/speller", "--overwrite"]) == 0
    assert hub.files


def test_the_hubs_own_refusal_is_told(run: Path, hub: Hub) -> None:
    hub.refuses = True
    with pytest.raises(UserError, match="me/speller: the Hub did not take it: You don't have the rights"):
        command.main([str(run), "me/speller"])


def test_refused_before_anything_is_sent(run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for words, message in (
        ([tmp_path, "me/speller"], "is not the directory of a run"),
        ([run, "speller"], "say whose it is"),
        ([run, "me/spel ler"], "USER/NAME is 'me/spel ler'"),
        ([run, "a/b/c"], "USER/NAME is 'a/b/c'"),
    ):
        with pytest.raises(UserError, match=message):
            command.main([*map(str, words)])
    with monkeypatch.context() as patch:
        patch.setattr(command, "use_cache_if_unreachable", lambda: "HF_HUB_OFFLINE is set")
        with pytest.raises(UserError, match="cannot be reached: HF_HUB_OFFLINE is set"):
            command.main([str(run), "me/speller"])
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.get_token", lambda: None)
        with pytest.raises(UserError, match="there is no token") as refused:
            command.main([str(run), "me/speller"])
        assert "HF_TOKEN" in str(refused.value.hint)
    (run / "final" / "README.md").unlink()
    with pytest.raises(UserError, match="no model card"):
        command.main([str(run), "me/speller"])
    (run / "final" / "config.json").unlink()
    with pytest.raises(UserError, match="is not finished"):
        command.main([str(run), "me/speller"])
    assert not hub.made
