"""Every loss against values derived by hand, in its limits, and beside TRL's where the definitions agree."""

import math
from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from direct_alignment.config import LOSS_NAMES, DirectAlignmentConfig
from direct_alignment.loss import Completions, Loss
from direct_alignment.losses import losses
from rlhf.errors import UserError

LN2, LN3 = math.log(2), math.log(3)
ALL = {**losses, "ipo_sum": losses["ipo"].variants["ipo_sum"]}
EVERY = pytest.mark.parametrize("name", ALL)


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def completions(s: Tensor, *, logp_ref: Tensor | None = None, length: float = 1.0, mismatched=(0.0,)) -> Completions:
    """Chosen and rejected in turn, with these log-ratios; one token each, so that means are sums."""
    logp_ref = torch.full_like(s, -1.0) if logp_ref is None else logp_ref
    desirable = torch.arange(len(s)) % 2 == 0
    logp = s + logp_ref
    return Completions(
        *(logp, logp_ref, torch.full_like(s, length), desirable, torch.tensor(mismatched), logp / 2, logp_ref / 2),
        logp_sharper=logp.detach() - 0.5,
    )


def value(name: str, *arguments: Tensor, **settings: float) -> list[float]:
    return ALL[name].function(*arguments, **settings).tolist()


# ---------------------------------------------------------------------------------------------- values by hand
#
# With beta 0.1, s_w = 10 ln 3 and s_l = -10 ln 2:  sigmoid(beta s_w) = 3/4,  sigmoid(beta s_l) = 1/3,
# beta D = ln 6 and sigmoid(ln 6) = 6/7.

W, L = 10 * LN3, -10 * LN2


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("dpo", {}, math.log(7 / 6)),
        ("cdpo", {}, 0.9 * math.log(7 / 6) + 0.1 * math.log(7)),  # sigmoid(-ln 6) = 1/7
        ("robust", {}, (0.9 * math.log(7 / 6) - 0.1 * math.log(7)) / 0.8),
        ("hinge", {"beta": 0.1}, 0.0),  # ln 6 > 1
        ("hinge", {"beta": 0.05}, 1 - math.log(6) / 2),
        ("apo_zero", {}, 1 / 4 + 1 / 3),
        ("apo_down", {}, 3 / 4 + 1 / 7),
        ("exo", {"label_smoothing": 0.1}, 6 / 7 * math.log(6 / 7 / 0.9) + 1 / 7 * math.log(1 / 7 / 0.1)),
        ("nca", {"beta": 0.1}, -math.log(3 / 4) - math.log(1 / 4) / 2 - math.log(2 / 3) / 2),
        ("sppo_hard", {"beta": 0.1}, (W - 5) ** 2 + (L + 5) ** 2),
        ("ipo_sum", {}, (W - L - 5) ** 2),
    ],
)
def test_of_log_ratios(name: str, settings: dict[str, float], expected: float) -> None:
    assert value(name, tensor(W), tensor(L), **settings) == [pytest.approx(expected, abs=1e-9)]


def test_dpo_norm() -> None:
    """On token means: with beta 2 and a difference of ln(3) / 2, sigmoid(ln 3) = 3/4."""
    assert value("dpo_norm", tensor(LN3 / 2), tensor(0.0)) == [pytest.approx(math.log(4 / 3))]


def test_ipo() -> None:
    """beta 0.25 has the target 1 / 0.5 = 2; means 1 and -0.5 are 1.5 apart: 0.5^2."""
    assert value("ipo", tensor(1.0), tensor(-0.5), beta=0.25) == [pytest.approx(0.25)]


def test_simpo() -> None:
    """m_w - m_l = 1; gamma is half of beta, so beta (1 - 1/2) = ln 3 for beta = 2 ln 3, and sigmoid(ln 3) = 3/4."""
    assert value("simpo", tensor(-0.5), tensor(-1.5), beta=2 * LN3) == [pytest.approx(math.log(4 / 3))]


def test_orpo() -> None:
    """Mean probabilities 1/2 and 1/4: odds 1 and 1/3, so the log odds differ by ln 3; NLL of the chosen ln 2."""
    assert value("orpo", tensor(-LN2), tensor(-2 * LN2)) == [pytest.approx(LN2 + 0.1 * math.log(4 / 3))]


