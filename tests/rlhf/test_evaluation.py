"""Intervals against published values, and held-out accuracy of a policy whose answers are known."""

import pytest
import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from rlhf import evaluation
from rlhf.embedded.make import character_tokenizer, new_model
from rlhf.evaluation import evaluate_task, messages_for, proportion
from rlhf.sampling import Sampled
from rlhf.tasks.procedural import ProceduralTask
from rlhf.text.chat import encode_prompt


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    torch.manual_seed(0)
    return new_model(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1
    ).eval()


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3: Wilson without continuity correction
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
        (50, 100, 0.4038, 0.5962),
    ],
)
def test_wilson_intervals(successes: int, n: int, low: float, high: float) -> None:
    result = proportion(successes, n, data="words", metric="accuracy")
    assert (result["data"], result["metric"], result["n"]) == ("words", "accuracy", n)
    assert result["value"] == successes / n
    assert (result["low"], result["high"]) == (pytest.approx(low, abs=6e-5), pytest.approx(high, abs=6e-5))


def test_accuracy_counts_exact_answers(model, monkeypatch) -> None:
    """Of 8 held-out problems, the policy answers every second one right, with partial credit for the others."""
    task, tokenizer = ProceduralTask("spell_backward", {"min_word_len": 4, "max_word_len": 5}), character_tokenizer()
    problems = task.held_out_problems(8)
    texts = [
        f"<think>a</think><answer>{p.answer if i % 2 else p.answer[:-1]}</answer><|end|>"
        for i, p in enumerate(problems)
    ]
    asked = {}

    def answer(_model, prompts, **options) -> list[Sampled]:
        asked.update(options, prompts=prompts)
        ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
        return [Sampled([tokens], [[0.0] * len(tokens)], [False]) for tokens in ids]

    monkeypatch.setattr(evaluation, "sample", answer)
    for greedy, metric in ((True, "accuracy_greedy"), (False, "accuracy")):
        result = evaluate_task(
            model, tokenizer, task, problems, Accelerator(cpu=True), max_new_tokens=9, greedy=greedy, system_prompt="s"
        )
        assert (result["value"], result["n"], result["metric"]) == (0.5, 8, metric)
        assert asked["temperature"] == (0.0 if greedy else 1.0)
        assert asked["prompts"][3] == encode_prompt(tokenizer, messages_for(problems[3], "s"))
        assert len({tuple(key) for key in asked["keys"]}) == 8


def test_the_policy_that_is_trained_is_the_one_that_is_evaluated(model, monkeypatch) -> None:
    """At its temperature, top_k and top_p, which the record names where the model itself would be sampled otherwise."""
    task, tokenizer, asked = ProceduralTask("spell_backward"), character_tokenizer(), {}

    def answer(_model, prompts, **options) -> list[Sampled]:
        asked.update(options)
        return [Sampled([[1]], [[0.0]], [False]) for _ in prompts]

    monkeypatch.setattr(evaluation, "sample", answer)

    def evaluated(*, greedy: bool = False, **drawn) -> dict:
        accelerator, problems = Accelerator(cpu=True), task.held_out_problems(2)
        result = evaluate_task(model, tokenizer, task, problems, accelerator, max_new_tokens=4, greedy=greedy, **drawn)
        return {key: result[key] for key in ("temperature", "top_k", "top_p") if key in result}

    assert evaluated() == {}
    assert evaluated(temperature=0.6, top_p=0.9, top_k=0) == {"temperature": 0.6, "top_p": 0.9}
    assert (asked["temperature"], asked["top_p"], asked["top_k"]) == (0.6, 0.9, 0)
    assert evaluated(greedy=True, temperature=0.6, top_p=0.9) == {}
    assert asked["temperature"] == 0


def test_an_untrained_model_is_evaluated_the_same_twice(model) -> None:
    """The draws belong to the problem, so two policies are compared on the same ones."""
    tokenizer = character_tokenizer()
    task = ProceduralTask("spell_backward")
    arguments = (model, tokenizer, task, task.held_out_problems(5), Accelerator(cpu=True))
    first, second = (evaluate_task(*arguments, max_new_tokens=4, greedy=False) for _ in range(2))
    assert first == second
    assert first["value"] == 0
    assert first["low"] == pytest.approx(0, abs=1e-9)
    assert first["high"] == pytest.approx(0.4345, abs=1e-4)


def test_messages() -> None:
    problem = ProceduralTask("step_arithmetic").held_out_problems(1)[0]
    assert [m["role"] for m in messages_for(problem, None)] == ["user"]
    assert messages_for(problem, "be brief")[0] == {"role": "system", "content": "be brief"}
    assert messages_for(problem, "be brief")[1] == {"role": "user", "content": problem.question}
