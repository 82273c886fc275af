"""What the loop asks of others, and when: evaluation on a task, new pairs, what is written down of a run."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from alignment_commands import Commands, labelled, uneven_pairs, write_rows
from replacing import replace_everywhere
from steps_by_hand import Step, check_gradient, save_tiny, token_logp
from torch import Tensor
from torch.nn.functional import logsigmoid

import rlhf.evaluate.task
from direct_alignment import online
from direct_alignment.data import Example
from rlhf.embedded.make import character_tokenizer
from rlhf.evaluate.task import proportion
from rlhf.groups import Group
from rlhf.models.policy import load_policy
from rlhf.run.tracking import read_records
from rlhf.tasks.problem import Problem

BETA = 0.3
SETTINGS = [
    *("--profile", "laptop", "--device", "cpu", "--token_budget", "70", "--max_steps", "3", "--batch_size", "4"),
    *("--lr", "0.01", "--eval_samples", "2", "--max_new_tokens", "5", "--save_every", "99", "--data.held_out", "4"),
    *("--eval_every", "0", "--sample_every", "99"),
]


@pytest.fixture
def train(commands: Commands, tmp_path: Path, steps: list[Step]):
    """Runs of a few steps on pairs of unequal lengths; they end well."""
    data, model = write_rows(tmp_path / "d.jsonl", uneven_pairs(24)), save_tiny(tmp_path / "model")

    def go(*arguments: str | Path) -> str:
        where = ["--data.path", data, "--model_name", model, "--output_dir", tmp_path / "run"]
        outcome = commands.train(*SETTINGS, *where, *arguments)
        assert outcome.code == 0, outcome.err
        return outcome.out

    return go


def test_the_task_is_asked_as_the_config_says(train, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before and after, then greedily as well, and every second step; behind the same system prompt, with as much room,
    and the answers where the config looks for them."""
    asked: list[dict] = []

    def evaluate_task(_model, _tokenizer, task, problems, _accelerator, **named) -> dict:
        asked.append({"task": task, "problems": problems, **named})
        return proportion(1, 4, data=task.name, metric="accuracy_greedy" if named["greedy"] else "accuracy")

    replace_everywhere(monkeypatch, rlhf.evaluate.task.evaluate_task, evaluate_task)
    train(
        *("--quiet", "--loss", "dpo", "--eval_every", "2", "--eval_problems", "3", "--system_prompt", "Be brief."),
        *("--task", "spell_backward", "--task_config", "{min_word_len: 3, max_word_len: 4}", "--answer_in", "text"),
    )
    assert [call["greedy"] for call in asked] == [False, True, False, False, True]
    for call in asked:
        assert (call["system_prompt"], call["max_new_tokens"], len(call["problems"])) == ("Be brief.", 5, 3)
        (problem, *_) = call["problems"]
        assert 3 <= len(problem.answer) <= 4
        assert call["task"].verify(problem, problem.answer).exact == 1, "the whole text is the answer"


