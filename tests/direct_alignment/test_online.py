"""Pairs of the policy as it is now: of which problems, from which random numbers, and which are used when."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from accelerate import Accelerator
from steps_by_hand import save_tiny
from torch import nn

from direct_alignment import online
from direct_alignment.config import DirectAlignmentConfig
from direct_alignment.data import Example
from direct_alignment.losses import losses
from rlhf.embedded.make import character_tokenizer
from rlhf.errors import UserError
from rlhf.groups import Group
from rlhf.models.policy import load_policy
from rlhf.sampling import SampledCompletions
from rlhf.tasks.problem import Problem, Verdict

EVERY, BATCH, FIRST = 3, 4, 50  # steps, pairs a step, problems that the run started with


class Numbered:
    """Problem number i asks for i; an answer is right if its last digit is odd, or as `always` says."""

    name, fingerprint, verifies = "numbered", "numbered", True
    always: float | None = None

    def held_out_problems(self, count: int) -> list[Problem]:
        return self.train_problems(seed=0, first=-count, count=count)

    def train_problems(self, *, seed: int, first: int, count: int) -> list[Problem]:
        return [Problem(f"{seed}: {i}", str(i), {}) for i in range(first, first + count)]

    def verify(self, _: Problem, completion: str) -> Verdict:
        exact = float(int(completion[-1]) % 2) if self.always is None else self.always
        return Verdict(exact, 1.0, 0.0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    return load_policy(str(save_tiny(tmp_path_factory.mktemp("model"))))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    made: list[dict] = []
    tokenizer = character_tokenizer()

    def sample(
        _model, prompts: Sequence, *, completions: int, end_tokens: Sequence[int], **named
    ) -> list[SampledCompletions]:
        made.append({"prompts": prompts, "completions": completions, **named})
        answers = [[f"{k % 7}.{j}" for j in range(completions)] for k in range(len(prompts))]
        tokens = [[[*tokenizer.encode(text), end_tokens[0]] for text in own] for own in answers]
        return [SampledCompletions(own, [[-1.0] * 4] * completions, [False] * completions) for own in tokens]

    monkeypatch.setattr(online, "sample", sample)
    return made


def config(**given) -> DirectAlignmentConfig:
    data = {"problems": FIRST, "candidates": 4, "per_problem": 2}
    fixed = {"task": "step_arithmetic", "online_every": EVERY, "batch_size": BATCH, "max_new_tokens": 9}
    return DirectAlignmentConfig(**{**fixed, "data": data, "max_steps": 9, **given})


def fresh(model: nn.Module, step: int, *, task=None, loss: str = "dpo", **given) -> list[Example]:
    named = {"step": step, "say": print}
    accelerator = Accelerator(cpu=True)
    return online.fresh_pairs(
        model, character_tokenizer(), task or Numbered(), accelerator, config(**given), losses[loss], **named
    )


def text(tokens: Sequence[int]) -> str:
    return character_tokenizer().decode(tokens, skip_special_tokens=True)


def test_each_time_other_problems_and_other_random_numbers(model: nn.Module, calls: list[dict]) -> None:
    """As many problems as the next steps have pairs, behind those that the run started with; none comes twice."""
    keys: list[tuple] = []
    for call, step in enumerate((0, EVERY, 2 * EVERY)):
        fresh(model, step)
        asked = [text(prompt) for prompt in calls[call]["prompts"]]
        first = FIRST + step * BATCH
        assert asked == [f"0: {i}" for i in range(first, first + EVERY * BATCH)]
        assert calls[call]["completions"] == 4
        assert calls[call]["max_new_tokens"] == 9
        keys += [tuple(key) for key in calls[call]["keys"]]
    assert len(set(keys)) == len(keys) == 3 * EVERY * BATCH
    fresh(model, 0, seed=1)
    assert not {tuple(key) for key in calls[-1]["keys"]} & set(keys)
    assert text(calls[-1]["prompts"][0]) == f"1: {FIRST}"
    fresh(model, 0, system_prompt="Be brief.")
    assert all("Be brief." in text(prompt) for prompt in calls[-1]["prompts"])


def test_a_pair_is_a_right_and_a_wrong_completion_of_one_problem(model: nn.Module, calls: list[dict]) -> None:
    made = fresh(model, 0)
    assert len(made) == 2 * EVERY * BATCH
    for example in made:
        chosen, rejected = (text(it) for it in example.group.completions)
        assert (int(chosen[-1]) % 2, int(rejected[-1]) % 2) == (1, 0)
        number = int(text(example.group.prompt).split(":")[1]) - FIRST
        assert chosen[0] == rejected[0] == str(number % 7), "of this problem"
        assert example.desirable == (True, False)
        assert example.mismatched is None
        assert all(all(counted) for counted in example.group.loss_mask)
    assert [e.group for e in fresh(model, 0)] == [e.group for e in made]
    for example in fresh(model, 0, loss="kto"):
        assert example.mismatched is not None
        assert example.mismatched.prompt == example.group.prompt


@pytest.mark.parametrize("always", [0.0, 1.0])
def test_nothing_to_prefer_is_said(model: nn.Module, calls: list[dict], always: float) -> None:
    task = Numbered()
    task.always = always
    with pytest.raises(UserError, match="at step 3 every problem"):
        fresh(model, EVERY, task=task)


@pytest.mark.parametrize("size", [5, 12, 30])
def test_the_steps_between_take_the_pairs_in_turn(size: int) -> None:
    """Each step the next four; round again where there are too few, from the start again with every new sampling."""
    buffer = [Example(Group([i], [[1], [2]], [[True], [True]]), (True, False)) for i in range(size)]
    taken = [[e.group.prompt[0] for e in online.take(buffer, step, config())] for step in range(2 * EVERY)]
    expected = [[i % size for i in range(k * BATCH, (k + 1) * BATCH)] for k in range(EVERY)]
    assert taken == expected * 2


def test_pairs_survive_a_checkpoint(model: nn.Module, calls: list[dict], tmp_path: Path) -> None:
    from dataclasses import replace

    made = [replace(e, logp_ref=(-1.0, -2.5), logp_ref_mismatched=(-3.0, -4.0)) for e in fresh(model, 0, loss="kto")]
    for pairs in (made, fresh(model, 0)):
        again = online.from_state(json.loads(json.dumps(online.to_state(pairs))))
        assert [e.group.prompt for e in again] == [list(e.group.prompt) for e in pairs]
        for a, b in zip(again, pairs, strict=True):
            assert (a.desirable, a.logp_ref, a.logp_ref_mismatched) == (b.desirable, b.logp_ref, b.logp_ref_mismatched)
            assert [list(c) for c in a.group.completions] == [list(c) for c in b.group.completions]
            assert [list(c) for c in a.group.loss_mask] == [list(c) for c in b.group.loss_mask]
            assert (a.mismatched is None) == (b.mismatched is None)
            assert a.question == b.question != ""
