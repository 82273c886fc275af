"""Intervals against published values, and held-out accuracy of a policy whose answers are known."""

from contextlib import contextmanager

import pytest
import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from rlhf.embedded.make import character_tokenizer, new_model
from rlhf.evaluate import task as evaluation
from rlhf.evaluate.task import evaluate_task, proportion
from rlhf.generate import answers
from rlhf.random_keys import of_evaluation
from rlhf.sampling import SampledCompletions
from rlhf.statistics import record, t_interval
from rlhf.tasks.problem import Problem, Verdict, messages_for
from rlhf.tasks.procedural import ProceduralTask
from rlhf.text.chat import encode_prompt, end_tokens


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

    def answer(_model, prompts, **options) -> list[SampledCompletions]:
        asked.update(options, prompts=prompts)
        ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
        return [SampledCompletions([tokens], [[0.0] * len(tokens)], [False]) for tokens in ids]

    monkeypatch.setattr(answers, "sample", answer)
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

    def answer(_model, prompts, **options) -> list[SampledCompletions]:
        asked.update(options)
        return [SampledCompletions([[1]], [[0.0]], [False]) for _ in prompts]

    monkeypatch.setattr(answers, "sample", answer)

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


class Recorder:
    """Answers are judged by what is written here; what is asked is kept."""

    name, verifies = "recorded", True

    def __init__(self, verdicts: list[Verdict]):
        self.verdicts, self.asked = iter(verdicts), []

    def verify(self, problem: Problem, completion: str) -> Verdict:
        self.asked.append((problem.question, completion))
        return next(self.verdicts)

    fingerprint = ""

    def train_problems(self, *, seed: int, first: int, count: int) -> list[Problem]:
        return []

    def held_out_problems(self, count: int) -> list[Problem]:
        return [Problem(f"q{i}", "", {}) for i in range(count)]


def recorded(model, monkeypatch, texts: list[str], verdicts: list[Verdict], **options) -> tuple[dict, Recorder, dict]:
    """The record, what was verified, and what was asked of `sample`."""
    task, tokenizer, asked = Recorder(verdicts), character_tokenizer(), {}

    def answer(_model, prompts, **given) -> list[SampledCompletions]:
        asked.update(given, prompts=prompts)
        ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
        return [SampledCompletions([tokens], [[0.0] * len(tokens)], [False]) for tokens in ids]

    monkeypatch.setattr(answers, "sample", answer)
    settings = {"max_new_tokens": 9, "greedy": False} | options
    problems = task.held_out_problems(len(texts))
    result = evaluate_task(model, tokenizer, task, problems, Accelerator(cpu=True), **settings)
    return result, task, asked


RIGHT, WRONG = Verdict(1.0, 1.0, 1.0), Verdict(0.0, 1.0, 0.9)


def test_one_completion_a_problem_with_draws_of_its_own(model, monkeypatch) -> None:
    _, _, asked = recorded(model, monkeypatch, ["a", "b", "c"], [RIGHT] * 3)
    tokenizer = character_tokenizer()
    assert asked["completions"] == 1
    assert asked["max_new_tokens"] == 9
    assert asked["end_tokens"] == end_tokens(tokenizer)
    assert asked["keys"] == [of_evaluation(i) for i in range(3)]
    assert asked["prompts"] == [encode_prompt(tokenizer, [{"role": "user", "content": f"q{i}"}]) for i in range(3)]
    assert (asked["temperature"], asked["top_k"], asked["top_p"]) == (1.0, 0, 1.0)


def test_greedy_is_the_most_likely_token_whatever_is_trained(model, monkeypatch) -> None:
    drawn = {"temperature": 0.7, "top_k": 5, "top_p": 0.8}
    record, _, asked = recorded(model, monkeypatch, ["a"], [RIGHT], greedy=True, **drawn)
    assert (asked["temperature"], asked["top_k"], asked["top_p"]) == (0.0, 0, 1.0)
    assert not drawn.keys() & record.keys()
    record, _, asked = recorded(model, monkeypatch, ["a"], [RIGHT], **drawn)
    assert {key: asked[key] for key in drawn} == drawn
    assert {key: record[key] for key in drawn} == drawn


@pytest.mark.parametrize("stop_at", ["end", "answer"])
def test_what_is_judged_ends_where_training_stops(model, monkeypatch, stop_at: str) -> None:
    """At the end, or behind the first </answer>; all of it where there is none. The end token is not said."""
    texts = ["<answer>1</answer> or <answer>2</answer><|end|>", "<answer>3", "4</answer>"]
    _, task, _ = recorded(model, monkeypatch, texts, [RIGHT] * 3, stop_at=stop_at)
    whole = [text.removesuffix("<|end|>") for text in texts]
    cut = ["<answer>1</answer>", *whole[1:]]
    assert task.asked == [(f"q{i}", text) for i, text in enumerate(cut if stop_at == "answer" else whole)]


