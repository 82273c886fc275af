"""Worked solutions: the right ones are right, and the wrong ones are wrong in one place and say so to the end."""

import re
from random import Random

import pytest

from instruction_tuning.config import DataConfig, InstructionTuningConfig
from instruction_tuning.data import Demonstrations
from instruction_tuning.demonstrations import demonstrate
from rlhf.embedded.make import character_tokenizer
from rlhf.tasks.problem import Problem
from rlhf.tasks.procedural import ProceduralTask

NAMES = ["spell_backward", "step_arithmetic"]


@pytest.fixture(scope="module", params=NAMES)
def task(request: pytest.FixtureRequest) -> ProceduralTask:
    return ProceduralTask(request.param)


def solution(problem: Problem, task: ProceduralTask, *, wrong: bool, seed: int) -> str:
    question, answer = demonstrate(problem, task.name, wrong=wrong, rng=Random(seed))
    assert question == {"role": "user", "content": problem.question}
    assert answer["role"] == "assistant"
    return answer["content"]


def test_right_ones_are_exact_and_wrong_ones_are_not(task: ProceduralTask) -> None:
    """Both have the form asked for: no one can tell them apart by it."""
    kinds = set()
    for i, problem in enumerate(task.train_problems(seed=0, first=0, count=300)):
        right, wrong = (task.verify(problem, solution(problem, task, wrong=w, seed=i)) for w in (False, True))
        assert (right.exact, right.format) == (1, 1)
        assert (wrong.exact, wrong.format) == (0, 1)
        text = solution(problem, task, wrong=True, seed=i)
        kinds.add(len(text) - len(solution(problem, task, wrong=False, seed=i)))
    assert len(kinds) > 1, "mistakes of more than one kind"


def test_mistakes_differ(task: ProceduralTask) -> None:
    """The most likely answer can stay right only if each mistake is another one."""
    for problem in task.train_problems(seed=0, first=0, count=20):
        assert len({solution(problem, task, wrong=True, seed=seed) for seed in range(30)}) >= 5


def test_spelling_is_consistent() -> None:
    """Letters, then the letters backward, then their join: a mistake is made once, in the second line."""
    task = ProceduralTask("spell_backward")
    for i, problem in enumerate(task.train_problems(seed=0, first=0, count=100)):
        for wrong in (False, True):
            text = solution(problem, task, wrong=wrong, seed=i)
            forward, backward, answer = re.fullmatch(r"<think>(.*)\n(.*)</think><answer>(.*)</answer>", text).groups()
            assert "".join(forward.split(" ")) == problem.answer[::-1]
            assert "".join(backward.split(" ")) == answer
            assert (answer == problem.answer) == (not wrong)


def test_arithmetic_is_consistent() -> None:
    """Exactly one equation is false in a wrong solution; what follows is calculated from it, down to the answer."""
    task = ProceduralTask("step_arithmetic")
    for i, problem in enumerate(task.train_problems(seed=0, first=0, count=200)):
        for wrong in (False, True):
            text = solution(problem, task, wrong=wrong, seed=i)
            thinking, answer = re.fullmatch(r"<think>(.*)</think><answer>(.*)</answer>", text, re.DOTALL).groups()
            lines = thinking.split("\n")
            expression, false = problem.entry["metadata"]["expression"], 0
            for line in lines:
                left, _, result = line.partition("=")
                if result:
                    assert expression.count(left) >= 1, "the equation solves a part of what is left"
                    false += eval(left) != int(result)
                    after = expression.replace(left, result, 1) if "*" in left else result + expression[len(left) :]
                    assert int(result) >= 0
                    expression = after
                else:
                    assert line == expression, "what is left to do"
            assert expression == answer
            assert false == int(wrong)


def test_a_mistake_of_case_alone_is_no_mistake() -> None:
    """'Aab' backward is 'baA'; with the last two swapped, 'bAa', it is still right, and so is 'baa'."""
    task = ProceduralTask("spell_backward")
    problem = Problem(
        "Spell this word backward (example: sun -> nus): Aab",
        "baA",
        {**task.train_problems(seed=0, first=0, count=1)[0].entry, "answer": "baA", "metadata": {"word": "Aab"}},
    )
    for seed in range(300):
        assert task.verify(problem, solution(problem, task, wrong=True, seed=seed)).exact == 0


# ------------------------------------------------------------------------------------------------------- the stream


def stream(**changes) -> Demonstrations:
    data = DataConfig(held_out=40, wrong={"spell_backward": 0.5}, wrong_from=0.5, **changes)
    config = InstructionTuningConfig(data=data, seed=0, max_steps=10, output_dir="unused")
    return Demonstrations(config, character_tokenizer())


def shares_right(data: Demonstrations, step: int) -> dict[str, float]:
    """By task, of 100 conversations each."""
    spelling, arithmetic = data.tasks
    conversations = data.conversations(step, 200)
    problems = [
        *spelling.train_problems(seed=0, first=100 * step, count=100),
        *arithmetic.train_problems(seed=0, first=100 * step, count=100),
    ]
    right = [
        (spelling if i < 100 else arithmetic).verify(problem, conversation[1]["content"]).exact
        for i, (problem, conversation) in enumerate(zip(problems, conversations, strict=True))
    ]
    return {"spell_backward": sum(right[:100]) / 100, "step_arithmetic": sum(right[100:]) / 100}


def test_mistakes_come_late_and_where_asked_for() -> None:
    """None in the first half of the steps; then half of the spellings (100 draws: 0.5 +- 0.05), and no calculation."""
    data = stream()
    assert shares_right(data, 4) == {"spell_backward": 1, "step_arithmetic": 1}
    late = shares_right(data, 5)
    assert late["spell_backward"] == pytest.approx(0.5, abs=0.16)
    assert late["step_arithmetic"] == 1


def test_the_stream_repeats_and_does_not_touch_the_held_out_set() -> None:
    data = stream()
    batches = [data.conversations(step, 20) for step in range(10)]
    assert stream().conversations(7, 20) == batches[7]
    assert batches[6] != batches[7]
    seen = {conversation[0]["content"] for batch in batches for conversation in batch}
    held_out = data.held_out_conversations()
    assert len(held_out) == 40
    assert not seen & {conversation[0]["content"] for conversation in held_out}
    for i, conversation in enumerate(held_out):
        verdict = data.tasks[i // 20].verify(
            next(p for p in data.tasks[i // 20].held_out_problems(20) if p.question == conversation[0]["content"]),
            conversation[1]["content"],
        )
        assert verdict.exact == 1, "what is measured on is right"
