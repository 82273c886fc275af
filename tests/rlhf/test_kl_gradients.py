"""What gradient a KL estimator has where it is put: docs/kl.md says it, this proves it, by sums over all outcomes.

Samples come from OLD, which is POLICY itself on-policy. The ratio is pi / old.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from enumerated_policy import Enumerated
from torch import Tensor

from rlhf.kl import estimators, k1, k2, k3
from rlhf.tensors import masked_sum

POLICY = torch.tensor([0.70, 0.20, 0.09, 0.01], dtype=torch.float64)
REFERENCE = torch.tensor([0.05, 0.15, 0.30, 0.50], dtype=torch.float64)
OLD = torch.tensor([0.40, 0.30, 0.10, 0.20], dtype=torch.float64)
PAGE = (Path(__file__).parents[2] / "docs" / "kl.md").read_text()


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum()


def gradient(value: Callable[[Tensor], Tensor]) -> Tensor:
    """Of a function of the policy's log-probabilities, with respect to its logits."""
    logits = POLICY.log().requires_grad_()
    return torch.autograd.grad(value(logits.log_softmax(-1)), logits)[0]


FORWARD = gradient(lambda logp: kl(logp.exp(), REFERENCE))  # of KL(pi || ref)
REVERSE = gradient(lambda logp: kl(REFERENCE, logp.exp()))  # of KL(ref || pi)
TO_OLD = gradient(lambda logp: kl(OLD, logp.exp()))  # of KL(old || pi)
ZERO = torch.zeros(4, dtype=torch.float64)
PLACES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    # what is minimized of each sample, from k, log pi, and the ratio
    "loss": lambda k, _logp, _ratio: k,
    "loss * ratio": lambda k, _logp, ratio: ratio * k,
    "loss * sg(ratio)": lambda k, _logp, ratio: ratio.detach() * k,
    "reward": lambda k, logp, _ratio: k.detach() * logp,
    "reward * ratio": lambda k, _logp, ratio: k.detach() * ratio,
}


def expected(name: str, place: str, samples: Tensor) -> Tensor:
    """The expected gradient of the penalty, over samples from `samples`."""

    def value(logp: Tensor) -> Tensor:
        k = estimators[name](logp[None], REFERENCE.log()[None])[0]
        return (samples * PLACES[place](k, logp, (logp - samples.log()).exp())).sum()

    return gradient(value)