def test_samples_of_a_task_are_judged(train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of the first four problems, at the first step and the last; right or wrong is their number."""
    from rlhf.tasks.problem import Verdict
    from rlhf.tasks.procedural import ProceduralTask

    asked: list[Problem] = []

    def verify(_task: ProceduralTask, problem: Problem, completion: str) -> Verdict:
        asked.append(problem)
        return Verdict(float(len(asked) % 2), 1.0, 0.5)

    result = proportion(1, 4, data="d", metric="m")
    replace_everywhere(monkeypatch, rlhf.evaluate.task.evaluate_task, lambda *_, **__: result)
    monkeypatch.setattr(ProceduralTask, "verify", verify)
    train("--quiet", "--loss", "simpo", "--task", "spell_backward", "--eval_problems", "5")
    samples = read_records(tmp_path / "run" / "samples.jsonl")
    assert [sample["step"] for sample in samples] == [1] * 4 + [3] * 4
    assert [sample["total"] for sample in samples] == [1.0, 0.0] * 4
    for problem, sample in zip(asked, samples, strict=True):
        assert problem.question in sample["prompt"]
        assert sample["reward"]["logp"] < 0


def test_new_pairs_are_sampled_every_so_many_steps(
    train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, steps
) -> None:
    """Steps 0 and 2 of four; the steps between take them in turn. Log-ratios are against the model as it was loaded."""
    asked: list[int] = []
    tokenizer = character_tokenizer()

    def fresh_pairs(*_, step: int, **__) -> list[Example]:
        asked.append(step)
        made = []
        for i in range(7):
            texts = [f"{step}{'a' * (i % 3)}", f"b{i}"]
            completions = [tokenizer.encode(text) for text in texts]
            counts = [[True] * len(own) for own in completions]
            made.append(Example(Group(tokenizer.encode(f"{step} {i}"), completions, counts), (True, False)))
        return made

    replace_everywhere(monkeypatch, online.fresh_pairs, fresh_pairs)
    result = proportion(1, 4, data="d", metric="m")
    replace_everywhere(monkeypatch, rlhf.evaluate.task.evaluate_task, lambda *_, **__: result)
    extra = ["--loss", "dpo", "--beta", str(BETA), "--online_every", "2", "--max_steps", "4"]
    train("--quiet", *extra, "--task", "spell_backward", "--eval_problems", "2")
    assert asked == [0, 2]
    initial = load_policy(str(tmp_path / "model"))

    def sums(model: torch.nn.Module, pairs: list[Example]) -> Tensor:
        return torch.stack([token_logp(model, e.group.prompt, c).sum() for e in pairs for c in e.group.completions])

    assert len(steps) == 4
    for number, step in enumerate(steps):
        buffer = fresh_pairs(step=number // 2 * 2)
        pairs = [buffer[i % 7] for i in range(number % 2 * 4, number % 2 * 4 + 4)]
        model = step.at()
        with torch.no_grad():
            reference = sums(initial, pairs)
        s = sums(model, pairs) - reference
        check_gradient(step, model, -logsigmoid(BETA * (s[0::2] - s[1::2])).mean())
    assert [record["online/pairs"] for record in read_records(tmp_path / "run" / "metrics.jsonl")] == [7.0] * 4


@pytest.mark.parametrize("loss", ["dpo", "kto", "simpo"])
def test_what_is_written_down_of_a_run(train, tmp_path: Path, loss: str) -> None:
    """Every metric is described, the headline is among them, and the config leaves nothing open."""
    said = train("--loss", loss, "--task", "none")
    run = tmp_path / "run"
    provenance = json.loads((run / "provenance.json").read_text())
    logged = {key for record in read_records(run / "metrics.jsonl") for key in record} - {"step", "wall_s"}
    assert logged <= set(provenance["metrics"])
    assert set(provenance["headline"]) <= logged
    assert provenance["headline"] == ["loss", "reward/accuracy", "reward/margin"]
    assert provenance["title"] == f"{loss.upper()} on {tmp_path / 'd.jsonl'}"
    assert ("kto/z" in logged) == (loss == "kto")
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["beta"] == {"dpo": 0.1, "kto": 0.1, "simpo": 2.0}[loss]
    assert config["reference"] is not None
    last = read_records(run / "metrics.jsonl")[-1]
    line = next(line for line in said.splitlines() if re.search(r"\b3/3\b|step 3\b", line) and "loss" in line)
    assert f"loss {last['loss']:.3f}" in line
    assert f"accuracy {last['reward/accuracy']:.2f}" in line


def test_labels_out_of_balance_are_said_once(train, tmp_path: Path) -> None:
    """KTO's weights, by what is trained on."""
    rows = [row | {"label": i % 4 == 0} for i, row in enumerate(labelled(40))]
    said = train("--loss", "kto", "--task", "none", "--data.path", write_rows(tmp_path / "labelled.jsonl", rows))
    assert said.count("desirable_weight") == 1


def test_the_speed_is_of_the_tokens_that_are_trained_on(train, tmp_path: Path) -> None:
    """Tokens of completions that count, of a step, over its seconds."""
    train("--quiet", "--loss", "dpo", "--task", "none")
    for record in read_records(tmp_path / "run" / "metrics.jsonl"):
        seconds = sum(value for key, value in record.items() if key.startswith("time/"))
        tokens = 4 * (record["length/chosen"] + record["length/rejected"])
        assert record["speed/tokens_per_s"] * seconds == pytest.approx(tokens)
