"""The reference: which model is asked, when it moves, and what is computed once for all runs."""

from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from steps_by_hand import save_tiny
from tiny_models import tiny_model
from torch import nn

from direct_alignment import reference as module
from direct_alignment.data import Example
from direct_alignment.reference import Reference
from rlhf.groups import Group
from rlhf.run.session import Session

LAYOUT = {"token_budget": 100, "shared_prefix": True}
GROUPS = [Group([1], [[2, 3], [4]]), Group([5, 6], [[7], [8]]), Group([9], [[9]])]


class Asked(list):
    """(which model, how many groups) of each call."""

    def scored(self, scorer: nn.Module, groups: Sequence[Group], accelerator: object, layout: object):
        assert (accelerator, layout) == ("accelerator", LAYOUT)
        self.append((scorer.model, len(groups)))
        return [tuple(-float(sum(completion)) for completion in group.completions) for group in groups]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Asked:
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path / "cache"))
    made = Asked()
    monkeypatch.setattr(module, "score_all", made.scored)
    return made


class Loading(Session):
    """What a reference asks of a session; each model that it loads is another."""

    def __init__(self, model_name: str = "m", *, lora_rank: int = 0, precision: str = "fp32"):
        self.config = SimpleNamespace(lora_rank=lora_rank, model_name=model_name)
        self.precision = precision
        self.loaded: list[nn.Module] = []
        self.registered: list[nn.Module] = []
        self.accelerator = "accelerator"

    def load_reference(self, *, moves: bool = False) -> nn.Module:
        self.loaded.append(tiny_model("llama", layers=1, seed=len(self.loaded) + 1))
        return self.loaded[-1]


def reference(session: Loading, *, policy: nn.Module | None = None, every: int = 0, mix: float = 1.0, keep=False):
    if every:
        session.accelerator = SimpleNamespace(register_for_checkpointing=session.registered.append)
    made = Reference(session, policy or tiny_model("llama", layers=1), LAYOUT, every=every, mix=mix, keep=keep)
    session.accelerator = "accelerator"
    return made


def examples() -> list[Example]:
    """Two with a mismatched group, one without."""
    return [
        Example(GROUPS[0], (True, False), mismatched=GROUPS[1], question="a"),
        Example(GROUPS[2], (True,), question="b"),
        Example(GROUPS[1], (True, False), mismatched=GROUPS[0], question="c"),
    ]


def test_each_group_gets_its_own_numbers(asked: Asked) -> None:
    """Sums of the tokens, negative. The mismatched are scored by themselves, and whoever has none gets none."""
    session = Loading()
    made = reference(session).score(examples())
    assert [e.logp_ref for e in made] == [(-5.0, -4.0), (-9.0,), (-7.0, -8.0)]
    assert [e.logp_ref_mismatched for e in made] == [(-7.0, -8.0), None, (-5.0, -4.0)]
    assert [(e.group, e.desirable, e.mismatched, e.question) for e in made] == [
        (e.group, e.desirable, e.mismatched, e.question) for e in examples()
    ]
    assert [count for _, count in asked] == [3, 2]
    asked.clear()
    assert [e.logp_ref_mismatched for e in reference(session).score([examples()[1]])] == [None]
    assert [count for _, count in asked] == [1], "nothing mismatched, nothing to score"


def test_the_initial_model_is_loaded_for_as_long_as_it_is_asked_for(asked: Asked) -> None:
    session = Loading()
    it = reference(session)
    assert (it.kept, it.moving, session.loaded, session.registered) == (None, None, [], [])
    for count in (1, 2):
        it.initial_logp(GROUPS)
        assert len(session.loaded) == count
        assert asked[-1] == (session.loaded[-1], 3)


def test_a_model_that_is_kept_is_loaded_once(asked: Asked) -> None:
    session = Loading()
    it = reference(session, keep=True)
    for _ in range(3):
        it.initial_logp(GROUPS)
    assert len(session.loaded) == 1
    assert [model for model, _ in asked] == session.loaded * 3


def test_under_adapters_is_the_initial_model(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """With LoRA no second model is loaded: the policy is asked, its adapters off."""
    off: list[nn.Module] = []

    @contextmanager
    def adapters_off(model: nn.Module):
        off.append(model)
        yield
        off.pop()

    def scored(scorer: nn.Module, groups, *_):
        assert off == [scorer.model]
        return asked.scored(scorer, groups, "accelerator", LAYOUT)

    monkeypatch.setattr(module, "without_adapters", adapters_off)
    monkeypatch.setattr(module, "score_all", scored)
    session, policy = Loading(lora_rank=4), tiny_model("llama", layers=1)
    it = reference(session, policy=policy, keep=True)
    it.initial_logp(GROUPS)
    assert asked == [(policy, 3)]
    assert session.loaded == []


def test_what_was_ever_computed_is_in_the_cache(asked: Asked, tmp_path: Path) -> None:
    """By the model's weights, the precision and every token that is scored; in the folder `reference`."""
    name, other = (str(save_tiny(tmp_path / str(seed), seed=seed)) for seed in (0, 1))
    made = reference(Loading(name)).score_once(examples())
    assert [e.logp_ref for e in made] == [(-5.0, -4.0), (-9.0,), (-7.0, -8.0)]
    assert [e.logp_ref_mismatched for e in made] == [(-7.0, -8.0), None, (-5.0, -4.0)]
    assert len(asked) == 2
    assert len(list((tmp_path / "cache" / "reference").iterdir())) == 2
    session = Loading(name)
    assert reference(session).score_once(examples()) == made
    assert (len(asked), session.loaded) == (2, [])
    for session, given in (
        (Loading(other), examples()),
        (Loading(name, precision="bf16"), examples()),
        (Loading(name), examples()[:2]),
    ):
        count = len(asked)
        reference(session).score_once(given)
        assert len(asked) > count


@pytest.mark.parametrize("mix", [0.25, 1.0])
def test_a_reference_moves_towards_the_policy_every_so_often(asked: Asked, mix: float) -> None:
    """It is saved with the run, and asked in the place of the initial model, which stays for KL."""
    session, policy = Loading(), tiny_model("llama", layers=1, seed=9)
    it = reference(session, policy=policy, every=2, mix=mix)
    assert session.registered == [it.moving] == session.loaded
    before = [p.clone() for p in it.moving.parameters()]
    its = [p.clone() for p in policy.parameters()]
    for done in (1, 2, 3):
        it.follow(done)
        for own, a, b in zip(it.moving.parameters(), before, its, strict=True):
            torch.testing.assert_close(own, a if done == 1 else (1 - mix) * a + mix * b)
            assert not own.grad_fn
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), its, strict=True))
    it.score(examples())
    assert {id(model) for model, _ in asked} == {id(it.moving)}
    it.initial_logp(GROUPS)
    assert asked[-1][0] is session.loaded[-1] is not it.moving


def test_a_reference_that_stays_does_not_move(asked: Asked) -> None:
    session = Loading()
    it = reference(session, keep=True)
    before = [p.clone() for p in it.kept.parameters()]
    it.follow(2)
    assert all(torch.equal(a, b) for a, b in zip(it.kept.parameters(), before, strict=True))
