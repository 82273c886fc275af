"""Parts of a reward: the task's, the user's own, and the penalty for running out of room."""

from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from policy_gradients.config import RewardWeights
from policy_gradients.reward_functions import as_number, evaluate, load_functions
from policy_gradients.reward_loading import load_function
from policy_gradients.rewards import UNVERIFIED, RewardFunction, overlong_penalty
from rlhf.errors import UserError
from rlhf.tasks.problem import Problem, Verdict
from rlhf.tasks.procedural import ProceduralTask

TASK = ProceduralTask("spell_backward", {"min_word_len": 3, "max_word_len": 4}, answer_in="text")
(PROBLEM,) = TASK.train_problems(seed=0, first=0, count=1)


def components_of(reward: RewardFunction, problem: Problem, completion: str) -> dict[str, float]:
    return reward.components([(problem, [completion])])[0][0]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(
        "def brevity(question, completion, answer):\n    return -len(completion) / 10\n"
        "def broken(question, completion, answer):\n    return 'much'\n"
    )
    return path


def test_own_functions_are_weighed_and_kept_apart(file: Path) -> None:
    reward = RewardFunction(TASK, RewardWeights(), {f"{file}:brevity": 0.5})
    (problem,) = TASK.train_problems(seed=0, first=0, count=1)
    components = components_of(reward, problem, problem.answer)
    assert components["exact"] == 1
    assert components["brevity"] == -len(problem.answer) / 10
    assert reward.total(components) == pytest.approx(1 - len(problem.answer) / 20)


def test_a_reward_model_takes_the_place_of_the_verifier() -> None:
    """All completions of a batch in one call; its score alone is paid, unless weights say otherwise."""
    calls = []

    def score(answered):
        calls.append([(problem.question, list(texts)) for problem, texts in answered])
        return [[float(len(text)) for text in texts] for _, texts in answered]

    one, two = TASK.train_problems(seed=0, first=0, count=2)
    answered = [(one, [one.answer, "x"]), (two, ["abcd", ""])]
    reward = RewardFunction(TASK, RewardWeights(), {}, score)
    components = reward.components(answered)
    assert calls == [[(one.question, [one.answer, "x"]), (two.question, ["abcd", ""])]]
    assert [[it["model"] for it in own] for own in components] == [[len(one.answer), 1], [4, 0]]
    assert components[0][0]["exact"] == 1
    assert reward.total(components[0][0]) == len(one.answer)
    both = RewardFunction(TASK, RewardWeights(exact=10, model=0.5), {}, score)
    assert both.total(components[0][0]) == 10 + 0.5 * len(one.answer)
    assert "model" not in RewardFunction(TASK, RewardWeights(), {}).components(answered)[0][0]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("{file}:brevty", "did you mean 'brevity'"),
        ("{file}", "not of the form"),
        ("{file}x.py:brevity", "no file"),
        ("no_such_module_here:brevity", "no module 'no_such_module_here'"),
        ("json.no_such_part:loads", "no module 'json.no_such_part'"),
        ("json:brevity", "json has no function 'brevity'"),
        ("a b:brevity", "not of the form"),
        ("{file}:two words", "not of the form"),
    ],
)
def test_what_is_no_function_is_refused(file: Path, spec: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_function(spec.format(file=file))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import no_such_module\n", r", line 1, does not run: ModuleNotFoundError: .*no_such_module"),
        ("x = 1\nimport sys\nsys.exit(0)\n", r", line 3, does not run: SystemExit: 0"),
        ("def f(:\n", r", line 1, does not run: SyntaxError"),
        ("raise BaseException('odd')\n", "BaseException: odd"),
    ],
)
def test_a_file_that_does_not_run_says_why_and_where(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        load_function(f"{path}:f")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def f(text):\n    return 1.0\n", r"f in .*mine.py takes \(text\), wanted \(prompt, completion, \.\.\.\)"),
        ("def f(prompts, completion, completions):\n    return 1.0\n", "for one completion, or .* for a batch"),
        ("def f(completion, /):\n    return 1.0\n", "by place alone"),
        ("def f(question, completion, answer):\n    yield 1.0\n", "generator"),
        ("async def f(completions):\n    yield 1.0\n", "generator"),
    ],
)
def test_a_function_that_cannot_be_called_is_refused_when_it_is_loaded(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        load_function(f"{path}:f")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            "raise LookupError('no such key')",
            r"f in .*mine.py, line 2, raised LookupError: no such key for the completion 'some words'",
        ),
        (
            "return len(completion.split(';')[7])",
            "line 2, raised IndexError: list index out of range for the",
        ),
        ("import sys; sys.exit(0)", "raised SystemExit: 0 for the completion"),
        ("return 'much'", "returned 'much' for the completion 'some words', wanted a finite number"),
        ("return None", "returned None"),
        ("return float('nan')", "returned nan"),
        ("return 10**400", r"returned 1000+\.\.\. for .*, wanted a finite number"),
        ("return type('V', (), {'__repr__': lambda s: 1 / 0})()", "returned <V> for"),
        ("return type('V', (), {'item': lambda s: 1 / 0})()", "line 2, raised ZeroDivisionError: division by zero"),
        ("raise type('E', (Exception,), {'__str__': lambda s: 1 / 0})()", "line 2, raised E for"),
        ("return __import__('numpy').ones(2)", "wanted a finite number"),
    ],
)
def test_a_reward_function_that_fails_names_file_line_and_completion(tmp_path: Path, body: str, said: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"def f(question, completion, answer):\n    {body}\n")
    reward = RewardFunction(TASK, RewardWeights(), {f"{path}:f": 1.0})
    with pytest.raises(UserError, match=said):
        components_of(reward, TASK.train_problems(seed=0, first=0, count=1)[0], "some words")