def test_kto() -> None:
    """z = mean(0, 20 ln 2) = 10 ln 2. Wanted, s = 10 ln 6: beta (s - z) = ln 3, so 1 - 3/4, times 2.
    Unwanted, s = 10 ln 2 - 10 ln 3: beta (z - s) = ln 3, so 1 - 3/4, times 3."""
    s, desirable, mismatched = (
        tensor(10 * math.log(6), 10 * (LN2 - LN3)),
        torch.tensor([True, False]),
        tensor(0, 20 * LN2),
    )
    got = value("kto", s, desirable, mismatched, desirable_weight=2.0, undesirable_weight=3.0)
    assert got == [pytest.approx(2 / 4), pytest.approx(3 / 4)]


def test_kto_z_is_not_negative_and_has_no_gradient() -> None:
    s, mismatched = tensor(0.0), tensor(-5.0)
    losses["kto"].function(s, torch.tensor([True]), mismatched).sum().backward()
    assert mismatched.grad is None or mismatched.grad.item() == 0
    assert value("kto", s, torch.tensor([True]), mismatched) == [0.5]  # z = 0


def test_bco() -> None:
    """Rewards 2 ln 3 of the wanted and 0 of the unwanted one: the middle is ln 3, and both are ln 3 on their side."""
    got = value("bco", tensor(20 * LN3, 0.0), torch.tensor([True, False]), beta=0.1)
    assert got == [pytest.approx(math.log(4 / 3))] * 2


def test_bco_of_one_class_alone() -> None:
    """The middle is then that class's own mean."""
    assert value("bco", tensor(3.0, 3.0), torch.tensor([True, True])) == [pytest.approx(LN2)] * 2


def test_aot_compares_ranks_and_not_pairs() -> None:
    """Margins of the policy 20 and 0, of the reference 0 and 10. Sorted: (0, 20) against (0, 10): D = (0, 10), and with
    beta = ln 3 / 10: ln 2 and -log sigmoid(ln 3). By pairs it would be D = (20, -10)."""
    got = value("aot", tensor(20.0, -10.0), tensor(0.0, 0.0), tensor(0.0, 10.0), beta=LN3 / 10)
    assert got == [pytest.approx(LN2), pytest.approx(math.log(4 / 3))]


def test_discopop() -> None:
    """x = tau ln 3: the gate is sigmoid(ln 3) = 3/4."""
    x = 0.05 * LN3
    expected = 1 / 4 * math.log(1 + math.exp(-x)) + 3 / 4 * math.exp(-x)
    assert value("discopop", tensor(x), tensor(0.0), beta=1.0) == [pytest.approx(expected)]


def test_dpo_nll_and_cpo() -> None:
    """sigmoid(ln 6) = 6/7 and half the likelihood of ln 2 a token; CPO has the same of log-probabilities themselves."""
    expected = math.log(7 / 6) + 0.5 * LN2
    assert value("dpo_nll", tensor(W), tensor(L), tensor(-LN2), nll_alpha=0.5) == [pytest.approx(expected)]
    low = tensor(W - 50.0), tensor(L - 50.0), tensor(-LN2)
    assert value("cpo", *low, nll_alpha=0.5) == [pytest.approx(expected)]


def test_wpo() -> None:
    """Of probabilities (1/2, 1/4, 1/4) the sum of squares is 3/8, of (3/4, 1/8, 1/8) it is 19/32: the chosen, tokens of
    1/2 and 1/8, has w = sqrt(4/3 * 4/19), the rejected, one token of 1/4, w = 2/3. The gradient is theirs times that of
    DPO: none goes through a weight."""
    first, second = (torch.tensor(p, dtype=torch.float64).log() for p in ([1 / 2, 1 / 4, 1 / 4], [3 / 4, 1 / 8, 1 / 8]))
    sharp, sharp_second = ((logits / 0.5).log_softmax(0) for logits in (first, second))
    logp = torch.stack([first[0] + second[1], first[1]]).requires_grad_()
    it = Completions(
        logp=logp,
        logp_ref=tensor(-1.0, -2.0).detach(),
        length=torch.tensor([2.0, 1.0], dtype=torch.float64),
        desirable=torch.tensor([True, False]),
        logp_sharper=torch.stack([sharp[0] + sharp_second[1], sharp[1]]),
    )
    assert it.w.tolist() == pytest.approx([math.sqrt(4 / 3 * 4 / 19), 2 / 3])
    weight = math.sqrt(4 / 3 * 4 / 19) * 2 / 3
    weighted, plain = ALL["wpo"](it), ALL["dpo"](it)
    assert weighted.tolist() == pytest.approx([weight * plain.item()])
    slopes_of = [torch.autograd.grad(loss.sum(), logp)[0] for loss in (weighted, plain)]
    assert slopes_of[0].tolist() == pytest.approx((weight * slopes_of[1]).tolist())


