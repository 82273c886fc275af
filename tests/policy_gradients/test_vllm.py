"""Runs whose completions a vLLM server samples: with the policy's weights, whatever happens to the server."""

import itertools
import json
import os
import signal
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from json_server import running
from safetensors.torch import load_file
from steps_by_hand import save_tiny
from vllm_server import FakeVllm

from policy_gradients.config import PolicyGradientConfig
from policy_gradients.rollout import Batch
from policy_gradients.train import DEFAULT, read, train
from policy_gradients.update import PolicyLearner
from rlhf.config.command import read_command
from rlhf.errors import ServerGoneError, UserError
from rlhf.evaluate.task import proportion
from rlhf.run.interrupts import Stopped
from rlhf.sampling import SampledCompletions, sample
from rlhf.servers import vllm_sampler
from rlhf.servers.completions import seed_of

SETTINGS = [
    *("--profile", "laptop", "--quiet", "--sampler", "vllm", "--eval_problems", "1", "--save_every", "99"),
    *("--prompts_per_step", "2", "--group_size", "3", "--max_new_tokens", "5", "--max_steps", "3", "--lr", "0.01"),
    *("--reward_weights.exact", "0", "--reward_functions"),
]
ROUNDING = 1e-4  # nats; a step of this learning rate moves them by 0.1 and more


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture
def server(model: Path) -> Generator[FakeVllm]:
    with running(FakeVllm(model, rank=16)) as started:
        yield started


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Generator[Callable[..., Path]]:
    """A function that trains with a server, and returns the run's directory."""
    runs = tmp_path_factory.mktemp("runs")
    function = runs / "mine.py"
    function.write_text("import zlib\ndef mine(prompt, completion):\n    return zlib.crc32(completion.encode()) % 97\n")

    def go(server: FakeVllm, *arguments: str, name: str = "run") -> Path:
        argv = [*SETTINGS, f"{{'{function}:mine': 0.01}}", "--model_name", str(model), "--vllm_url", server.address]
        argv += [*arguments, "--output_dir", str(runs / name)]
        command = read_command(PolicyGradientConfig, argv, prog="", description="", default_config=DEFAULT, environ={})
        assert train(command).finished
        return runs / name

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlhf.run.session.write_report", lambda path: path)
        patch.setattr("rlhf.evaluate.held_out.evaluate_task", lambda *_, **__: proportion(0, 1, data="d", metric="m"))
        patch.setattr(vllm_sampler, "LONGEST_WAIT_S", 0.01)
        yield go


@pytest.fixture(scope="module")
def undisturbed(run: Callable[..., Path], model: Path) -> Path:
    with running(FakeVllm(model)) as server:
        made = run(server, "--temperature", "0.7", name="undisturbed")
    assert server.count("/collective_rpc") == 3
    return made


def gaps(run: Path) -> list[float]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["sampler/logp_gap"] for line in lines]


def equal(a: Path, b: Path) -> bool:
    """Whether both runs ended with the same weights."""
    of_a, of_b = (load_file(run / "final" / "model.safetensors") for run in (a, b))
    return all(torch.equal(of_a[name], of_b[name]) for name in of_a)


def test_each_step_samples_from_the_policy_as_it_is(undisturbed: Path, model: Path) -> None:
    """At the temperature of the run; one set of weights a step travels (see the fixture), and nothing of it is left."""
    assert max(gaps(undisturbed)) < ROUNDING
    assert not (undisturbed / "vllm_weights").exists()
    trained = load_file(undisturbed / "final" / "model.safetensors")
    assert not all(
        torch.equal(trained[name], weight) for name, weight in load_file(model / "model.safetensors").items()
    )


def test_weights_that_are_not_sent_show_in_the_gap(run: Callable[..., Path], server: FakeVllm) -> None:
    server.post_collective_rpc = lambda _: (200, {"results": [None]})  # type: ignore[method-assign]
    first, second = gaps(run(server, "--max_steps", "2", name="not_sent"))
    assert first < ROUNDING
    assert second > 0.01


def test_adapters_travel_alone(run: Callable[..., Path], server: FakeVllm) -> None:
    assert max(gaps(run(server, "--lora_rank", "4", "--max_steps", "2", name="lora"))) < ROUNDING
    assert (server.count("/v1/load_lora_adapter"), server.count("/collective_rpc")) == (2, 0)


