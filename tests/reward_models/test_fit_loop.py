"""What fitting a reward model writes down, when it stops, and which weights it keeps."""

import json
from pathlib import Path

import pytest
import torch
from rm_commands import Commands
from safetensors.torch import load_file
from steps_by_hand import Step, check_log, record_steps, save_tiny

from reward_models import fit
from rlhf.run.tracking import read_records

SETTINGS = [
    *("--profile", "laptop", "--quiet", "--device", "cpu", "--batch_size", "4", "--lr_schedule", "constant"),
    *("--token_budget", "200", "--data.held_out", "4", "--data.validation", "4", "--extra_layers", "0"),
    *("--new_lr_factor", "1", "--warmup_steps", "0", "--save_every", "99"),
]
KINDS = ["preference", "outcome", "process"]
CRITERION = {"preference": "accuracy", "outcome": "auc", "process": "macro_f1"}


def rows(kind: str, count: int = 30) -> list[dict]:
    """What is right does not follow from the text, so that validation gets worse where training goes on for long."""
    made = []
    for i in range(count):
        question, good = f"{i * 7919 % 97} and {i}", (i * 37 % 11) % 2 == 0
        texts = ["yes" * (i % 3 + 1), "no" * (i % 2 + 1)]
        if kind == "preference":
            made.append({"prompt": question, "chosen": texts[not good], "rejected": texts[good]})
        elif kind == "outcome":
            made.append({"question": question, "completions": texts, "labels": [good, not good]})
        else:
            made.append({"prompt": question, "completions": ["one", *texts], "labels": [1, 1 if good else -1, 0]})
    return made


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    monkeypatch.setattr("rlhf.run.session.write_report", lambda path: path)
    return record_steps(monkeypatch, "reward_models.fit")


@pytest.fixture
def train(commands: Commands, tmp_path: Path, steps: list[Step]):
    def go(kind: str, *arguments: str) -> Path:
        data = tmp_path / "d.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows(kind)))
        where = ["--data.path", data, "--model_name", save_tiny(tmp_path / "model"), "--output_dir", tmp_path / "run"]
        outcome = commands.train(kind, *SETTINGS, *where, *arguments)
        assert outcome.code == 0, outcome.err
        return tmp_path / "run"

    return go


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_down_of_a_run(train, steps: list[Step], kind: str) -> None:
    """Held-out records before and after, baselines before alone; validation, by one metric and the loss, between."""
    run = train(kind, "--max_steps", "2", "--eval_every", "1", "--patience", "0", "--samples", "3", "--lr", "0.001")
    check_log(run, ["loss"], steps=steps)
    records = read_records(run / "eval.jsonl")
    by_data: dict[str, dict[int, set[str]]] = {}
    for record in records:
        by_data.setdefault(record["data"], {}).setdefault(record["step"], set()).add(record["metric"])
    assert set(by_data) == {"held-out", "validation"}
    assert by_data["validation"] == {step: {CRITERION[kind], "loss"} for step in (1, 2)}
    before, after = by_data["held-out"][0], by_data["held-out"][2]
    assert set(by_data["held-out"]) == {0, 2}
    assert CRITERION[kind] in after
    assert after < before
    assert any("_length" in metric or "majority" in metric for metric in before - after), "the baselines"
    samples = read_records(run / "samples.jsonl")
    assert [sample["step"] for sample in samples] == [0] * 3 + [2] * 3
    assert {sample["prompt"] for sample in samples} <= {row.get("prompt") or row["question"] for row in rows(kind)}
    assert (run / "evaluation.html").is_file()
    for record in read_records(run / "metrics.jsonl"):
        assert {key for key in record if key.startswith("time/")} == {"time/data_s", "time/update_s"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("patience", [0, 2])
def test_the_best_weights_by_validation_are_kept(train, steps: list[Step], kind: str, patience: int) -> None:
    """With patience the run stops where the loss has not got better for so many evaluations; without, it goes on, and
    the last weights are the ones."""
    extra = ["--max_steps", "9", "--eval_every", "1", "--patience", str(patience), "--lr", "0.05", "--samples", "0"]
    run = train(kind, *extra)
    losses = {
        record["step"]: record["value"]
        for record in read_records(run / "eval.jsonl")
        if (record["data"], record["metric"]) == ("validation", "loss")
    }
    assert list(losses) == list(range(1, len(steps) + 1))
    best, stop = 1, 9
    for step in losses:
        best = step if losses[step] < losses[best] else best
        if patience and step - best >= patience:
            stop = step
            break
    assert len(steps) == stop
    if patience:
        assert stop < 9, "it did not stop, so that nothing was tested"
    kept = steps[(best if patience else stop) - 1].after
    final = load_file(run / "final" / "model.safetensors")
    for name, weight in kept.items():
        name = name.removeprefix("model.") if name not in final and name.startswith("model.model.") else name
        torch.testing.assert_close(final[name], weight)
    assert not list(run.glob("samples.jsonl"))


def test_scores_are_put_on_one_scale_by_mean_and_spread() -> None:
    """Of the first number at the last token: 1, 2 and 6 have mean 3 and, over n - 1, variance 7."""
    found = [(torch.zeros(1, 2), torch.tensor([x, 99.0])) for x in (1.0, 2.0, 6.0)]
    assert fit.statistics(found) == {"mean": pytest.approx(3.0), "std": pytest.approx(7**0.5)}


@pytest.mark.parametrize("shared", ["true", "false"])
def test_what_shared_rows_save_is_the_prompts_but_one(train, steps: list[Step], shared: str) -> None:
    """Two answers to each question: its prompt once instead of twice."""
    run = train("outcome", "--max_steps", "1", "--patience", "0", "--shared_prefix", shared, "--samples", "0")
    (record,) = read_records(run / "metrics.jsonl")
    assert (0.1 < record["rows/tokens_saved"] < 0.5) if shared == "true" else record["rows/tokens_saved"] == 0