def test_what_a_reward_function_sets_in_the_process_is_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run writes into its folder and learns by gradients, whatever another's code does on the way."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.py"
    changes = "os.chdir('/'); torch.set_grad_enabled(False); torch.set_default_dtype(torch.float64)"
    path.write_text(f"import os, torch\n{changes}\ndef f(question, completion, answer):\n    {changes}; return 1.0\n")
    assert evaluate(load_functions({"mine.py:f": 1.0}).values(), [(PROBLEM, "c")]) == {"f": [1]}
    assert (Path.cwd(), torch.is_grad_enabled(), torch.get_default_dtype()) == (tmp_path, True, torch.float32)


def test_ctrl_c_in_a_reward_function_is_ctrl_c(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def f(question, completion, answer):\n    raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        evaluate(load_functions({f"{path}:f": 1.0}).values(), [(PROBLEM, "c")])


def test_numbers_of_any_library_are_numbers() -> None:
    ones = [
        1,
        1.0,
        True,
        np.float32(1),
        np.int64(1),
        np.bool_(True),
        np.array([[1.0]]),
        torch.tensor(1),
        torch.ones(1, 1),
    ]
    assert [as_number(one) for one in [*ones, Fraction(2, 2), Decimal(1)]] == [1.0] * 11
    nothing = ["1", None, [1], np.ones(2), torch.ones(2), float("inf"), np.float32("nan"), 1j, np.str_("1"), {}]
    assert [as_number(it) for it in nothing] == [None] * 10


def test_a_file_runs_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        f"open({str(tmp_path / 'ran')!r}, 'a').write('x')\ndef f(question, completion, answer):\n    return 1\n"
    )
    load_functions({f"{path}:f": 1.0})
    RewardFunction(TASK, RewardWeights(), {f"{path}:f": 1.0})
    assert (tmp_path / "ran").read_text() == "x"


def test_a_verdict_that_failed_is_counted_and_pays_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def verify(problem, completion):
        return Verdict(0.0, 1.0, 0.0, failed="time out" if completion == "slow" else "")

    monkeypatch.setattr(TASK, "verify", verify)
    reward = RewardFunction(TASK, RewardWeights(exact=1, format=2), {})
    (problem,) = TASK.train_problems(seed=0, first=0, count=1)
    slow, other = reward.of_text(problem, "slow"), reward.of_text(problem, "x")
    assert (slow[UNVERIFIED], other[UNVERIFIED]) == (1, 0)
    assert reward.total(slow) == reward.total(other) == 2


def test_overlong_penalty_by_hand() -> None:
    """100 tokens, the last 20 charged: 0 up to 80, half at 90, 1 at 100. Without a buffer, only the cut itself."""
    charged = [overlong_penalty(n, max_new_tokens=100, overlong_buffer=0.2) for n in (1, 80, 85, 90, 99, 100)]
    assert charged == pytest.approx([0, 0, 0.25, 0.5, 0.95, 1])
    assert [overlong_penalty(n, max_new_tokens=100, overlong_buffer=0.0) for n in (99, 100)] == [0, 1]


def test_components_have_the_names_of_the_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TASK, "verify", lambda *_: Verdict(exact=0.0, format=1.0, partial=0.25))
    reward = RewardFunction(TASK, RewardWeights(exact=8, format=4, partial=2), {})
    components = reward.of_text(PROBLEM, "")
    assert components == {"exact": 0.0, "format": 1.0, "partial": 0.25, "unverified": 0.0}
    assert reward.total(components) == 4.5


def test_own_functions_get_the_answer(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        f"def right(question, completion, answer):\n    return 10.0 * (answer == {PROBLEM.answer!r})\n"
    )
    (tmp_path / "endless.py").write_text("def f(question, completion, answer):\n    return float('inf')\n")
    reward = RewardFunction(TASK, RewardWeights(), {f"{tmp_path}/mine.py:right": 1.0})
    assert components_of(reward, PROBLEM, "something else")["right"] == 10
    with pytest.raises(UserError, match="finite"):
        components_of(RewardFunction(TASK, RewardWeights(), {f"{tmp_path}/endless.py:f": 1.0}), PROBLEM, "")
