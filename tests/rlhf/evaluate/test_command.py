"""python -m rlhf.evaluate: what is asked, how, and what is written."""

import json
from pathlib import Path

import pytest
from accelerate import Accelerator
from talking import ADDITION, tiny_run

from rlhf.errors import UserError
from rlhf.evaluate import difficulty
from rlhf.evaluate.__main__ import main
from rlhf.evaluate.attempts import attempt
from rlhf.evaluate.task import evaluate_task
from rlhf.generate.settings import settings_for
from rlhf.generate.speaker import Speaker
from rlhf.models.reward_model import RewardModel
from rlhf.random_keys import of_training
from rlhf.tasks.by_difficulty import by_difficulty
from rlhf.tasks.problem import Problem, Verdict, messages_for
from rlhf.tasks.registry import open_task

SMALL = ["--problems", "3", "--samples", "4"]


class Lengths:
    """Right is an answer of an even length, which votes for its length."""

    name, verifies, fingerprint = "lengths", True, ""

    def train_problems(self, *, seed: int, first: int, count: int) -> list[Problem]:
        raise AssertionError("held-out problems only")

    def held_out_problems(self, count: int) -> list[Problem]:
        return [Problem(f"q{i}", "", {}) for i in range(count)]

    def verify(self, problem: Problem, completion: str) -> Verdict:
        return Verdict(float(len(completion) % 2 == 0), 1.0, 0.0, answer=str(len(completion)))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("runs")
    return {
        "one": tiny_run(folder / "one", system_prompt="Add.", answer_in="last_number", **ADDITION),
        "other": tiny_run(folder / "other", seed=1, temperature=0.5, answer_in="last_number", **ADDITION),
    }


def records(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_task_and_the_settings_are_the_run_s(runs: dict[str, str], tmp_path: Path, capsys) -> None:
    file = tmp_path / "eval.jsonl"
    assert main([runs["one"], runs["other"], *SMALL, "--output", str(file)]) == 0
    found = records(file)
    of_one = {it["metric"]: it for it in found if it["model"] == runs["one"]}
    assert list(of_one) == [
        "accuracy_greedy", "avg@4", "pass@1", "pass@2", "pass@4", "majority@1", "majority@2", "majority@4",
    ]  # fmt: skip
    assert all(it["data"] == "basic_arithmetic" and it["n"] == 3 for it in found)
    told = of_one["pass@2"]["settings"]
    assert (told["system_prompt"], told["max_new_tokens"], told["temperature"]) == ("Add.", 6, 1.0)
    compared = [it for it in found if it.get("against") == runs["one"]]
    assert [it["metric"] for it in compared] == [f"{metric}_difference" for metric in of_one]
    assert all(it["won"] + it["lost"] + it["tied"] == 3 for it in compared)
    shown = capsys.readouterr().out
    assert f"{runs['one']}: system prompt 'Add.', temperature 1, up to 6 tokens" in shown
    assert f"{runs['other']} against {runs['one']}, on the same problems with the same random numbers" in shown


def test_difficulty_is_the_success_on_the_training_stream(runs: dict[str, str], tmp_path: Path, capsys) -> None:
    """A row a problem, with the share of right answers among those that training would sample at that place."""
    file = tmp_path / "difficulty.jsonl"
    asked = [runs["one"], "--problems", "6", "--samples", "3", "--seed", "5", "--output", str(file)]
    assert difficulty.main(asked) == 0
    task = open_task(ADDITION["task"], ADDITION["task_config"], answer_in="last_number")
    problems = task.train_problems(seed=5, first=0, count=6)
    found = records(file)
    assert [(it["seed"], it["number"], it["question"]) for it in found] == [
        (5, i, problem.question) for i, problem in enumerate(problems)
    ]
    settings = settings_for([runs["one"]], {})[runs["one"]]
    speaker = Speaker.open(runs["one"], settings, device="cpu", chat_template_kwargs={})
    conversations = [messages_for(problem, "Add.") for problem in problems]
    keys = [of_training(5, i) for i in range(6)]
    for it, problem, own in zip(found, problems, speaker.answers(conversations, keys, completions=3), strict=True):
        right = sum(task.verify(problem, answer.text).exact for answer in own)
        assert (it["success"], it["samples"]) == (right / 3, 3)
    assert "of 6 problems" in capsys.readouterr().out
    trained_on = by_difficulty(task, str(file), low=0, high=1, easiest_first=False)
    assert {it.question for it in trained_on.train_problems(seed=0, first=0, count=6)} == {p.question for p in problems}


def test_the_same_model_twice_has_no_difference(runs: dict[str, str], tmp_path: Path) -> None:
    """By another name: the same problems, and the same random numbers."""
    file = tmp_path / "eval.jsonl"
    main([runs["one"], f"{runs['one']}/final", *SMALL, "--output", str(file), "--samples", "8"])
    compared = [it for it in records(file) if "against" in it]
    assert compared
    assert all((it["value"], it["tied"]) == (0, 3) for it in compared)


def test_the_first_sample_is_the_one_of_a_run_s_own_evaluation(runs: dict[str, str]) -> None:
    settings = settings_for([runs["one"]], {"max_new_tokens": 9})[runs["one"]]
    speaker = Speaker.open(runs["one"], settings, device="cpu", chat_template_kwargs={})
    found = attempt(speaker, Lengths(), Lengths().held_out_problems(6), samples=3)
    for greedy, ours in ((False, found.sampled[:, 0]), (True, found.greedy)):
        own = evaluate_task(
            speaker.model,
            speaker.tokenizer,
            Lengths(),
            Lengths().held_out_problems(6),
            Accelerator(cpu=True),
            max_new_tokens=9,
            greedy=greedy,
            system_prompt="Add.",
        )
        assert own["value"] == ours.mean()
    assert found.votes is not None
    votes = [vote for own in found.votes for vote in own]
    assert [float(int(vote) % 2 == 0) for vote in votes] == found.sampled.flatten().tolist()
    assert {*found.sampled.flat} == {0.0, 1.0}, "the problems show a difference"


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"{i} + 1?", "answer": i + 1}) + "\n" for i in range(5)))
    return file


