"""Reward functions of the user: one completion or a batch, by file or module, plain or asynchronous; what they get."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from policy_gradients.config import PolicyGradientConfig, RewardWeights
from policy_gradients.reward_functions import evaluate, load_functions
from policy_gradients.rewards import RewardFunction, refuse_unrewarded
from rlhf.data.answers import Answer
from rlhf.errors import UserError
from rlhf.tasks.matching import MATCHES
from rlhf.tasks.problem import Problem
from rlhf.tasks.prompts import Prompts

ASKED = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi?"})
PLAIN = Problem("2+2?", "4", {}, columns={"answer": "4", "level": 1}, where="p.jsonl line 3")
TALK = Problem("system: Be brief.\n\nuser: Hi?", "", {}, prompt=ASKED, columns={"answer": "", "level": 2})
SAMPLED = [(PLAIN, Answer("four", (7, 8))), (PLAIN, Answer("4", (9,))), (TALK, Answer("Hello.", (1,)))]

FUNCTIONS = """
import asyncio

def brevity(prompt, completion, answer, level):
    return len(completion) + 10 * level + 100 * (completion == answer)

def trl(prompts, completions, level, **kwargs):
    assert sorted(kwargs) == ["answer", "completion_ids", "question"], kwargs
    said = [own if isinstance(own, str) else own[0]["content"] for own in completions]
    return [len(text) + 10 * number for text, number in zip(said, level)]

def anything(**kwargs):
    return [float(len(ids)) for ids in kwargs["completion_ids"]]

async def slow(completion):
    await asyncio.sleep(0)
    return len(completion)

async def slow_batch(completions):
    return [float(isinstance(own, str)) for own in completions]

def wants(completion, ground_truth):
    return 0.0
"""


@pytest.fixture
def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The rewards by a function of the file, or of the module that it is."""
    (tmp_path / "my_rewards.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path)

    def rewards(*names: str, source: str = f"{tmp_path}/my_rewards.py") -> dict[str, list[float]]:
        return evaluate(load_functions({f"{source}:{name}": 1.0 for name in names}).values(), SAMPLED)

    return rewards


def test_one_completion_or_a_batch(found) -> None:
    """By the names of parameters; columns by theirs; a conversation's completions are messages, as TRL has them."""
    assert found("brevity", "trl", "anything") == {
        "brevity": [14.0, 111.0, 26.0],
        "trl": [14.0, 11.0, 26.0],
        "anything": [2.0, 1.0, 1.0],
    }


def test_a_module_is_a_source_too(found) -> None:
    assert found("trl", source="my_rewards") == {"trl": [14.0, 11.0, 26.0]}


def test_asynchronous_functions_are_awaited_together(found) -> None:
    wanted = {"slow": [4.0, 1.0, 6.0], "trl": [14.0, 11.0, 26.0], "slow_batch": [1.0, 1.0, 0.0]}
    assert found("slow", "trl", "slow_batch") == wanted

    async def notebook() -> dict[str, list[float]]:  # which runs a loop of its own
        return found("slow", "trl", "slow_batch")

    assert asyncio.run(notebook()) == wanted


def test_all_calls_wait_at_the_same_time(tmp_path: Path) -> None:
    """Each waits until all others have begun: one after the other they would wait for ever."""
    (tmp_path / "mine.py").write_text(
        "import asyncio\nbegun = []\n"
        "async def first(completion):\n    return await other(completion)\n"
        "async def other(completion):\n"
        "    begun.append(completion)\n"
        "    while len(begun) < 6:\n        await asyncio.sleep(0)\n"
        "    return 1.0\n"
    )
    functions = load_functions({f"{tmp_path}/mine.py:first": 1.0, f"{tmp_path}/mine.py:other": 1.0})
    assert evaluate(functions.values(), SAMPLED) == {"first": [1.0] * 3, "other": [1.0] * 3}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return [1.0] * 2", "f returned 2 numbers for 3 completions"),
        ("return 1.0", "f returned 1.0, wanted a list of 3 numbers"),
        ("return 'abc'", "f returned 'abc', wanted a list of 3 numbers"),
        ("return [1.0, None, 1.0]", "f returned None for the completion '4' of p.jsonl line 3, wanted a finite number"),
        ("return [1.0, 1.0, float('nan')]", r"f returned nan for the completion 'Hello\.', wanted"),
        ("return [1.0, 'x', 1.0]", "f returned 'x' for the completion '4' of p.jsonl line 3"),
        ("raise KeyError('level')", r"f in .*mine.py, line 2, raised KeyError: 'level' for a batch of 3 completions"),
        ("import torch; return torch.ones(2, 2)", "f returned 2 numbers for 3 completions"),
    ],
)
def test_what_a_batch_returns_is_looked_at(tmp_path: Path, body: str, said: str) -> None:
    (tmp_path / "mine.py").write_text(f"def f(completions):\n    {body}\n")
    with pytest.raises(UserError, match=said):
        evaluate(load_functions({f"{tmp_path}/mine.py:f": 1.0}).values(), SAMPLED)


