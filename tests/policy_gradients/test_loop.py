"""What the loop writes down of a run, and what it asks of evaluation."""

import json
from pathlib import Path

import pytest
import yaml
from policy_gradient_steps import SETTINGS, G
from steps_by_hand import check_log

from policy_gradients.diagnostics import OF_VERDICTS
from rlhf.evaluate.task import proportion
from rlhf.run.tracking import read_records


@pytest.mark.parametrize(
    "extra",
    [
        ["grpo", "--kl_coef", "0.1", "--importance", "truncate", "--steps_per_batch", "2", "--epochs_per_batch", "2"],
        ["ppo", "--kl_coef", "0.1"],
        ["reinforce", "--kl_coef", "0"],
        ["dapo", "--kl_coef", "0"],
    ],
    ids=lambda extra: extra[0],
)
def test_what_is_written_down_of_a_run(run, tmp_path: Path, extra: list[str]) -> None:
    done = run("--algorithm", *extra, "--max_steps", "2", "--lr", "0.01")
    folder = tmp_path / "run"
    check_log(folder, ["reward/exact", "length/mean"], steps=done.of("policy"))
    assert json.loads((folder / "provenance.json").read_text())["title"].startswith(f"{extra[0].upper()} on ")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["kl_coef"] == float(extra[2])
    assert config["output_dir"] == str(folder)
    for record, batch in zip(done.metrics, done.batches, strict=True):
        seconds = sum(value for key, value in record.items() if key.startswith("time/"))
        assert {key for key in record if key.startswith("time/")} == {
            *("time/sampling_s", "time/scoring_s", "time/update_s")
        }
        assert record["speed/tokens_per_s"] * seconds == pytest.approx(int(batch.length.sum()))
        assert record["groups/drawn"] == 4 or extra[0] == "dapo"
        assert record["reward/mean"] == pytest.approx(float(batch.reward.mean()))
        assert record["length/mean"] == pytest.approx(float(batch.length.double().mean()))
        assert ("policy/importance" in record) == ("--importance" in extra)
        assert ("policy/kl_coef" in record) == ("policy/kl" in record) == (float(extra[2]) > 0)
        assert ("policy/ratio_max" in record) == (extra[0] != "reinforce")


def test_samples_are_of_the_first_step_the_last_and_every_so_many(run, tmp_path: Path) -> None:
    """The first completion of up to four prompts, as it was rewarded."""
    done = run("--algorithm", "reinforce", "--kl_coef", "0", "--max_steps", "5", "--sample_every", "2")
    samples = read_records(tmp_path / "run" / "samples.jsonl")
    assert [sample["step"] for sample in samples] == [step for step in (1, 2, 4, 5) for _ in range(4)]
    shown = [rollout for k in (0, 1, 3, 4) for rollout in done.batches[k].rollouts]
    for sample, rollout in zip(samples, shown, strict=True):
        assert sample["prompt"] == rollout.problem.question
        assert sample["completion"] == rollout.texts[0]
        assert sample["total"] == pytest.approx(rollout.reward[0])


def test_evaluation_samples_the_policy_that_is_trained(run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of each task, at the temperature, top_k and top_p of training, cut where training cuts."""
    asked: list[dict] = []

    def evaluate_task(_model, _tokenizer, task, problems, _accelerator, **named) -> dict:
        asked.append({"task": task.name, "problems": len(problems), **named})
        return proportion(1, 2, data=task.name, metric="accuracy_greedy" if named["greedy"] else "accuracy")

    monkeypatch.setattr("rlhf.evaluate.held_out.evaluate_task", evaluate_task)
    assert str(G) in SETTINGS
    extra = ["--algorithm", "reinforce", "--kl_coef", "0", "--max_steps", "2", "--eval_every", "1", "--top_k", "7"]
    extra += ["--top_p", "0.9", "--stop_at", "answer", "--eval_problems", "3"]
    run(*extra, "--tasks", "{spell_backward: {weight: 1}, step_arithmetic: {weight: 1}}")
    both = ["spell_backward", "step_arithmetic"]
    assert [(call["task"], call["greedy"]) for call in asked] == [
        (task, greedy) for greedy in (False, True, False, False, True) for task in both
    ]
    for call in asked:
        drawn = (call["temperature"], call["top_k"], call["top_p"], call["stop_at"], call["max_new_tokens"])
        assert drawn == (0.8, 7, 0.9, "answer", 7)
        assert call["problems"] == 3
        assert call["system_prompt"] is None
    records = read_records(tmp_path / "run" / "eval.jsonl")
    assert [(r["step"], r["data"], r["metric"]) for r in records] == [
        (step, task, metric)
        for step, metric in (
            *((0, "accuracy"), (0, "accuracy_greedy"), (1, "accuracy"), (2, "accuracy"), (2, "accuracy_greedy")),
        )
        for task in both
    ]


def test_without_answers_a_run_speaks_of_rewards(run, tmp_path: Path) -> None:
    """Nothing in metrics, their descriptions and samples is right or wrong; DAPO draws by rewards that differ."""
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"Word {i}?", "topic": i}) + "\n" for i in range(20)))
    task = ["--task", "prompts", "--task_config", f"{{path: {file}}}", "--reward_weights.exact", "1"]
    done = run("--algorithm", "dapo", *task, "--max_steps", "2")
    (first, _) = done.metrics
    assert not OF_VERDICTS & first.keys()
    own = [components["mine"] for rollout in done.batches[0].rollouts for components in rollout.components]
    assert first["reward/mine"] == pytest.approx(sum(own) / len(own))
    folder = tmp_path / "run"
    described = json.loads((folder / "provenance.json").read_text())
    assert described["headline"] == ["reward/mean", "length/mean"]
    assert not OF_VERDICTS & described["metrics"].keys()
    samples = read_records(folder / "samples.jsonl")
    assert {*samples[0]} == {"step", "prompt", "completion", "reward", "total"}
