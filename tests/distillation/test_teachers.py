"""Who teaches what, what a teacher sees, and which teachers are refused."""

import json
from pathlib import Path

import pytest
import torch
from steps_by_hand import save_tiny
from transformers import AutoTokenizer

import distillation
from distillation.batches import is_on_policy
from distillation.config import DistillationConfig
from distillation.teacher_prompts import teacher_messages
from distillation.teachers import refuse_other_vocabulary
from rlhf.embedded.make import character_tokenizer
from rlhf.errors import UserError
from rlhf.run.tracking import read_records
from rlhf.tasks.problem import Problem, Verdict

RIGHT, WRONG = Verdict(1.0, 1.0, 1.0), Verdict(0.0, 1.0, 0.0)
SHORT = {
    "profile": "laptop",
    "device": "cpu",
    "precision": "fp32",
    "max_steps": 2,
    "eval_problems": 2,
    "eval_every": 0,
    "prompts_per_step": 4,
    "group_size": 2,
    "max_new_tokens": 4,
}


@pytest.fixture(autouse=True)
def _own_cache_and_no_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("rlhf.run.session.write_report", lambda path: path)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    return [str(save_tiny(folder / str(seed), seed=seed)) for seed in range(3)]


# --------------------------------------------------------------------------------------------------------- vocabularies