def test_ld_dpo() -> None:
    """Of s_w = 3 the shared tokens have 1, s_l = -2 is shared whole: with alpha 1/4, s' = 1.5 and -2. alpha 1 is DPO,
    alpha 0 leaves the rest out. The gradient of a token beyond is a quarter of that of a shared one."""
    given = [tensor(3.0), tensor(-2.0), tensor(1.0), tensor(-2.0)]
    assert value("ld_dpo", *given, beta=1.0, ld_alpha=0.25) == [pytest.approx(math.log(1 + math.exp(-3.5)))]
    assert value("ld_dpo", *given, ld_alpha=1.0) == value("dpo", *given[:2])
    assert value("ld_dpo", *given, ld_alpha=0.0) == value("dpo", *given[2:])
    loss = ALL["ld_dpo"].function(*given, beta=1.0, ld_alpha=0.25)
    whole, first = torch.autograd.grad(loss.sum(), [given[0], given[2]])
    assert whole.item() / (whole + first).item() == pytest.approx(0.25)


def test_the_likelihood_holds_the_chosen_up() -> None:
    """A pair won by far: DPO lets both fall together, here the chosen is still pulled up by nll_alpha / length."""
    s = tensor(300.0, -300.0)
    loss = losses["dpo_nll"](completions(s, length=4.0), nll_alpha=2.0)
    (slope,) = torch.autograd.grad(loss.sum(), s)
    assert slope.tolist() == pytest.approx([-2 / 4, 0], abs=1e-9)


def test_alphapo() -> None:
    """alpha 1: r(m) = 1 - 1/p. Mean probabilities 1/2 and 1/4 have -1 and -3; beta ((2) - 1) = ln 3, for gamma half of
    beta times two. alpha 0 is SimPO, and a small alpha nearly."""
    found = value("alphapo", tensor(-LN2), tensor(-2 * LN2), beta=LN3, gamma_beta_ratio=1.0, alphapo_alpha=1.0)
    assert found == [pytest.approx(math.log(4 / 3))]
    for alpha, digits in ((0.0, 1e-12), (1e-5, 1e-4)):
        near = value("alphapo", tensor(-0.3), tensor(-2.0), alphapo_alpha=alpha)
        assert near == pytest.approx(value("simpo", tensor(-0.3), tensor(-2.0)), abs=digits)


def test_f_dpo() -> None:
    """u_w = 2, u_l = 1/2. alpha 1, KL(ref || pi): f' = 1 - 1/u is 1/2 and -1, apart by 3/2. alpha 1/2: 2 (1 - u^-1/2).
    Jensen-Shannon: log(4/3) - log(2/3) = ln 2. alpha 0 is DPO."""
    pair = tensor(LN2), tensor(-LN2)
    for name, settings, apart in (
        ("fdpo_alpha", {"f_alpha": 1.0}, 1.5),
        ("fdpo_alpha", {"f_alpha": 0.5}, 2 * (2**0.5 - 0.5**0.5)),
        ("fdpo_alpha", {"f_alpha": 0.0}, 2 * LN2),
        ("fdpo_js", {}, LN2),
    ):
        expected = math.log(1 + math.exp(-0.7 * apart))
        assert value(name, *pair, beta=0.7, **settings) == [pytest.approx(expected)], name


