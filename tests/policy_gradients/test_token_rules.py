"""The rules that look at all tokens of an optimizer step: by hand, and however the step is divided."""

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from policy_gradients.config import PolicyGradientConfig
from policy_gradients.token_rules import Chosen, StepTokens, choose, has_rules, highest, largest_within, uniform_numbers

MASK = torch.tensor([[True, True, True], [True, True, False]])


def tokens(**given: Tensor) -> StepTokens:
    """Five tokens, one more behind the end with numbers that would win everywhere."""
    zero = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 99.0]])
    known = {name: given.get(name, zero) for name in ("logp", "logp_old", "entropy", "adv")}
    return StepTokens(**known, mask=MASK, uniform=given.get("uniform", zero.clamp(max=0.99)))


def chosen(given: StepTokens, **settings) -> Chosen:
    return choose(PolicyGradientConfig(**settings), given, Accelerator(cpu=True))


def test_the_share_with_the_highest_entropy_stays() -> None:
    """0.4 of five tokens are two: those of 3.0 and 2.0."""
    entropy = torch.tensor([[0.5, 3.0, 1.0], [2.0, 0.1, 99.0]])
    found = chosen(tokens(entropy=entropy), top_entropy=0.4)
    assert found.kept.tolist() == [[False, True, False], [True, False, False]]
    assert not found.held.any()


def test_the_second_moment_is_bounded_by_leaving_out_the_largest() -> None:
    """Of log-ratios to a policy that said -1. Squares 0.01, 0.09, 0.04, 1, 0.25: the mean of all is 0.278; without 1,
    0.0975; without 0.25 too, 0.047; of 0.01 and 0.04, 0.025."""
    log_ratio = torch.tensor([[0.1, -0.3, 0.2], [1.0, -0.5, 99.0]])
    moved = tokens(logp=log_ratio - 1, logp_old=torch.full((2, 3), -1.0))
    for bound, kept in ((0.3, 5), (0.1, 4), (0.05, 3), (0.04, 2), (0.009, 0)):
        found = chosen(moved, second_moment=bound).kept
        assert int(found.sum()) == kept
        squares = log_ratio[found].square()
        assert not kept or squares.mean() <= bound + 1e-6
        assert not found[1, 2]
    assert chosen(moved, second_moment=0.05).kept.tolist() == [[True, True, True], [False, False, False]]
    assert largest_within(torch.tensor([0.0, 1.0, 5.0]), mean=0.5) == 1, "a mean that is the bound is within"


COVARIANT = tokens(
    adv=torch.tensor([[2.0, 0.0, 1.0], [2.0, 0.0, 99.0]]),
    logp=torch.tensor([[-1.0, -5.0, -3.0], [-2.0, -4.0, 99.0]]),
    uniform=torch.tensor([[0.1, 0.2, 0.3], [0.9, 0.5, 0.99]]),
)


def test_kl_cov_holds_the_highest_covariances() -> None:
    """Less the means 1 and -3: adv (1, -1, 0, 1, -1) times logp (2, -2, 0, 1, -1) is 2, 2, 0, 1, 1. Of a share of 0.4
    the two with 2; all stay in the policy's loss."""
    found = chosen(COVARIANT, covariance="kl", covariance_share=0.4)
    assert found.held.tolist() == [[True, True, False], [False, False, False]]
    assert torch.equal(found.kept, MASK)


def test_clip_cov_leaves_out_some_of_a_band() -> None:
    """Between 0.5 and 1.5 lie the two with 1; of a share of 0.2, one token, the one of the larger random number."""
    band = {"covariance": "clip", "covariance_low": 0.5, "covariance_high": 1.5}
    found = chosen(COVARIANT, **band, covariance_share=0.2)
    assert found.kept.tolist() == [[True, True, True], [False, True, False]]
    assert chosen(COVARIANT, **band, covariance_share=0.99).kept.sum() == 3, "no more than there are in the band"
    outside = chosen(COVARIANT, covariance="clip", covariance_low=2.5, covariance_high=9.0, covariance_share=0.5)
    assert torch.equal(outside.kept, MASK)
    at_the_edges = chosen(COVARIANT, covariance="clip", covariance_low=1.0, covariance_high=2.0, covariance_share=0.99)
    assert torch.equal(at_the_edges.kept, MASK), "both bounds lie outside the band"