def test_the_end_is_where_judging_stops_unless_told(model, monkeypatch) -> None:
    text = "<answer>1</answer> or <answer>2</answer>"
    assert recorded(model, monkeypatch, [text], [RIGHT])[1].asked == [("q0", text)]


def test_answers_without_a_verdict_are_wrong_and_counted(model, monkeypatch) -> None:
    failed = Verdict(0.0, 0.0, 0.0, failed="time out")
    verdicts = [RIGHT, failed, WRONG, failed, RIGHT]
    record, _, _ = recorded(model, monkeypatch, ["x"] * 5, verdicts)
    assert record == proportion(2, 5, data="recorded", metric="accuracy") | {"unverified": 2}
    record, _, _ = recorded(model, monkeypatch, ["x"] * 2, [RIGHT, WRONG])
    assert record == proportion(1, 2, data="recorded", metric="accuracy")


def test_each_process_judges_its_share_and_all_know_the_whole(model, monkeypatch) -> None:
    """Of two processes the second has problems 1 and 3; the first found the others right."""
    texts, ours = ["b", "d"], [RIGHT, WRONG]

    def gathered(items: list, _accelerator: Accelerator) -> list[Verdict]:
        assert items == ours
        return [RIGHT, items[0], RIGHT, items[1]]

    monkeypatch.setattr(evaluation, "local_shard", lambda items, _: items[1::2])
    monkeypatch.setattr(evaluation, "gather", gathered)
    task, tokenizer = Recorder(ours), character_tokenizer()
    asked = {}

    def answer(_model, prompts, **given) -> list[SampledCompletions]:
        asked.update(given)
        return [
            SampledCompletions([tokenizer.encode(text, add_special_tokens=False)], [[0.0]], [False]) for text in texts
        ]

    monkeypatch.setattr(answers, "sample", answer)
    problems = task.held_out_problems(4)
    record = evaluate_task(model, tokenizer, task, problems, Accelerator(cpu=True), max_new_tokens=9, greedy=False)
    assert (record["value"], record["n"]) == (0.75, 4)
    assert task.asked == [("q1", "b"), ("q3", "d")]
    assert asked["keys"] == [of_evaluation(1), of_evaluation(3)]


def test_sampling_is_in_the_precision_of_training(model, monkeypatch) -> None:
    inside = []

    class Cast(Accelerator):
        def autocast(self, *_, **__):
            @contextmanager
            def cast():
                inside.append(True)
                yield
                inside.pop()

            return cast()

    def answer(_model, prompts, **_) -> list[SampledCompletions]:
        assert inside
        return [SampledCompletions([[1]], [[0.0]], [False]) for _ in prompts]

    monkeypatch.setattr(answers, "sample", answer)
    task = Recorder([RIGHT])
    arguments = (model, character_tokenizer(), task, task.held_out_problems(1), Cast(cpu=True))
    assert evaluate_task(*arguments, max_new_tokens=4, greedy=True)["n"] == 1


class Unverified(Recorder):
    """A task without reference answers."""

    verifies = False

    def verify(self, problem: Problem, completion: str) -> None:
        raise AssertionError("nothing to compare with")


def test_without_answers_the_mean_reward_is_measured(model, monkeypatch) -> None:
    """With the t-interval over problems, and the word accuracy nowhere."""
    tokenizer, asked = character_tokenizer(), []

    def answer(_model, prompts, **_) -> list[SampledCompletions]:
        return [
            SampledCompletions([tokenizer.encode("ab" * i, add_special_tokens=False)], [[0.0]], [False])
            for i in range(1, len(prompts) + 1)
        ]

    def reward(answered) -> list[float]:
        asked.extend((problem.question, [answer.text for answer in answers]) for problem, answers in answered)
        return [float(len(answer.text)) for _, answers in answered for answer in answers]

    monkeypatch.setattr(answers, "sample", answer)
    task = Unverified([])
    arguments = (model, tokenizer, task, task.held_out_problems(3), Accelerator(cpu=True))
    for greedy, metric in ((False, "reward"), (True, "reward_greedy")):
        found = evaluate_task(*arguments, max_new_tokens=9, greedy=greedy, reward=reward)
        assert found == record(t_interval([2.0, 4.0, 6.0]), data="recorded", metric=metric)
    assert asked[:3] == [("q0", ["ab"]), ("q1", ["abab"]), ("q2", ["ababab"])]
