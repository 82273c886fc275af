"""Parts of a reward: the task's, the user's own, and the penalty for running out of room."""

from pathlib import Path

import pytest

from policy_gradients.config import RewardWeights
from policy_gradients.rewards import Judge, load_function, overlong_penalty
from rlhf.errors import UserError
from rlhf.tasks import Task

TASK = Task("spell_backward", {"min_word_len": 3, "max_word_len": 4}, answer_in="text")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(
        "def brevity(question, completion, answer):\n    return -len(completion) / 10\n"
        "def broken(question, completion, answer):\n    return 'much'\n"
    )
    return path


def test_own_functions_are_weighed_and_kept_apart(file: Path) -> None:
    judge = Judge(TASK, RewardWeights(), {f"{file}:brevity": 0.5})
    (problem,) = TASK.train_problems(seed=0, first=0, count=1)
    parts = judge.parts(problem, problem.answer)
    assert parts["exact"] == 1
    assert parts["brevity"] == -len(problem.answer) / 10
    assert judge.weigh(parts) == pytest.approx(1 - len(problem.answer) / 20)


def test_a_reward_model_judges_instead_of_the_verifier() -> None:
    """All completions of a batch in one call; its score alone is paid, unless weights say otherwise."""
    calls = []

    def score(answered):
        calls.append([(problem.question, list(texts)) for problem, texts in answered])
        return [[float(len(text)) for text in texts] for _, texts in answered]

    one, two = TASK.train_problems(seed=0, first=0, count=2)
    answered = [(one, [one.answer, "x"]), (two, ["abcd", ""])]
    judge = Judge(TASK, RewardWeights(), {}, score)
    parts = judge.judge(answered)
    assert calls == [[(one.question, [one.answer, "x"]), (two.question, ["abcd", ""])]]
    assert [[it["model"] for it in own] for own in parts] == [[len(one.answer), 1], [4, 0]]
    assert parts[0][0]["exact"] == 1
    assert judge.weigh(parts[0][0]) == len(one.answer)
    both = Judge(TASK, RewardWeights(exact=10, model=0.5), {}, score)
    assert both.weigh(parts[0][0]) == 10 + 0.5 * len(one.answer)
    assert "model" not in Judge(TASK, RewardWeights(), {}).judge(answered)[0][0]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("{file}:brevty", "did you mean 'brevity'"),
        ("{file}", "not of the form"),
        ("{file}x.py:brevity", "no file"),
        ("mine:brevity", "not of the form"),
    ],
)
def test_what_is_no_function_is_refused(file: Path, spec: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_function(spec.format(file=file))


def test_a_file_that_does_not_run_says_why(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text("import no_such_module\n")
    with pytest.raises(UserError, match="no_such_module"):
        load_function(f"{path}:f")


def test_a_reward_must_be_a_number(file: Path) -> None:
    judge = Judge(TASK, RewardWeights(), {f"{file}:broken": 1.0})
    with pytest.raises(UserError, match="broken returned 'much'"):
        judge.parts(TASK.train_problems(seed=0, first=0, count=1)[0], "x")


def test_overlong_penalty_by_hand() -> None:
    """100 tokens, the last 20 charged: 0 up to 80, half at 90, 1 at 100. Without a buffer, only the cut itself."""
    charged = [overlong_penalty(n, max_new_tokens=100, overlong_buffer=0.2) for n in (1, 80, 85, 90, 99, 100)]
    assert charged == pytest.approx([0, 0, 0.25, 0.5, 0.95, 1])
    assert [overlong_penalty(n, max_new_tokens=100, overlong_buffer=0.0) for n in (99, 100)] == [0, 1]
