"""KL(policy || start) of completions, against all completions there are."""

from itertools import product

import pytest
import torch
from tiny_models import tiny_model

from rlhf.evaluate.kl import exact_kl
from rlhf.groups import Group
from rlhf.logprobs import Scorer, score


def test_exact_kl_has_the_mean_of_the_kl_of_all_completions() -> None:
    """The vocabulary has 4 tokens and a completion 3, so all 64 can be listed: E_pi[sum over tokens of the KL of the
    next token] is KL(pi || start) = sum_y pi(y) (log pi(y) - log start(y)) of whole completions."""
    policy, start = tiny_model("qwen3", vocabulary=4), tiny_model("qwen3", vocabulary=4, seed=1)
    groups = [Group([0, 2, 1], [list(y)]) for y in product(range(4), repeat=3)]
    logp, logp_start = (
        score(Scorer(model), groups, token_budget=999, device=torch.device("cpu")).logp.double().sum(1)
        for model in (policy, start)
    )
    assert float(logp.exp().sum()) == pytest.approx(1, abs=1e-5)
    wanted = float(logp.exp() @ (logp - logp_start))
    assert float(logp.exp() @ exact_kl(policy, start, groups).double()) == pytest.approx(wanted, rel=1e-4)
    assert wanted > 0.1


def test_exact_kl_of_completions_of_unequal_length() -> None:
    """A completion alone has what it has beside a longer one."""
    policy, start = tiny_model("qwen3"), tiny_model("qwen3", seed=1)
    groups = [Group([5, 6], [[1, 2]]), Group([7], [[3, 4, 5, 6]])]
    both = exact_kl(policy, start, groups)
    assert both.tolist() == pytest.approx([float(exact_kl(policy, start, [group])) for group in groups], rel=1e-4)
