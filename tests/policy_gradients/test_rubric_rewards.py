"""A rubric as reward functions: a component for each criterion, counted calls, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from chat_server import says, serving
from commands import SMALL, Commands

from policy_gradients.config import RewardWeights
from policy_gradients.diagnostics import Adviser, describe_metrics
from policy_gradients.reward_functions import judge_metrics, load_functions
from policy_gradients.reward_loading import judge_models
from policy_gradients.rewards import RewardFunction
from policy_gradients.train import plan, read
from rlhf.errors import UserError
from rlhf.tasks.registry import open_task

CRITERIA = "rubric:\n  ends:\n    ask: Does it end?\n    weight: 3\n  short: Is it short?\n"


def write(folder: Path, model: str, text: str = CRITERIA) -> str:
    file = folder / "rubric.yaml"
    file.write_text(model + text)
    return str(file)


def test_a_run_is_paid_by_a_rubric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    """Half of its weight by 3/4 and 1/4; each criterion is logged, and so are calls, tokens and replies without a
    verdict, which count as not met and are said."""
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path / "cache"))

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        return says("Yes." if "Does it end?" in body["messages"][0]["content"] else "Perhaps.")

    run = tmp_path / "run"
    with serving() as server:
        server.answer = answer
        rubric = write(tmp_path, f"model: qwen3\nurl: {server.url}\n")
        own = ["--reward_functions", f"{{'{rubric}': 0.5}}", "--reward_weights.exact", "0", "--max_steps", "1"]
        own += ["--eval_problems", "1", "--prompts_per_step", "1", "--max_new_tokens", "12"]
        outcome = Commands(monkeypatch, capfd).policy_gradients(*SMALL, *own, "--output_dir", run)
        asked = len(server.asked)
    assert outcome.code == 0, outcome.err
    (metrics,) = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    assert (metrics["reward/ends"], metrics["reward/short"], metrics["reward/mean"]) == (1.0, 0.0, 0.375)
    assert metrics["judge/calls"] == asked
    assert metrics["judge/calls"] + metrics["judge/cached"] >= asked
    assert metrics["judge/malformed"] == asked / 2
    assert (metrics["judge/tokens_in"], metrics["judge/tokens_out"]) == (10 * asked, 2 * asked)
    assert "50.0% of the judges' replies are no verdict" in " ".join((outcome.out + outcome.err).split())


def test_a_model_here_needs_no_server(tmp_path: Path) -> None:
    """Probabilities of "yes", from one loading for all criteria; nothing is counted."""
    rubric = write(tmp_path, "model: embedded\n")
    task = open_task("step_arithmetic", {}, answer_in="think_tags")
    reward = RewardFunction(task, RewardWeights(), {rubric: 2.0})
    (problem,) = task.train_problems(seed=0, first=0, count=1)
    (components,) = reward.components([(problem, ["4", "five"])])
    assert all(0 < each[name] < 1 for each in components for name in ("ends", "short"))
    assert {name: reward.weights[name] for name in ("ends", "short")} == {"ends": 1.5, "short": 0.5}
    first, second = (reward.functions[name].function.rubric for name in ("ends", "short"))
    assert first is second
    assert judge_metrics(reward.functions.values(), Accelerator(cpu=True)) == {}
    assert judge_models([rubric, "mine.py:f"]) == ["embedded"]
    config = read(["--reward_functions", f"{{'{rubric}': 1}}"]).config
    assert {"reward/ends", "reward/short"} <= set(describe_metrics(config))
    in_memory = {need.what for need in plan(config).memory}
    assert "judge" in in_memory
    assert "reward model" not in in_memory


def test_criteria_have_names_of_their_own(tmp_path: Path) -> None:
    rubric = write(tmp_path, "model: embedded\n", "rubric:\n  exact: Is it exact?\n")
    task = open_task("step_arithmetic", {}, answer_in="think_tags")
    with pytest.raises(UserError, match="'exact' is the name of another component"):
        RewardFunction(task, RewardWeights(), {rubric: 1.0})
    with pytest.raises(UserError, match=r"reward_functions: .*rubric.yaml has no rubric"):
        load_functions({write(tmp_path, "model: embedded\n", ""): 1.0})


def test_unread_replies_are_said_once() -> None:
    adviser = Adviser()
    few = {"judge/malformed": 1.0, "judge/calls": 30.0, "judge/cached": 0.0}
    assert adviser.check(few) == []
    assert "10.0% of the judges' replies" in adviser.check({**few, "judge/malformed": 3.0})[0]
    assert adviser.check({**few, "judge/malformed": 3.0}) == []