@pytest.mark.parametrize(
    ("place", "name", "exact"),
    [
        ("loss", "k1", ZERO),
        ("loss", "k2", FORWARD),
        ("loss", "k3", REVERSE),
        ("loss * ratio", "k1", FORWARD),
        ("loss * ratio", "k3", FORWARD),
        ("loss * sg(ratio)", "k2", FORWARD),
        ("reward", "k1", FORWARD),
        ("reward", "k3", FORWARD - REVERSE),
    ],
)
def test_on_policy(place: str, name: str, exact: Tensor) -> None:
    torch.testing.assert_close(expected(name, place, POLICY), exact, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize(
    ("place", "name", "exact"),
    [
        ("loss", "k1", -TO_OLD),
        ("loss * ratio", "k1", FORWARD),
        ("loss * ratio", "k3", FORWARD),
        ("loss * sg(ratio)", "k1", ZERO),
        ("loss * sg(ratio)", "k2", FORWARD),
        ("loss * sg(ratio)", "k3", REVERSE),
        ("reward * ratio", "k1", FORWARD),
        ("reward * ratio", "k3", FORWARD - REVERSE),
    ],
)
def test_off_policy(place: str, name: str, exact: Tensor) -> None:
    torch.testing.assert_close(expected(name, place, OLD), exact, atol=1e-12, rtol=1e-9)


def test_k1_that_was_paid_before_the_policy_moved() -> None:
    """As PPO has it: k1 of the policy that sampled. In later steps on the batch the gradient of KL(pi || old) is
    missing; in the first, where pi is old, nothing is."""
    paid = k1(OLD.log()[None], REFERENCE.log()[None])[0]
    found = gradient(lambda logp: (OLD * paid * (logp - OLD.log()).exp()).sum())
    from_old = gradient(lambda logp: kl(logp.exp(), OLD))
    assert from_old.abs().max() > 0.05
    torch.testing.assert_close(found, FORWARD - from_old, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize(
    ("place", "name"), [("loss", "k2"), ("loss", "k3"), ("reward", "k1"), ("reward", "k3"), ("loss * ratio", "k2")]
)
def test_what_is_neither_divergences_gradient_off_policy(place: str, name: str) -> None:
    found = expected(name, place, OLD)
    for exact in (FORWARD, REVERSE, ZERO):
        assert (found - exact).abs().max() > 0.05
    if (place, name) == ("loss * ratio", "k2"):  # on-policy, neither
        assert (expected(name, place, POLICY) - FORWARD).abs().max() > 0.05


def test_k2_and_k3_in_the_reward_vanish_near_the_reference() -> None:
    """Half way to the reference in logits, and half way again: k1's pull halves, those of k2 and k3 fall by four."""
    pulls: dict[str, list[float]] = {"k1": [], "k2": [], "k3": []}
    for distance in (0.02, 0.01):
        logits = (REFERENCE.log() + distance * torch.tensor([1.0, -0.5, 0.3, 0.8])).requires_grad_()
        logp = logits.log_softmax(-1)
        for name in pulls:
            k = estimators[name](logp[None], REFERENCE.log()[None])[0].detach()
            (pull,) = torch.autograd.grad((logp.exp().detach() * k * logp).sum(), logits, retain_graph=True)
            pulls[name].append(float(pull.abs().max()))
    assert pulls["k1"][0] / pulls["k1"][1] == pytest.approx(2, rel=0.02)
    for name in ("k2", "k3"):
        assert pulls[name][0] / pulls[name][1] == pytest.approx(4, rel=0.05)


def test_the_inverse_ratio_estimates_chi_square_less_kl() -> None:
    """E_pi[pi / ref - 1 - log(pi / ref)] = chi^2(pi || ref) - KL(pi || ref)."""
    chi_square = ((POLICY - REFERENCE).square() / REFERENCE).sum()
    backwards = (POLICY * k3(REFERENCE.log()[None], POLICY.log()[None])[0]).sum()
    torch.testing.assert_close(backwards, chi_square - kl(POLICY, REFERENCE))
    assert backwards > 3 * kl(POLICY, REFERENCE)


def test_values_and_spread_are_those_of_the_page() -> None:
    """Far from the reference, and close to it."""
    close = (0.9 * REFERENCE.log() + 0.1 * POLICY.log()).softmax(-1)
    rows = re.findall(r"^\| (far|close) \| ([\d.]+) \| (.*) \|$", PAGE, flags=re.MULTILINE)
    assert [row[0] for row in rows] == ["far", "close"]
    for (_, exact, cells), p in zip(rows, (POLICY, close), strict=True):
        assert float(exact) == pytest.approx(float(kl(p, REFERENCE)), rel=5e-3)
        for cell, estimate in zip(cells.split(" | "), (k1, k2, k3), strict=True):
            mean, spread = (float(x) for x in cell.split(" ± "))
            k = estimate(p.log()[None], REFERENCE.log()[None])[0]
            assert mean == pytest.approx(float((p * k).sum()), rel=5e-3)
            assert spread == pytest.approx(float((p * (k - (p * k).sum()).square()).sum().sqrt()), rel=5e-3)


# ------------------------------------------------------------------------------------------- completions of tokens


def sequence_gradients() -> dict[str, Tensor]:
    policy, reference = Enumerated(1), Enumerated(5)
    logp, logp_ref, mask = policy.logp(), reference.logp().detach(), policy.mask
    whole = policy.probability()
    p = whole.detach()[:, None]
    of_tokens = k1(logp.detach(), logp_ref)
    to_go = torch.where(mask, of_tokens, 0.0).flip(1).cumsum(1).flip(1)

    def of(value: Tensor) -> Tensor:
        return torch.autograd.grad(value, policy.theta, retain_graph=True)[0]

    total = (whole * (whole.log() - reference.probability().detach().log())).sum()
    table, table_ref = policy.theta.log_softmax(-1), reference.theta.log_softmax(-1).detach()
    of_states = (table.exp() * (table - table_ref)).sum(-1)  # KL of the next token in each state
    visits = policy.visits().detach()
    return {
        "exact": of(total),
        "reward, whole completion": of((p * masked_sum(of_tokens, mask)[:, None] * torch.where(mask, logp, 0.0)).sum()),
        "reward, tokens to come": of((p * to_go * torch.where(mask, logp, 0.0)).sum()),
        "reward, own token": of((p * torch.where(mask, of_tokens * logp, 0.0)).sum()),
        "k2 in the loss": of((p * torch.where(mask, k2(logp, logp_ref), 0.0)).sum()),
        "states as they are": of((visits * of_states).sum()),
    }


def test_only_what_comes_later_makes_it_the_kl_of_completions() -> None:
    """k1 off the reward of the completion, or charged to the tokens before it, has the gradient of KL(pi || ref) of
    whole completions. A term in the loss, or a charge to its own token alone, takes the states as they are: it is the
    sum over states of the next token's KL, without what an earlier token does to which states are come to."""
    found = sequence_gradients()
    for name in ("reward, whole completion", "reward, tokens to come"):
        torch.testing.assert_close(found[name], found["exact"], atol=1e-12, rtol=1e-9)
    for name in ("reward, own token", "k2 in the loss"):
        torch.testing.assert_close(found[name], found["states as they are"], atol=1e-12, rtol=1e-9)
    assert (found["states as they are"] - found["exact"]).abs().max() > 0.05