def test_f_dpo_has_the_optimal_policy_of_its_divergence() -> None:
    """The policy that maximizes E[r] - beta D_f(pi || ref) has beta f'(pi / ref) = r + a constant. Over three outcomes,
    by gradient ascent on the objective itself; Jensen-Shannon: f(u) = u log u - (u + 1) log((u + 1) / 2)."""
    ref = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    reward, beta = torch.tensor([1.0, 0.2, -0.5], dtype=torch.float64), 2.0
    theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    for _ in range(3000):
        u = theta.softmax(0) / ref
        divergence = (ref * (u * u.log() - (u + 1) * ((u + 1) / 2).log())).sum()
        (slope,) = torch.autograd.grad((theta.softmax(0) * reward).sum() - beta * divergence, theta)
        theta = (theta + slope).detach().requires_grad_()
    s = (theta.softmax(0) / ref).log().detach()
    for w, worse in ((0, 1), (1, 2), (0, 2)):
        implied = math.log(1 + math.exp(-float(reward[w] - reward[worse])))
        assert value("fdpo_js", s[w : w + 1], s[worse : worse + 1], beta=beta) == [pytest.approx(implied, abs=1e-6)]


# ---------------------------------------------------------------------------------------------- what each one takes


def test_completions_by_name() -> None:
    """Two pairs, lengths 2 and 4: log-ratios of the chosen (1, 3), of the rejected (2, 4); margins of the reference."""
    it = Completions(
        logp=torch.tensor([-1.0, -2.0, -3.0, -4.0]),
        logp_ref=torch.tensor([-2.0, -4.0, -6.0, -8.0]),
        length=torch.tensor([2.0, 4.0, 2.0, 4.0]),
        desirable=torch.tensor([True, False, True, False]),
    )
    assert it.get("s_w").tolist() == [1, 3]
    assert it.get("s_l").tolist() == [2, 4]
    assert it.get("s_mean_w").tolist() == [0.5, 1.5]
    assert it.get("m_l").tolist() == [-0.5, -1.0]
    assert it.get("margin_ref").tolist() == [2, 2]
    assert it.get("s").tolist() == [1, 2, 3, 4]


def test_exo_of_certain_preferences_is_refused() -> None:
    """q = (1, 0): the KL from a policy that gives the rejected one any chance is infinite."""
    with pytest.raises(UserError, match="label_smoothing: exo needs one above 0"):
        losses["exo"].function(tensor(1.0), tensor(-1.0), label_smoothing=0.0)


@EVERY
def test_declared_needs_are_those_of_the_parameters(name: str) -> None:
    loss = ALL[name]
    names = {parameter.removesuffix("_w").removesuffix("_l") for parameter in loss.takes}
    assert ("reference" in loss.needs) == bool(names & {"s", "s_mean", "margin_ref"})
    assert ("pairs" in loss.needs) == any(parameter.endswith(("_w", "_l")) for parameter in loss.takes)
    assert ("mismatched" in loss.needs) == ("s_mismatched" in names)
    assert ("sharper" in loss.needs) == ("w" in names)
    assert loss.score in names


@EVERY
def test_whole_step_is_declared_where_completions_are_seen_together(name: str) -> None:
    """Dropping one pair changes the loss of another, or it does not."""
    s = torch.tensor([3.0, -1.0, -4.0, 2.0, 9.0, 1.0])
    ref = torch.tensor([-1.0, -9.0, -3.0, -2.0, -20.0, -8.0])
    whole, part = completions(s, logp_ref=ref), completions(s[:4], logp_ref=ref[:4])
    together = ALL[name](whole)[: len(ALL[name](part))]
    alone = not torch.allclose(together, ALL[name](part))
    assert alone == ("whole step" in ALL[name].needs)


def test_names_and_settings_are_the_config_s() -> None:
    assert list(losses) == LOSS_NAMES
    for loss in ALL.values():
        assert set(loss.settings) <= set(DirectAlignmentConfig.model_fields)
    assert {key for loss in losses.values() for key in loss.variants} <= set(DirectAlignmentConfig.model_fields)


