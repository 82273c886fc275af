"""What a vLLM server answers, and what is refused of it."""

from collections.abc import Generator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from json_server import running
from steps_by_hand import save_tiny
from vllm_server import EVERY_PATH, FakeVllm

from policy_gradients.config import PolicyGradientConfig
from rlhf.errors import UserError
from rlhf.servers.completions import as_sampled, seed_of
from rlhf.servers.http import NoAnswerError
from rlhf.servers.look import refuse_missing_server
from rlhf.servers.vllm import Completion, VllmServer, serve_command

END = 1
ASKED = {"n": 2, "max_tokens": 3, "stop_token_ids": [END, 2]}


def sampled(*answer: Completion):
    return as_sampled(answer, ASKED, lambda what: UserError(what))


def test_end_tokens_stay_and_tell_whether_a_completion_was_cut() -> None:
    """The last token of a completion of full length may be its end, too."""
    made = sampled(Completion([5, END], [-0.1, -0.2], "stop"), Completion([5, 6, 7], [-1.0, -2.0, -3.0], "length"))
    assert made.tokens == [[5, END], [5, 6, 7]]
    assert made.logp == [[-0.1, -0.2], [-1.0, -2.0, -3.0]]
    assert made.truncated == [False, True]
    made = sampled(Completion([2], [-0.1], "stop"), Completion([5, 6, END], [-1.0, -2.0, -3.0], "stop"))
    assert made.truncated == [False, False]


WHOLE = Completion([END], [-1.0], "stop")


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (Completion([5, 6], [-1.0, -1.0], "stop"), "drops end tokens"),
        (Completion([5, 6], [-1.0, -1.0], "length"), "cuts at 2 tokens, wanted 3"),
        (Completion([END, 6, 7], [-1.0] * 3, "length"), r"goes on behind the end tokens \[1, 2\]"),
        (Completion([5, END], [-1.0], "stop"), "1 log-probabilities of 2 tokens"),
        (Completion([], [], "length"), "0 log-probabilities of 0 tokens"),
    ],
)
def test_answers_that_are_not_what_was_asked_for_are_errors(other: Completion, what: str) -> None:
    with pytest.raises(UserError, match=what):
        sampled(WHOLE, other)
    with pytest.raises(UserError, match="gives 1 completions of a prompt, wanted 2"):
        sampled(WHOLE)


def test_an_aborted_completion_is_asked_for_again() -> None:
    with pytest.raises(NoAnswerError, match="ended with 'abort'"):
        sampled(WHOLE, Completion([5], [-1.0], "abort"))


def test_seeds_leave_room_for_the_numbers_of_completions() -> None:
    """They are told apart by the key, and fit 64 bits with the number of a completion added."""
    seeds = {seed_of((seed, number)) for seed in range(3) for number in range(100)}
    assert len(seeds) == 300
    assert 2**58 < max(seeds) < 2**62


# ------------------------------------------------------------ looking at a server


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture
def server(model: Path) -> Generator[FakeVllm]:
    with running(FakeVllm(model)) as started:
        yield started


def look(server: FakeVllm, **settings: Any) -> None:
    given = {"sampler": "vllm", "vllm_url": server.address, "model_name": str(server.folder), **settings}
    refuse_missing_server(PolicyGradientConfig(**given))