def test_a_server_that_goes_and_comes_back_has_the_weights_again(
    run: Callable[..., Path], undisturbed: Path, server: FakeVllm, capfd: pytest.CaptureFixture[str]
) -> None:
    """The first five calls of step 2 fail. In step 3 none does: the server comes back, with its first weights, between
    the weights and the completions. The run goes on as if nothing had been, and says once of each what there was."""
    completing, failing = server.post_completions, [503] * 5
    seen: list[int] = []  # seeds: one of each prompt, two a step

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        if body["seed"] not in seen:
            seen.append(body["seed"])
            if len(seen) == 5:
                server.start()
        if len(seen) > 2 and failing:
            return failing.pop(), "starting"
        return completing(body)

    server.post_completions = answer  # type: ignore[method-assign]
    assert equal(run(server, "--temperature", "0.7", name="troubled"), undisturbed)
    said = capfd.readouterr().out
    assert said.count("does not answer (status 503: starting): waiting for up to 10 minutes") == 1
    assert said.count("does not answer (it has other weights than it was sent") == 1
    assert said.count("vLLM is back after") == 2


def test_a_run_that_waits_in_vain_is_saved_and_goes_on_later(
    run: Callable[..., Path],
    undisturbed: Path,
    model: Path,
    server: FakeVllm,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server goes after step 2. Another one, which has the first weights, continues the run to the same end."""
    clock = itertools.count(step=150)  # seconds
    monkeypatch.setattr(vllm_sampler, "monotonic", lambda: next(clock))
    with running(FakeVllm(model)) as leaving:
        leaving.post_completions = dying(leaving, after=4)  # type: ignore[method-assign]
        with pytest.raises(ServerGoneError, match=r"has not answered for 10 minutes") as caught:
            run(leaving, "--temperature", "0.7", name="vain")
    assert next(clock) == 5 * 150
    assert "--resume" in str(caught.value.hint)
    assert "saved after step 2; --resume continues" in capfd.readouterr().out
    made = run(server, "--temperature", "0.7", "--resume", name="vain")
    assert "resumed at step 2 of 3" in capfd.readouterr().out
    assert len(gaps(made)) == 3
    assert equal(made, undisturbed)


def dying(server: FakeVllm, *, after: int) -> Callable[[dict[str, Any]], tuple[int, Any]]:
    completing = server.post_completions

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        return completing(body) if server.count("/v1/completions") <= after else (503, "dying")

    return answer


def test_a_signal_ends_the_waiting(
    run: Callable[..., Path], server: FakeVllm, capfd: pytest.CaptureFixture[str]
) -> None:
    """The run is saved as it was after the last step."""
    completing = dying(server, after=4)

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        if server.count("/v1/completions") == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return completing(body)

    server.post_completions = answer  # type: ignore[method-assign]
    with pytest.raises(Stopped) as caught:
        run(server, name="stopped")
    assert caught.value.code == 128 + signal.SIGTERM
    assert "saved after step 2; --resume continues" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"longest": 20}, r"reads 20 tokens, and a prompt with max_new_tokens 5 takes \d+. --max-model-len raises it"),
        ({"failures": [500]}, r"does not complete a prompt \(status 500: broken\)"),
    ],
)
def test_what_no_waiting_mends_ends_the_run_at_once(
    run: Callable[..., Path], server: FakeVllm, change: dict[str, Any], what: str
) -> None:
    for name, value in change.items():
        setattr(server, name, value)
    with pytest.raises(UserError, match=what):
        run(server, name="refused")


def test_another_model_is_refused_by_its_log_probabilities(
    run: Callable[..., Path], server: FakeVllm, tmp_path: Path
) -> None:
    server.folder = save_tiny(tmp_path / "other", seed=1)
    server.start()
    server.post_collective_rpc = lambda _: (200, {"results": [None]})  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"says log-probabilities that are \d.\d\d nats a token away"):
        run(server, name="refused")


# ------------------------------------------------------------ sampling while training

AHEAD = ("--staleness", "1", "--algorithm", "rloo", "--importance", "truncate", "--save_every", "1", "--max_steps", "4")


@pytest.fixture(scope="module")
def one_after_the_other(run: Callable[..., Path], model: Path) -> Path:
    """A run with staleness 1 of the own sampler, which draws what the server would draw."""

    def as_served(model, prompts, *, completions: int, keys, batch: None, **how: Any) -> list[SampledCompletions]:
        sampled = []
        for prompt, key in zip(prompts, keys, strict=True):
            numbered = [(seed_of(key) + i,) for i in range(completions)]
            each = [sample(model, [prompt], completions=1, keys=[one], **how)[0] for one in numbered]
            parts = [[it.tokens[0] for it in each], [it.logp[0] for it in each], [it.truncated[0] for it in each]]
            sampled.append(SampledCompletions(*parts))
        return sampled

    with running(FakeVllm(model)) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(vllm_sampler, "VllmSampler", lambda *_: None)
        patch.setattr("policy_gradients.sampler.sample", as_served)
        made = run(server, *AHEAD, name="one_after_the_other")
    assert not server.calls
    return made


def logged(run: Path, *names: str) -> list[list[float]]:
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [[record[name] for name in names] for record in records]


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeVllm]:
    """A function that has a server complete the prompts of batch k + 1 only once step k is taken.

    So nothing is computed in two threads of this process at once: which kernel attention takes is of the process.
    """
    update, steps_taken = PolicyLearner.update, []
    seen: list[int] = []  # seeds: one of each prompt, two a batch

    def counted(self: PolicyLearner, mini_batch: Batch, *, lr: float) -> None:
        update(self, mini_batch, lr=lr)
        steps_taken.append(lr)

    def make(server: FakeVllm, *, restarts_at: int = 0) -> FakeVllm:
        completing = server.post_completions

        def answer(body: dict[str, Any]) -> tuple[int, Any]:
            if body["seed"] not in seen:
                seen.append(body["seed"])
                give_up = time.monotonic() + 60
                while len(steps_taken) < (len(seen) - 1) // 2:
                    assert time.monotonic() < give_up, "it is waited for, but no step is taken"
                    time.sleep(0.01)
                if len(seen) == restarts_at:
                    server.start()
            return completing(body)

        server.post_completions = answer  # type: ignore[method-assign]
        return server

    monkeypatch.setattr(PolicyLearner, "update", counted)
    return make


def test_a_server_samples_the_next_batch_while_this_one_is_trained_on(
    run: Callable[..., Path], one_after_the_other: Path, server: FakeVllm, late: Callable[..., FakeVllm]
) -> None:
    """Its completions come once the step is taken, and yet the policy from before the step has made them: the run ends
    as one that samples and trains in turns. In the third batch the server is started anew, so that it has its first
    weights; before the fourth it takes none at first. Those from before the step are sent again, though the policy has
    moved since."""
    loading, loads = server.post_collective_rpc, itertools.count(1)
    server.post_collective_rpc = lambda body: (503, "busy") if next(loads) == 5 else loading(body)  # type: ignore
    made = run(late(server, restarts_at=6), *AHEAD, name="ahead")
    assert next(loads) == 8, "one at the start, one a step, two again"
    assert equal(made, one_after_the_other)
    whole = ("sampler/age", "policy/importance", "reward/mean")
    assert logged(made, *whole) == logged(one_after_the_other, *whole)
    assert [age for age, *_ in logged(made, *whole)] == [0, 1, 1, 1]
    assert len({round(weight, 6) for _, weight, _ in logged(made, *whole)}) == 4, "the policy has moved"


def test_a_run_that_samples_ahead_goes_on_where_it_was_stopped(
    run: Callable[..., Path], one_after_the_other: Path, server: FakeVllm, model: Path, late: Callable[..., FakeVllm]
) -> None:
    """The checkpoint has the batch that was begun. Another server continues the run to the same end."""
    run(late(server), *AHEAD, "--max_steps", "2", name="ahead_stopped")
    with running(FakeVllm(model)) as other:
        made = run(late(other), *AHEAD, "--resume", name="ahead_stopped")
    assert equal(made, one_after_the_other)
    assert [age for (age,) in logged(made, "sampler/age")] == [0, 1, 1, 1]
    assert [drawn for (drawn,) in logged(made, "groups/drawn")] == [2, 2, 2, 2]
    assert all(tokens for (tokens,) in logged(made, "sampler/tokens"))


def test_a_batch_that_is_lost_with_its_server_is_sampled_when_the_run_goes_on(
    run: Callable[..., Path], model: Path, server: FakeVllm, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    """The server goes while it samples the third batch: the checkpoint of step 2 waits for it in vain, once."""
    clock = itertools.count(step=150)  # seconds
    monkeypatch.setattr(vllm_sampler, "monotonic", lambda: next(clock))
    with running(FakeVllm(model)) as leaving:
        leaving.post_completions = dying(leaving, after=4)  # type: ignore[method-assign]
        with pytest.raises(ServerGoneError, match=r"has not answered for 10 minutes"):
            run(leaving, *AHEAD, name="ahead_lost")
    assert next(clock) == 5 * 150
    assert "saved after step 2; --resume continues" in capfd.readouterr().out
    made = run(server, *AHEAD, "--resume", name="ahead_lost")
    assert [age for (age,) in logged(made, "sampler/age")] == [0, 1, 0, 1]


# ------------------------------------------------------------ what is said beforehand


def test_the_plan_says_who_samples() -> None:
    from policy_gradients.train import plan

    server = ["--sampler", "vllm", "--vllm_url", "http://h:1"]
    own, by_vllm = (plan(read(["--profile", "laptop", "--eval_problems", "7", *it]).config) for it in ([], server))
    assert "sampled by vLLM at http://h:1" in by_vllm.size
    assert "vLLM" not in own.size
    assert [need.why for need in by_vllm.memory if need.what == "key-value cache"] == [
        "7 completions of 64 tokens at once, of prompts of 256"
    ]