def test_all_prompts_of_a_file_are_held_out(runs: dict[str, str], prompts: Path, tmp_path: Path) -> None:
    file = tmp_path / "eval.jsonl"
    arguments = ["--data", str(prompts), "--task_config", "{match: number}", "--samples", "2"]
    assert main([runs["one"], *arguments, "--output", str(file)]) == 0
    assert {(it["data"], it["n"]) for it in records(file)} == {("prompts", 5)}


def test_what_a_run_was_trained_on_is_no_evaluation(prompts: Path, tmp_path: Path) -> None:
    arguments = ["--data", str(prompts), "--task_config", "{match: number}", "--samples", "2"]
    own = {"task": "prompts", "task_config": {"path": str(prompts), "match": "number"}}
    for config in (own, {"data": {"path": str(prompts)}}, {"tasks": {"prompts": {"config": {"path": str(prompts)}}}}):
        run = tiny_run(tmp_path / f"run{len(str(config))}", **config)
        with pytest.raises(UserError, match="was trained on"):
            main([run, *arguments])


class ByLength(RewardModel):
    """An answer's reward is its length."""

    def __init__(self, *_, **__) -> None: ...

    def score(self, conversations) -> list[list[float]]:
        return [[float(len(answer.text)) for answer in answers] for _, answers in conversations]


def test_prompts_without_answers_need_a_reward_model(
    runs: dict[str, str], prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "eval.jsonl"
    data = ["--data", str(prompts), "--task_config", "{match: none}", "--samples", "2", "--output", str(file)]
    with pytest.raises(UserError, match="no answer is right or wrong"):
        main([runs["one"], *data])
    monkeypatch.setattr("rlhf.models.reward_model.RewardModel", ByLength)
    judged = ["--reward_model", "embedded-judge"]
    assert main([runs["one"], runs["other"], *data, *judged]) == 0
    values = {it["metric"]: it["value"] for it in records(file) if it["model"] == runs["one"]}
    assert list(values) == ["reward_greedy", "reward_avg@2", "reward_best@1", "reward_best@2"]
    assert values["reward_best@2"] > values["reward_best@1"] == values["reward_avg@2"] > 1
    with pytest.raises(UserError, match="are verified, and not scored"):
        main([runs["one"], *SMALL, *judged])