def test_what_an_asynchronous_function_raises_names_its_row(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("async def f(completion):\n    return 1 / (completion != '4')\n")
    with pytest.raises(UserError, match=r"line 2, raised ZeroDivisionError.* for the completion '4' of p.jsonl line 3"):
        evaluate(load_functions({f"{tmp_path}/mine.py:f": 1.0}).values(), SAMPLED)


def task_of(match: str) -> Prompts:
    return Prompts([PLAIN], [TALK], match=MATCHES[match], answer_in="text")


def config_of(**settings: Any) -> PolicyGradientConfig:
    return PolicyGradientConfig(**settings)


def test_what_cannot_be_rewarded_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "my_rewards.py").write_text(FUNCTIONS)
    own = {f"{tmp_path}/my_rewards.py:brevity": 1.0}
    with pytest.raises(UserError, match="prompts has no reference answers, so nothing rewards") as caught:
        refuse_unrewarded({"prompts": task_of("none")}, config_of())
    assert "reward_functions" in str(caught.value.hint)
    refuse_unrewarded({"prompts": task_of("none")}, config_of(reward_functions=own))
    refuse_unrewarded({"prompts": task_of("none")}, config_of(reward_model="runs/rm"))
    refuse_unrewarded({"prompts": task_of("number")}, config_of())
    refuse_unrewarded({"prompts": task_of("number")}, config_of(length_penalty=0.3))
    with pytest.raises(UserError, match="length_penalty needs them"):
        refuse_unrewarded({"prompts": task_of("none")}, config_of(reward_model="runs/rm", length_penalty=0.3))
    rewarded = config_of(reward_model="runs/rm", nll_coef=0.1)
    with pytest.raises(UserError, match=r"nll_coef \(which is 0\.1\) needs them") as caught:
        refuse_unrewarded({"prompts": task_of("none")}, rewarded)
    assert "or --nll_coef 0." in str(caught.value.hint)
    refuse_unrewarded({"prompts": task_of("none"), "sums": task_of("number")}, rewarded)
    wants = {f"{tmp_path}/my_rewards.py:wants": 1.0}
    with pytest.raises(UserError, match="missing a required argument: 'ground_truth'") as caught:
        refuse_unrewarded({"prompts": task_of("number")}, config_of(reward_functions=wants))
    assert "There are answer, level, prompt, question, completion" in str(caught.value.hint)


def test_without_an_answer_there_is_no_verdict(tmp_path: Path) -> None:
    """Neither right nor wrong is among the components; the reward is that of the functions."""
    (tmp_path / "my_rewards.py").write_text(FUNCTIONS)
    functions = {f"{tmp_path}/my_rewards.py:slow": 0.5}
    answered = [(PLAIN, ["4", "four"])]
    reward = RewardFunction(task_of("none"), RewardWeights(), functions)
    assert reward.components(answered) == [[{"slow": 1.0}, {"slow": 4.0}]]
    assert reward.totals(answered) == [0.5, 2.0]
    right = {"exact": 1.0, "format": 1.0, "partial": 1.0, "unverified": 0.0, "slow": 1.0}
    verified = RewardFunction(task_of("number"), RewardWeights(), functions)
    assert verified.components(answered)[0][0] == right
    assert verified.totals(answered)[0] == 1.5