PUBLISHED = {
    "dpo": {"beta": 0.1},
    "dpo_norm": {"beta": 2.0},
    "cdpo": {"beta": 0.1, "label_smoothing": 0.1},
    "robust": {"beta": 0.1, "label_smoothing": 0.1},
    "ipo": {"beta": 0.1},
    "ipo_sum": {"beta": 0.1},
    "hinge": {"beta": 0.05},
    "simpo": {"beta": 2.0, "gamma_beta_ratio": 0.5},
    "orpo": {"orpo_lambda": 0.1},
    "kto": {"beta": 0.1, "desirable_weight": 1.0, "undesirable_weight": 1.0},
    "apo_zero": {"beta": 0.1},
    "apo_down": {"beta": 0.1},
    "exo": {"beta": 0.1, "label_smoothing": 1e-3},
    "nca": {"beta": 0.01},
    "bco": {"beta": 0.01},
    "sppo_hard": {"beta": 0.001},
    "aot": {"beta": 0.01, "label_smoothing": 0.0},
    "discopop": {"beta": 0.05, "discopop_tau": 0.05},
    "dpo_nll": {"beta": 0.1, "nll_alpha": 1.0},
    "cpo": {"beta": 0.1, "nll_alpha": 1.0},
    "ld_dpo": {"beta": 0.1, "ld_alpha": 0.5},
    "wpo": {"beta": 0.1},
    "alphapo": {"beta": 2.0, "gamma_beta_ratio": 0.5, "alphapo_alpha": 0.25},
    "fdpo_alpha": {"beta": 0.1, "f_alpha": 0.5},
    "fdpo_js": {"beta": 0.1},
}


@EVERY
def test_published_values_are_the_defaults(name: str) -> None:
    """Written out once more: a loss learns with other values all the same, and nothing would be seen."""
    assert ALL[name].settings == PUBLISHED[name]


@EVERY
def test_defaults_are_what_a_loss_computes_with(name: str) -> None:
    it = completions(torch.tensor([3.0, -1.0, -4.0, 2.0]), logp_ref=torch.tensor([-1.0, -9.0, -3.0, -2.0]), length=7.0)
    torch.testing.assert_close(ALL[name](it), ALL[name](it, **PUBLISHED[name]), atol=0, rtol=0)


def test_thresholds_part_the_wanted_from_the_unwanted() -> None:
    """KTO: beta times the mean log-ratio of the mismatched, 0 at least. BCO: the middle of the mean rewards of the two
    classes, here of 2 and 4, and of 1. The others: 0."""
    it = Completions(
        logp=tensor(2.0, 4.0, 1.0),
        logp_ref=tensor(0.0, 0.0, 0.0),
        length=tensor(1.0, 1.0, 1.0),
        desirable=torch.tensor([True, True, False]),
        s_mismatched=tensor(5.0, 7.0),
    )
    settings = {"beta": 0.5, "desirable_weight": 3.0, "undesirable_weight": 2.0}
    assert losses["kto"].threshold(it, settings) == pytest.approx(0.5 * 6)
    assert losses["kto"].threshold(replace(it, s_mismatched=tensor(-5.0)), settings) == 0
    assert losses["bco"].threshold(it, {"beta": 0.5}) == pytest.approx((0.5 * 3 + 0.5 * 1) / 2)
    assert losses["dpo"].threshold(it, {"beta": 0.5}) == 0


# ---------------------------------------------------------------------------------------------- limits


def slopes(loss: Loss, s: Tensor, **settings: float) -> Tensor:
    s = s.clone().requires_grad_()
    (slope,) = torch.autograd.grad(loss(completions(s), **settings).sum(), s)
    return slope


@EVERY
def test_equal_pairs_move_apart(name: str) -> None:
    """At s = 0, the chosen is pulled up and the rejected pushed down, but for two. APO-down moves the rejected alone:
    the pulls of its two terms on the chosen, +-beta / 4, cancel. DiscoPOP, as published, has a hump there; with x = 0,
    g = 1/2 and g' = 1 / (4 tau) = 5, its slope is 5 (1 - ln 2) - 1/4 - 1/2 > 0, times beta."""
    up, down = (-slopes(ALL[name], torch.zeros(2))).tolist()
    if name == "discopop":
        assert -up == down == pytest.approx(0.05 * (5 * (1 - LN2) - 0.75), rel=1e-5)
        return
    assert down < 0
    assert up > 0 or (name == "apo_down" and up == 0)


