"""Training problems chosen and ordered by how often they were solved."""

import json
from pathlib import Path

import pytest

from policy_gradients.config import PolicyGradientConfig
from rlhf.errors import UserError
from rlhf.tasks.by_difficulty import by_difficulty
from rlhf.tasks.names import look_at_tasks
from rlhf.tasks.of_config import open_tasks, training_task
from rlhf.tasks.registry import open_task

TASK = open_task("spell_backward", {}, answer_in="text")
SUCCESS = [0.0, 0.2, 0.5, 1.0, 0.8, 0.5, 0.9]


@pytest.fixture
def file(tmp_path: Path) -> str:
    """The first seven problems of stream 3."""
    problems = TASK.train_problems(seed=3, first=0, count=7)
    rows = [
        {"seed": 3, "number": i, "question": problem.question, "success": success, "samples": 10}
        for i, (problem, success) in enumerate(zip(problems, SUCCESS, strict=True))
    ]
    path = tmp_path / "difficulty.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def numbers(task, *, seed: int = 0, first: int = 0, count: int) -> list[int]:
    """Which of the seven are trained on, in their order."""
    known = [problem.question for problem in TASK.train_problems(seed=3, first=0, count=7)]
    return [known.index(problem.question) for problem in task.train_problems(seed=seed, first=first, count=count)]


def test_problems_within_the_bounds_are_kept(file: str) -> None:
    """Both bounds included: 0.2, 0.5, 0.8, 0.5. Every pass has each once, in another order, by the run's seed."""
    task = by_difficulty(TASK, file, low=0.2, high=0.8, easiest_first=False)
    passes = [numbers(task, first=4 * i, count=4) for i in range(6)]
    assert all(sorted(own) == [1, 2, 4, 5] for own in passes)
    assert len({tuple(own) for own in passes}) > 1
    assert numbers(task, first=3, count=6) == numbers(task, count=9)[3:]
    assert {tuple(numbers(task, seed=seed, count=4)) for seed in range(5)} != {tuple(passes[0])}
    assert task.name == "spell_backward, 4 of 7 problems", "as the console says what is trained on"


def test_a_curriculum_goes_from_the_easiest_to_the_hardest_once(file: str) -> None:
    task = by_difficulty(TASK, file, low=0.2, high=0.8, easiest_first=True)
    assert numbers(task, count=4) == [4, 2, 5, 1], "equally easy ones in the order of the file"
    assert numbers(task, first=2, count=5) == numbers(task, count=7)[2:]
    later = [numbers(task, first=4 * i, count=4) for i in range(1, 7)]
    assert all(sorted(own) == [1, 2, 4, 5] for own in later)
    assert any(own != [4, 2, 5, 1] for own in later)


def test_all_else_is_the_tasks(file: str) -> None:
    task = by_difficulty(TASK, file, low=0, high=1, easiest_first=False)
    assert task.verifies
    assert task.held_out_problems(5) == TASK.held_out_problems(5)
    (problem,) = task.train_problems(seed=0, first=0, count=1)
    assert task.verify(problem, problem.answer).exact == 1
    narrower = by_difficulty(TASK, file, low=0.2, high=0.8, easiest_first=False)
    assert len({TASK.fingerprint, task.fingerprint, narrower.fingerprint}) == 3


def test_files_that_do_not_fit_are_refused(file: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"of 7 problems in '.*' none was solved at a rate of 0.3 to 0.4"):
        by_difficulty(TASK, file, low=0.3, high=0.4, easiest_first=False)
    longer = open_task("spell_backward", {"min_word_len": 8, "max_word_len": 12}, answer_in="text")
    with pytest.raises(UserError, match="difficulty: problem 0 of spell_backward is") as refused:
        by_difficulty(longer, file, low=0, high=1, easiest_first=False)
    assert "another task_config" in str(refused.value.hint)
    other = tmp_path / "other.jsonl"
    other.write_text('{"prompt": "a"}\n')
    with pytest.raises(UserError, match="line 1: wanted seed, number, question and success"):
        by_difficulty(TASK, str(other), low=0, high=1, easiest_first=False)


def test_the_config_says_which_problems(file: str) -> None:
    config = PolicyGradientConfig(difficulty=file, difficulty_high=0.5, curriculum="easiest_first", answer_in="text")
    look_at_tasks(config)
    task = training_task(open_tasks(config), config)
    assert numbers(task, count=3) == [2, 5, 1]
    assert training_task(open_tasks(PolicyGradientConfig()), PolicyGradientConfig()).train_problems(
        seed=3, first=0, count=2
    ) == TASK.train_problems(seed=3, first=0, count=2)
    with pytest.raises(UserError, match=r"difficulty: there is no file 'nowhere\.jsonl'"):
        look_at_tasks(PolicyGradientConfig(difficulty="nowhere.jsonl"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"difficulty": "d.jsonl", "difficulty_low": 0.9}, "difficulty_low 0.9 is above"),
        ({"difficulty": "d.jsonl", "tasks": {"spell_backward": {}}}, "measured of one task"),
        ({"curriculum": "easiest_first"}, "there is none"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PolicyGradientConfig(**settings)
