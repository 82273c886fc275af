"""A judge behind an endpoint: a small server in this process plays all that servers do."""

import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from chat_server import Server, says, serving

from rlhf.errors import UserError
from rlhf.judges.config import JudgeConfig, refuse_missing_judge
from rlhf.judges.endpoint import Endpoint
from rlhf.judges.templates import LETTERS, WORDS

KEY = "sk-very-secret"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Server]:
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path))
    with serving() as started:
        yield started


def judge(server: Server, *, waits: list[float] | None = None, **settings: Any) -> Endpoint:
    config = JudgeConfig(**{"model": "qwen3", "url": server.url, "retries": 2, **settings})
    return Endpoint(config, wait=[].append if waits is None else waits.append)


def test_replies_become_verdicts_and_are_counted(server: Server) -> None:
    """Of equal questions one is asked; what names neither or both is malformed, and not guessed."""
    replies = {
        "q1": "A",
        "q2": "[[B]]",
        "q3": "<think>A, I think</think>\nB",
        "q4": "either",
        "q5": "A and B",
        "q6": None,
    }
    server.answer = lambda body: says(replies[body["messages"][0]["content"]])
    asked = judge(server)
    assert asked.choose([*replies, "q1"], LETTERS) == [1.0, 0.0, 0.0, None, None, None, 1.0]
    counts = {"calls": 6, "tokens_in": 60, "tokens_out": 12, "malformed": 3, "cached": 0, "retries": 0, "refused": 0}
    assert asked.usage.counts == counts
    assert "6 calls" in asked.usage.lines()[0]
    assert "3 replies without a verdict" in asked.usage.lines()[1]
    body = server.asked[0]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("qwen3", 0.0, 512)


def test_no_question_is_paid_for_twice(server: Server) -> None:
    """By what was sent: another temperature is another question."""
    server.answer = lambda body: says("yes")
    assert judge(server).choose(["q1", "q2"], WORDS) == [1.0, 1.0]
    server.answer = lambda body: says("no")
    again = judge(server)
    assert again.choose(["q1", "q2", "q3"], WORDS) == [1.0, 1.0, 0.0]
    assert (again.usage.cached, again.usage.calls, again.usage.tokens_in) == (2, 1, 10)
    assert judge(server, temperature=None, max_tokens=None).choose(["q1"], WORDS) == [0.0]
    assert "temperature" not in server.asked[-1]
    assert "max_tokens" not in server.asked[-1]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again_after_twice_the_wait(server: Server, status: int) -> None:
    answers = iter([(status, "busy"), (status, "busy"), says("A")])
    server.answer = lambda body: next(answers)
    waits: list[float] = []
    asked = judge(server, waits=waits)
    assert asked.choose(["q"], LETTERS) == [1.0]
    assert waits == [0.5, 1.0]
    assert (asked.usage.calls, asked.usage.retries) == (1, 2)


def test_tries_are_bounded(server: Server) -> None:
    server.answer = lambda body: (503, "overloaded")
    with pytest.raises(UserError, match=r"gave no answer in 3 tries \(status 503: overloaded\)"):
        judge(server).choose(["q"], LETTERS)
    assert len(server.asked) == 3


def test_a_slow_server_counts_as_failed(server: Server) -> None:
    done = threading.Event()
    server.answer = lambda body: (done.wait(5), says("A"))[1]
    with pytest.raises(UserError, match=r"no answer in 1 tries \(ReadTimeout"):
        judge(server, timeout_s=0.05, retries=0).choose(["q"], LETTERS)
    done.set()


def test_a_server_that_is_not_there_is_an_error_at_once() -> None:
    with pytest.raises(UserError, match=r"http://127.0.0.1:9/v1 cannot be reached \(ConnectError"):
        refuse_missing_judge(JudgeConfig(model="m", url="http://127.0.0.1:9/v1"))


def test_a_server_that_goes_away_is_an_error(server: Server) -> None:
    asked = judge(server)
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match=r"gave no answer in 3 tries \(ConnectError") as caught:
        asked.choose(["q"], LETTERS)
    assert "Is the server running" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((404, "no such path"), r"does not answer chat completions \(status 404"),
        ((200, "<html>Welcome</html>"), "answers something else than a chat completion: '<html>Welcome"),
        ((200, {"choices": []}), "answers something else than a chat completion"),
    ],
)
def test_what_is_no_such_api_is_an_error(server: Server, answer: tuple[int, Any], said: str) -> None:
    server.answer = lambda body: answer
    with pytest.raises(UserError, match=said):
        judge(server).choose(["q"], LETTERS)


def test_an_unknown_model_is_refused_before_anything_is_asked(server: Server) -> None:
    config = JudgeConfig(model="qwen", url=server.url)
    with pytest.raises(UserError, match="does not serve 'qwen'") as caught:
        refuse_missing_judge(config)
    assert caught.value.hint == "did you mean 'qwen3'?"
    server.models = (404, "no list")
    refuse_missing_judge(config)
    server.models = (403, "no")
    with pytest.raises(UserError, match=r"asks for another key \(status 403: no\)"):
        refuse_missing_judge(config)
    assert server.asked == []


def test_the_key_is_sent_and_never_shown(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in what is cached, nor where a server quotes the key that it refuses."""
    monkeypatch.setenv("MY_KEY", KEY)
    server.answer = lambda body: says("A")
    assert judge(server, key_from="MY_KEY").choose(["q"], LETTERS) == [1.0]
    assert server.keys == [f"Bearer {KEY}"]
    server.answer = lambda body: (401, f"invalid key {KEY}")
    with pytest.raises(UserError, match=r"asks for another key \(status 401: invalid key \.\.\.\)") as caught:
        judge(server, key_from="MY_KEY").choose(["q2"], LETTERS)
    assert "MY_KEY" in str(caught.value.hint)
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and KEY.encode() in file.read_bytes()]
    with pytest.raises(UserError) as caught:
        judge(server).choose(["q3"], LETTERS)
    assert "key_from" in str(caught.value.hint)


def test_questions_that_the_server_does_not_take_are_counted(server: Server) -> None:
    """A few are left out; more than 5 % end the command."""
    long = (400, {"error": {"message": "context length exceeded"}})
    server.answer = lambda body: long if body["messages"][0]["content"] == "q7" else says("A")
    asked = judge(server)
    verdicts = asked.choose([f"q{i}" for i in range(20)], LETTERS)
    assert verdicts == [None if i == 7 else 1.0 for i in range(20)]
    assert (asked.usage.refused, asked.usage.malformed, asked.usage.calls) == (1, 0, 19)
    with pytest.raises(UserError, match=r"did not take 1 of 10 questions: status 400.*context length"):
        asked.choose([f"q{i}" for i in range(10)], LETTERS)


def test_calls_at_the_same_time_are_as_many_as_asked_for(server: Server) -> None:
    """Each waits until all three are there; a fourth does not come along."""
    together, most, now, lock = threading.Barrier(3, timeout=5), [0], [0], threading.Lock()

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        together.wait()
        with lock:
            now[0] -= 1
        return says("A")

    server.answer = answer
    assert judge(server, concurrency=3).choose([f"q{i}" for i in range(9)], LETTERS) == [1.0] * 9
    assert most == [3]