def test_completions_come_in_the_order_of_their_numbers(server: FakeVllm) -> None:
    """And those of a number are the same alone, with the others, and behind an address that ends in /v1."""
    body = {"model": "tiny", "prompt": [5, 6], "seed": 9, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_tokens": 5}
    body |= {"stop_token_ids": [END], "ignore_eos": True, "return_token_ids": True}
    it = VllmServer(f"{server.address}/v1", timeout_s=5)
    first, second, third = it.complete({**body, "n": 3})
    assert it.complete({**body, "n": 1}) == [first]
    assert it.complete({**body, "n": 1, "seed": 10}) == [second]
    assert it.complete({**body, "n": 1, "seed": 11}) == [third]
    assert len({tuple(each.tokens) for each in (first, second, third)}) == 3


def test_a_server_that_can_do_it_is_taken(server: FakeVllm) -> None:
    look(server, temperature=0.7, top_p=0.9)
    server.mode = "raw_logprobs"
    look(server)
    server.rank = 16
    look(server, lora_rank=16)


@pytest.mark.parametrize(
    ("change", "settings", "what"),
    [
        ({"paths": ("/v1/chat/completions",)}, {}, "is no vLLM server that completes prompts"),
        ({"paths": ("/v1/completions",)}, {}, r"/collective_rpc is not there. VLLM_SERVER_DEV_MODE=1 opens it"),
        ({"paths": EVERY_PATH[:-1]}, {"lora_rank": 8}, "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"),
        ({}, {"lora_rank": 8}, "takes adapters up to rank 0, lora_rank is 8"),
        ({"mode": "raw_logprobs"}, {"temperature": 0.7}, "gives raw_logprobs, which are not .* at temperature 0.7"),
        ({"mode": "raw_logprobs"}, {"top_p": 0.9}, "top_p 0.9"),
        ({"mode": "raw_logprobs"}, {"top_k": 9}, "top_k 9"),
        ({"mode": "processed_logits"}, {}, "gives processed_logits"),
        ({"longest": 64}, {"max_new_tokens": 64}, "reads 64 tokens: no prompt fits with max_new_tokens 64"),
    ],
)
def test_a_server_that_cannot_do_it_is_refused(
    server: FakeVllm, change: dict[str, Any], settings: dict[str, Any], what: str
) -> None:
    for name, value in change.items():
        setattr(server, name, value)
    with pytest.raises(UserError, match=what) as caught:
        look(server, **settings)
    assert "logprobs-mode processed_logprobs" in str(caught.value.hint)


def test_the_hint_is_the_command_that_starts_a_server(model: Path) -> None:
    config = PolicyGradientConfig(
        sampler="vllm", vllm_url="http://127.0.0.1:9/v1", model_name=str(model), precision="fp32", lora_rank=12
    )
    with pytest.raises(UserError, match=r"http://127.0.0.1:9 cannot be reached \(ConnectError") as caught:
        refuse_missing_server(config)
    assert str(caught.value.hint).endswith(serve_command(str(model), lora_rank=12, precision="fp32"))
    assert f"vllm serve {model} --logprobs-mode processed_logprobs --dtype float32" in str(caught.value.hint)
    assert "--enable-lora --max-lora-rank 16" in str(caught.value.hint)


def test_a_server_of_web_pages_is_refused_in_one_line(model: Path) -> None:
    """A server of files answers with a page, as `python -m http.server` does."""
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as files:
        Thread(target=files.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        url = f"http://127.0.0.1:{files.server_port}"
        config = PolicyGradientConfig(sampler="vllm", vllm_url=url, model_name=str(model))
        with pytest.raises(UserError) as caught:
            refuse_missing_server(config)
        files.shutdown()
    assert caught.value.message.endswith("asks for the key in VLLM_API_KEY (status 404: Error response)")


def test_another_vocabulary_is_refused(server: FakeVllm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "post_tokenize", lambda _: (200, {"tokens": [1, 2, 3]}))
    with pytest.raises(UserError, match=r"has another vocabulary: a text of \d+ tokens has 3 there"):
        look(server)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"sampler": "vllm"}, "the address of the server is missing"),
        ({"vllm_url": "http://localhost:8000"}, "are for --sampler vllm"),
        ({"sampler": "vllm", "vllm_url": "localhost:8000"}, r"is no address; accepted: http\(s\)://HOST:PORT, for"),
        ({"sampler": "vllm", "vllm_url": "http://h", "temperature": 0.005}, "vLLM samples at 0.01"),
        ({"sampler": "vllm", "vllm_url": "http://h", "sampling_batch": 8}, "--max-num-seqs"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(settings: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        PolicyGradientConfig(**settings)