@EVERY
@pytest.mark.parametrize("pair", [(1e4, -1e4), (-1e4, 1e4), (1e4, 1e4), (-1e4, -1e4), (0.0, 0.0)])
def test_extreme_log_ratios_stay_finite(name: str, pair: tuple[float, float]) -> None:
    """fp32: no overflow, no nan in the loss or its gradient. Log-probabilities stay below 0, as they are."""
    s = torch.tensor(pair, requires_grad=True)
    it = completions(s, logp_ref=torch.full((2,), -1e4 - 1.0), length=7.0)
    loss = ALL[name](it)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert s.grad is not None
    assert torch.isfinite(s.grad).all()


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        *((name, [LN2]) for name in ("dpo", "dpo_norm", "cdpo", "robust", "simpo", "aot")),
        *((name, [LN2]) for name in ("alphapo", "fdpo_alpha", "fdpo_js")),
        *((name, [1.0]) for name in ("hinge", "apo_zero", "apo_down")),
        ("kto", [0.5, 0.5]),
        ("nca", [2 * LN2]),
        ("bco", [LN2, LN2]),
        ("exo", [0.5 * math.log(0.5 / 0.999) + 0.5 * math.log(0.5 / 0.001)]),
        ("discopop", [LN2 / 2 + 0.5]),
    ],
)
def test_beta_to_0_forgets_the_pair(name: str, limit: list[float]) -> None:
    """Everything scaled by beta vanishes: sigmoid(0) = 1/2, whatever the pair. (IPO's and SPPO's targets 1 / beta go to
    infinity instead; ORPO has no beta.)"""
    s = tensor(3.0, -2.0)
    loss = ALL[name](completions(s), beta=1e-12)
    assert loss.tolist() == pytest.approx(limit, abs=1e-6)
    assert slopes(ALL[name], s.detach(), beta=1e-12).abs().max() < 1e-9


def test_no_smoothing_is_dpo() -> None:
    s_w, s_l = tensor(W, -3.0), tensor(L, 4.0)
    for name in ("cdpo", "robust"):
        assert value(name, s_w, s_l, label_smoothing=0.0) == pytest.approx(value("dpo", s_w, s_l))


def test_robust_is_unbiased() -> None:
    """With flips of probability e, the expectation of the loss is DPO's on clean pairs."""
    s_w, s_l, e = tensor(W, -3.0), tensor(L, 4.0), 0.2
    clean, flipped = (torch.tensor(value("robust", a, b, label_smoothing=e)) for a, b in ((s_w, s_l), (s_l, s_w)))
    assert ((1 - e) * clean + e * flipped).tolist() == pytest.approx(value("dpo", s_w, s_l))


def test_cdpo_has_its_minimum_at_the_odds() -> None:
    """beta D = log((1 - e) / e) = ln 9."""
    assert slopes(losses["cdpo"], torch.tensor([10 * math.log(9), 0.0])).abs().max() < 1e-7
    assert slopes(losses["cdpo"], torch.tensor([10 * math.log(9) + 1, 0.0]))[0] > 0


@pytest.mark.parametrize("m", [-1e-3, -1e-5, -1e-8, 0.0, -0.693, -0.6931471805599453, -50.0, -1e4])
def test_orpo_near_certainty(m: float) -> None:
    """Log odds of a token probability of 1 would be infinite; both sides stay finite, value and gradient."""
    for pair in ((m, -1.0), (-1.0, m), (m, m)):
        m_w, m_l = (torch.tensor([x], requires_grad=True) for x in pair)
        loss = losses["orpo"].function(m_w, m_l)
        loss.sum().backward()
        assert torch.isfinite(torch.stack([loss.detach(), m_w.grad, m_l.grad])).all()


