"""The Hub without a network, behind a proxy, and with one."""

import socket
import threading
import time
from collections.abc import Generator
from functools import cache
from pathlib import Path

import pytest
from huggingface_hub import constants

from rlhf import hub
from rlhf.errors import UserError


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing known of the Hub, no proxy, and an empty cache."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    monkeypatch.setenv(hub._REASON, "")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "_why_unreachable", cache(hub._why_unreachable.__wrapped__))


@pytest.fixture
def listening() -> Generator[int]:
    """The port of a server that takes connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_a_hub_that_answers_is_asked(monkeypatch: pytest.MonkeyPatch, listening: int) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{listening}")
    assert hub.use_cache_if_unreachable() == ""
    assert constants.HF_HUB_OFFLINE is False


def test_without_a_network_the_answer_comes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Hub that cannot be reached: no try is repeated, the message says why, and so does the next one."""
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    began = time.monotonic()
    for _ in range(2):
        with pytest.raises(UserError, match=r"model_name: 'a/b' is neither .* \(the Hub: 127\.0\.0\.1: .*refused\)"):
            hub.refuse_unknown_model("a/b", "model_name: 'a/b'")
    assert time.monotonic() - began < 5
    assert constants.HF_HUB_OFFLINE is True


def test_what_is_in_the_cache_is_there_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    commit = "0" * 40
    (tmp_path / "models--a--b" / "refs").mkdir(parents=True)
    (tmp_path / "models--a--b" / "refs" / "main").write_text(commit)
    (tmp_path / "models--a--b" / "snapshots" / commit).mkdir(parents=True)
    (tmp_path / "models--a--b" / "snapshots" / commit / "config.json").write_text("{}")
    hub.refuse_unknown_model("a/b", "model_name: 'a/b'")


def test_a_proxy_is_asked_in_place_of_the_hub(monkeypatch: pytest.MonkeyPatch, listening: int) -> None:
    """Behind a proxy the Hub itself takes no connection, and its name may not even be known."""
    monkeypatch.setattr(constants, "ENDPOINT", "https://no-such-host.invalid")
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{listening}")
    assert hub.use_cache_if_unreachable() == ""


def test_a_hub_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "PATIENCE_S", 0.2)
    ended = threading.Event()
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: ended.wait() and socket.socket())
    assert hub.use_cache_if_unreachable() == "huggingface.co does not answer within 0.2 s"
    ended.set()


def test_asked_to_work_offline_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv(hub._REASON)
    monkeypatch.setattr(hub, "_why_unreachable", lambda _: pytest.fail("asked"))
    assert hub.use_cache_if_unreachable() == "HF_HUB_OFFLINE is set"


def test_a_data_set_may_be_in_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As files, or as tables of its owner."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "tables"))
    assert not hub.may_be_cached("openai/gsm8k")
    (tmp_path / "datasets--openai--gsm8k").mkdir()
    assert hub.may_be_cached("openai/gsm8k")
    assert not hub.may_be_cached("nyu/glue")
    assert not hub.may_be_cached("squad")
    (tmp_path / "tables" / "nyu___glue").mkdir(parents=True)
    assert hub.may_be_cached("nyu/glue")
    assert hub.may_be_cached("squad"), "an old name without an owner may be any"