def test_a_rule_that_is_not_asked_for_does_nothing() -> None:
    """Two of these covariances lie in the band that Clip-Cov has by default."""
    found = chosen(COVARIANT, second_moment=1e9)
    assert torch.equal(found.kept, MASK)
    assert not found.held.any()


def test_the_mean_covariance_is_how_fast_entropy_falls() -> None:
    """Cui et al., for a softmax policy that takes a step of logits along the natural gradient, by its advantages:
    dH = -eta * Cov(log pi, adv). Here eta = 1e-6, exact policy, in double precision."""
    logits = torch.tensor([0.5, -1.0, 0.2, 1.5], dtype=torch.float64)
    p, logp = logits.softmax(-1), logits.log_softmax(-1)
    reward = torch.tensor([1.0, 0.0, -0.5, 2.0], dtype=torch.float64)
    adv = reward - (p * reward).sum()
    after = (logits + 1e-6 * adv).log_softmax(-1)
    fallen = -(p * logp).sum() + (after.exp() * after).sum()
    covariance = (p * (logp - (p * logp).sum()) * adv).sum()
    assert fallen.item() / 1e-6 == pytest.approx(covariance.item(), rel=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {"top_entropy": 0.3},
        {"second_moment": 0.2},
        {"covariance": "kl", "covariance_share": 0.3},
        {"covariance": "clip", "covariance_share": 0.2, "covariance_low": -9.0, "covariance_high": 9.0},
    ],
)
def test_two_processes_choose_as_one(settings: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has one of two completions and hears of the other's tokens."""
    generator = torch.Generator().manual_seed(1)
    values = {
        name: torch.randn(2, 3, generator=generator) for name in ("logp", "logp_old", "entropy", "adv", "uniform")
    }
    config, accelerator = PolicyGradientConfig(**settings), Accelerator(cpu=True)

    def of(rows: slice) -> StepTokens:
        return StepTokens(**{name: value[rows] for name, value in values.items()}, mask=MASK[rows])

    one = choose(config, of(slice(0, 2)), accelerator)
    assert 0 < int(one.kept.sum()) + int(one.held.sum()) < 10
    # What each process hands over, in the order of the calls, which is the same in both.
    handed: list[list[Tensor]] = [[], []]
    for turn in range(3):  # what is handed over later depends on what was gathered before
        for me in (0, 1):
            calls = iter(range(9))

            def both(own: list[Tensor], _accelerator, me=me, calls=calls) -> list[Tensor]:
                k = next(calls)
                handed[me][k:] = own
                other = handed[1 - me]
                return [*own, *other[k : k + 1]]

            monkeypatch.setattr("policy_gradients.token_rules.gather", both)
            found = choose(config, of(slice(me, me + 1)), accelerator)
            if turn == 2:
                assert torch.equal(found.kept, one.kept[me : me + 1])
                assert torch.equal(found.held, one.held[me : me + 1])


def test_cuts_of_nothing() -> None:
    assert highest(torch.zeros(0), share=0.5) == 0
    assert largest_within(torch.zeros(0), mean=0.5) == -1
    assert highest(torch.tensor([1.0, 2.0]), share=1e-6) == 2, "one token at least"


def test_random_numbers_belong_to_the_problem() -> None:
    both = uniform_numbers(5, [8, 3], g=2, t=4)
    assert (both.shape, both.dtype) == ((4, 4), torch.float32)
    assert torch.equal(both[2:], uniform_numbers(5, [3], g=2, t=4))
    assert not torch.equal(both[2:], uniform_numbers(6, [3], g=2, t=4))
    assert (both >= 0).all()
    assert (both < 1).all()


def test_without_rules_nothing_is_scored() -> None:
    assert not has_rules(PolicyGradientConfig())
    for settings in ({"top_entropy": 0.2}, {"second_moment": 0.04}, {"covariance": "kl"}):
        assert has_rules(PolicyGradientConfig(**settings))