def test_log_odds_is_exact_in_fp32() -> None:
    """Against fp64, over the whole line, 1e-6 away from 0."""
    from direct_alignment.transforms import log_odds

    m = -torch.logspace(-5.9, 2, 200, dtype=torch.float64)
    exact = m - torch.log(-torch.expm1(m))
    torch.testing.assert_close(log_odds(m.float()).double(), exact, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------------------------------- TRL
#
# bco shifts by the middle of both classes, as its paper does, and TRL's bco_pair shifts nothing: they are equal where
# that middle is 0, which is what is compared. TRL's other losses for unpaired data, and its aot_unpaired, are not ours.

OF_TRL = {
    "dpo": "sigmoid",
    "dpo_norm": "sigmoid_norm",
    "robust": "robust",
    "ipo": "ipo",
    "hinge": "hinge",
    "exo": "exo_pair",
    "nca": "nca_pair",
    "sppo_hard": "sppo_hard",
    "aot": "aot",
    "apo_zero": "apo_zero",
    "apo_down": "apo_down",
    "discopop": "discopop",
    "fdpo_alpha": "sigmoid",
    "fdpo_js": "sigmoid",
    "wpo": "sigmoid",
}


class Fake:
    """TRL's loss code reads log-probabilities off a model's output and writes metrics; nothing else of a trainer."""

    def __init__(self, **settings) -> None:
        self.accelerator = SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x, device="cpu")
        self.model = SimpleNamespace(training=True)
        self.args = SimpleNamespace(discopop_tau=0.05, gradient_checkpointing_kwargs=None)
        self._metrics = defaultdict(lambda: defaultdict(list))
        self._total_train_tokens, self._tp_size = 0, 1
        self.precompute_ref_logps, self.aux_loss_enabled = True, False
        self.__dict__.update(settings)


def outputs_of(logp: Tensor) -> SimpleNamespace:
    zeros = torch.zeros_like(logp)
    squares = -torch.arange(5.0).expand_as(logp) / 10
    return SimpleNamespace(
        log_probs=logp, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool(), log_sum_sq_probs=squares
    )


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """Six pairs of 1-5 tokens: token log-probabilities of chosen, then rejected, and sums of the reference."""
    generator = torch.Generator().manual_seed(0)
    length = torch.randint(1, 6, (12,), generator=generator)
    mask = torch.arange(5) < length[:, None]
    logp = -3 * torch.rand(12, 5, generator=generator) * mask
    return {"logp": logp.requires_grad_(), "mask": mask, "ref": -3 * length * torch.rand(12, generator=generator)}


def ours(name: str, batch: dict[str, Tensor], **settings: float) -> tuple[Tensor, Tensor]:
    """Mean loss, and its gradient at the token log-probabilities."""
    alternate = torch.arange(12).view(2, 6).T.flatten()  # chosen and rejected in turn
    it = Completions(
        logp=batch["logp"].sum(1)[alternate],
        logp_ref=batch["ref"][alternate],
        length=batch["mask"].sum(1).float()[alternate],
        desirable=alternate < 6,
        s_mismatched=batch.get("mismatched"),
        logp_sharper=(2 * batch["logp"] - outputs_of(batch["logp"]).log_sum_sq_probs * batch["mask"]).sum(1)[alternate],
    )
    loss = ALL[name](it, **{**ALL[name].settings, **settings}).mean()
    return loss, torch.autograd.grad(loss, batch["logp"])[0]


def compare_with_trl(theirs: Tensor, mine: tuple[Tensor, Tensor], batch: dict[str, Tensor]) -> None:
    gradient = torch.autograd.grad(theirs, batch["logp"])[0]
    torch.testing.assert_close(mine[0], theirs)
    torch.testing.assert_close(mine[1] * batch["mask"], gradient * batch["mask"])


@pytest.mark.parametrize("name", [*OF_TRL, "cdpo", "bco"])
def test_as_in_trl_s_dpo_trainer(name: str, batch: dict[str, Tensor]) -> None:
    trainer = pytest.importorskip("trl").DPOTrainer
    settings = {"beta": 0.1, "label_smoothing": 0.2}
    theirs = {"cdpo": "aot", "bco": "bco_pair"}.get(name) or OF_TRL[name]
    # Their alpha-divergence has the exponent alpha - 1 where the paper, and ours, have -alpha.
    divergence = {"fdpo_alpha": "alpha_divergence", "fdpo_js": "js_divergence"}.get(name, "reverse_kl")
    if (
        name == "cdpo"
    ):  # TRL's sigmoid has no smoothing any more; that of AOT is the same, where sorting changes nothing
        order = batch["logp"].sum(1)[:6] - batch["logp"].sum(1)[6:]
        rank = order.argsort()
        both = torch.cat([rank, rank + 6])
        margin = torch.arange(6.0)
        batch = {
            "logp": batch["logp"].detach()[both].requires_grad_(),
            "mask": batch["mask"][both],
            "ref": torch.cat([margin, torch.zeros(6)]),
        }
    if name == "bco":  # rewards whose middle is 0: the rejected's are the chosen's with the other sign
        sums = batch["logp"].detach().sum(1)
        batch["ref"] = torch.cat([batch["ref"][:6], sums[6:] + (sums - batch["ref"])[:6]])
    fake = Fake(
        loss_types=[theirs], loss_weights=[1.0], f_divergence_type=divergence, f_alpha_divergence_coef=0.5,
        ld_alpha=None, use_weighting=name == "wpo", **settings,
    )  # fmt: skip
    first = torch.zeros(12, 1)
    mask = torch.cat([first, batch["mask"]], 1).long()
    inputs = {
        "input_ids": torch.zeros_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "ref_chosen_logps": batch["ref"][:6],
        "ref_rejected_logps": batch["ref"][6:],
    }
    loss = trainer._compute_loss(fake, lambda **_: outputs_of(batch["logp"]), inputs, return_outputs=False)
    loss = loss / 2 if name == "bco" else loss  # a mean over pairs of the sum of two classes; ours over completions
    given = {key: x for key, x in settings.items() if key in ALL[name].settings}
    compare_with_trl(loss, ours(name, batch, **given), batch)