def test_a_teacher_of_another_vocabulary_is_refused_with_the_tokens_that_differ(models: list[str], tmp_path) -> None:
    """Before the models are loaded: the folder of this teacher holds no weights."""
    other = character_tokenizer()
    other.add_tokens(["<new>"])
    other.save_pretrained(tmp_path / "teacher")
    (tmp_path / "teacher" / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    with pytest.raises(UserError, match="has another vocabulary") as refused:
        distillation.run(model=models[0], teacher=str(tmp_path / "teacher"), output_dir=tmp_path / "run", **SHORT)
    assert "1 of its tokens are not in the student ('<new>')" in refused.value.message
    assert not (tmp_path / "run").exists()


def test_equal_tokens_with_other_ids_are_another_vocabulary(models: list[str], tmp_path: Path) -> None:
    own = AutoTokenizer.from_pretrained(models[0])
    own.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    words = content["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"2 have other ids \('a', 'b'\)"):
        refuse_other_vocabulary(own, AutoTokenizer.from_pretrained(tmp_path), "teacher: 'x'")
    refuse_other_vocabulary(own, AutoTokenizer.from_pretrained(models[1]), "teacher: 'x'")


def test_a_bucket_for_no_token_is_refused(models: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="teacher_top_k 106: the model has 106 tokens"):
        distillation.run(model=models[0], teacher=models[1], teacher_top_k=106, output_dir=tmp_path / "run", **SHORT)


# ----------------------------------------------------------------------------------------------------- several teachers


@pytest.mark.parametrize(
    ("settings", "reader"),
    [
        ({"teacher_sees": "feedback", "objective": "reverse_kl"}, "teacher: '"),
        ({"on_policy_share": 0.0, "objective": "sequence", "texts": {"path": "texts.jsonl"}}, "the student"),
    ],
)
def test_more_than_a_model_reads_is_refused(tmp_path: Path, monkeypatch, settings: dict, reader: str) -> None:
    """Rotary positions beyond the last one would be computed without a word."""
    monkeypatch.chdir(tmp_path)
    model = save_tiny(tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 90}))
    row = {"prompt": "q" * 40, "completion": "a" * 90}
    (tmp_path / "texts.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=rf"{reader}.* is to read \d+ tokens, and the model .* reads 90 tokens at most"):
        distillation.run(model=str(model), output_dir=tmp_path / "run", **{**SHORT, **settings})


def test_prompts_are_checked_before_the_first_step(models: list[str], tmp_path: Path) -> None:
    rows = [{"prompt": f"\u2603 {i}?", "answer": str(i)} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = {"task": "prompts", "task_config": {"path": str(tmp_path / "rows.jsonl"), "match": "number"}}
    with pytest.raises(UserError, match="the model's tokenizer does not know"):
        distillation.run(model=models[0], teacher=models[1], output_dir=tmp_path / "run", **SHORT, **asked)


def test_each_task_has_its_own_teacher(models: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both score the tokens of their own task alone, on-policy and off."""
    asked: dict[str, set[str]] = {}
    plain = distillation.teachers.Teachers.states

    def states(self, name, answers):
        asked.setdefault(name, set()).update(one.candidates.problem.question.split()[0] for one in answers)
        return plain(self, name, answers)

    monkeypatch.setattr(distillation.teachers.Teachers, "states", states)
    result = distillation.run(
        model=models[0],
        tasks={"spell_backward": {}, "step_arithmetic": {}},
        teachers={"spell_backward": models[1], "step_arithmetic": models[2]},
        on_policy_share=0.5,
        texts={"problems": 8},
        output_dir=tmp_path / "run",
        **{**SHORT, "max_steps": 3},
    )
    assert asked == {models[1]: {"Spell"}, models[2]: {"Calculate"}}
    measured = {(record["data"], record["metric"]) for record in result.eval if record["step"] == 0}
    assert {("spell_backward", "teacher_accuracy"), ("step_arithmetic", "teacher_accuracy")} <= measured
    assert {record["texts/on_policy"] for record in result.metrics} - {0.0, 1.0}
    card = (result.path / "final" / "README.md").read_text()
    assert f"| algorithm | reverse_kl from {models[1]} + {models[2]} |" in card
    (teacher,) = [line for line in card.splitlines() if line.startswith("| spell_backward | teacher_accuracy |")]
    assert teacher.split(" | ")[3] == "-", "a teacher is measured before the first step, and not after the last"


def test_the_share_of_prompts_that_the_student_answers() -> None:
    def share(wanted: float, **settings: int) -> list[bool]:
        config = DistillationConfig(teacher="x", on_policy_share=wanted, **settings)
        return [is_on_policy(number, config) for number in range(8000)]

    assert not any(share(0.0))
    assert all(share(1.0))
    assert sum(share(0.3)) / 8000 == pytest.approx(0.3, abs=0.02)
    assert share(0.3) == share(0.3)
    assert share(0.3) != share(0.3, seed=1)


# -------------------------------------------------------------------------------------------------- what a teacher sees


def seen(sees: str, texts: list[str], verdicts: list[Verdict | None], **settings: str) -> list[str | None]:
    config = DistillationConfig(teacher_sees=sees, **settings)
    problem = Problem(question="Q?", answer="A", entry={}, prompt=({"role": "user", "content": "Q?"},))
    return [it and it[-1]["content"] for it in teacher_messages(problem, texts, verdicts, config)]


def test_an_attempt_is_a_right_one_and_never_the_one_that_is_scored() -> None:
    first, second, third = seen("attempt", ["a", "b", "c"], [WRONG, RIGHT, RIGHT])
    assert first is not None
    assert second is not None
    assert third is not None
    assert "solution is:\n\nb\n" in first
    assert "solution is:\n\nc\n" in second
    assert "solution is:\n\nb\n" in third
    assert all(text.startswith("Q?") for text in (first, second, third))
    assert seen("attempt", ["a", "b"], [WRONG, WRONG]) == [None, None]
    assert seen("attempt", ["a", "b"], [RIGHT, WRONG])[0] is None


def test_feedback_is_the_attempt_with_its_verdict() -> None:
    own = {"teacher_prompt": "{question}|{attempt}|{verdict}|{answer}"}
    assert seen("feedback", ["{a}", "b"], [WRONG, RIGHT], **own) == ["Q?|{a}|wrong|A", "Q?|b|correct|A"]


def test_without_a_reference_answer_there_is_nothing_to_show() -> None:
    assert seen("answer", ["a"], [None]) == [None]
    (shown,) = seen("answer", ["a"], [WRONG])
    assert shown is not None
    assert "The correct answer is A." in shown


# ----------------------------------------------------------------------------------------------- with adapters, results


def test_with_adapters_the_teacher_lies_under_them(models: list[str], tmp_path: Path) -> None:
    """The weights at the start, sharpened: no second model, and none of its layers moves."""
    result = distillation.run(
        model=models[0], teacher_temperature=0.3, lora_rank=2, lr=0.01, output_dir=tmp_path / "run", **SHORT
    )
    first, last = result.metrics[0], result.metrics[-1]
    assert first["teacher/reverse_kl"] > 0
    assert last["teacher/reverse_kl"] > 0
    assert torch.isfinite(torch.tensor([record["loss"] for record in result.metrics])).all()


def test_metrics_are_described_and_texts_are_sampled_once(models: list[str], tmp_path: Path) -> None:
    runs = []
    for name in ("one", "two"):
        runs.append(
            distillation.run(method="offline", model=models[0], teacher=models[1], output_dir=tmp_path / name, **SHORT)
        )
    assert runs[0].metrics[-1]["loss"] == runs[1].metrics[-1]["loss"]
    assert len(list((tmp_path / "cache" / "candidates").iterdir())) == 1
    described = json.loads((tmp_path / "one" / "provenance.json").read_text())["metrics"]
    assert set(runs[0].metrics[-1]) - {"step", "wall_s"} <= set(described)
    assert not {"reward/exact", "teacher/reverse_kl"} & set(described)
    assert [it["written_by"] for it in read_records(tmp_path / "one" / "samples.jsonl")][:1] == ["teacher"]