def test_as_in_trl_s_kto_trainer(batch: dict[str, Tensor]) -> None:
    trainer = pytest.importorskip("trl").KTOTrainer
    generator = torch.Generator().manual_seed(1)
    logp_kl, ref_kl = -2 * torch.rand(12, 5, generator=generator), -12 * torch.rand(12, generator=generator)
    fake = Fake(beta=0.1, desirable_weight=1.2, undesirable_weight=0.7, loss_type="kto", calculate_KL=True)
    fake._compute_kl_logps = lambda *_: logp_kl.sum(1)
    mask = torch.cat([torch.zeros(12, 1), batch["mask"]], 1).long()
    inputs = {
        "input_ids": torch.zeros_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "label": torch.arange(12) < 6,
        "ref_logps": batch["ref"],
        "ref_KL_logps": ref_kl,
    }
    loss = trainer._compute_loss(fake, lambda **_: outputs_of(batch["logp"]), inputs, return_outputs=False)
    batch["mismatched"] = logp_kl.sum(1) - ref_kl
    assert batch["mismatched"].mean() > 0.1  # z is at work
    compare_with_trl(loss, ours("kto", batch, desirable_weight=1.2, undesirable_weight=0.7), batch)


def test_as_in_trl_s_orpo_and_cpo_trainers(batch: dict[str, Tensor]) -> None:
    """TRL's ORPO returns the log odds part apart, to be subtracted from the NLL of the chosen; its SimPO takes gamma
    itself, where ours takes gamma / beta."""
    pytest.importorskip("trl")
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    m = batch["logp"].sum(1) / batch["mask"].sum(1)
    ratio, *_ = ORPOTrainer.odds_ratio_loss(Fake(beta=0.3), m[:6], m[6:])
    compare_with_trl((-m[:6] - ratio).mean(), ours("orpo", batch, orpo_lambda=0.3), batch)
    m = batch["logp"].sum(1) / batch["mask"].sum(1)
    fake = Fake(beta=2.0, alpha=0.0, loss_type="simpo", simpo_gamma=0.8, label_smoothing=0.0)
    theirs, *_ = CPOTrainer.cpo_loss(fake, m[:6], m[6:])
    compare_with_trl(theirs.mean(), ours("simpo", batch, gamma_beta_ratio=0.4), batch)
    m = batch["logp"].sum(1) / batch["mask"].sum(1)
    fake = Fake(beta=2.0, alpha=0.25, loss_type="simpo", simpo_gamma=0.8, label_smoothing=0.0)
    theirs, *_ = CPOTrainer.cpo_loss(fake, m[:6], m[6:])
    compare_with_trl(theirs.mean(), ours("alphapo", batch, gamma_beta_ratio=0.4), batch)
    logp = batch["logp"].sum(1)
    fake = Fake(beta=0.1, alpha=0.0, loss_type="sigmoid", label_smoothing=0.0)
    theirs, *_ = CPOTrainer.cpo_loss(fake, logp[:6], logp[6:])
    compare_with_trl(theirs.mean(), ours("cpo", batch, nll_alpha=0.0), batch)
