"""The losses of direct alignment, one pure function each. A loss takes what its parameters name and returns one number
for each pair (n,), or for each completion (c,) where the data need no pairs; it takes no mean.

    s_w, s_l              sum over a completion's tokens of (logp - logp_ref), of the chosen and of the rejected, nats
    s_mean_w, s_mean_l    the same, mean over tokens
    s_shared_w, s_shared_l    s over the first tokens, as many as the shorter of both has
    m_w, m_l              mean over tokens of logp; no reference
    logp_w, logp_l        sum over tokens of logp; no reference
    w_w, w_l              exp of the mean over tokens of log(pi / sum over the vocabulary of pi^2), without gradient
    s, desirable          the sums of all completions, and which of them are wanted: no pairs needed

Keyword-only parameters are the settings, with the published values as defaults. What a loss needs stands beside it, in
`losses` at the end. To add one: write the function, add its line.

    >>> s_w, s_l = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 0.0])  # of one pair; of one that nothing has moved
    >>> dpo(s_w, s_l, beta=0.5)
    tensor([0.3133, 0.6931])
    >>> ipo_sum(s_w, s_l, beta=0.5)
    tensor([1., 1.])
    >>> hinge(s_w, s_l, beta=0.5)
    tensor([0., 1.])
    >>> m_w, m_l = torch.tensor([-0.5]), torch.tensor([-1.5])
    >>> simpo(m_w, m_l, beta=2.0, gamma_beta_ratio=0.5)
    tensor([0.3133])
    >>> orpo(m_w, m_l, orpo_lambda=0.1)
    tensor([0.5171])
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from direct_alignment.loss import Each, Loss, Pairs, make_loss
from direct_alignment.thresholds import bco_threshold, kto_reference_point, kto_threshold
from direct_alignment.transforms import log_odds, power
from rlhf.errors import UserError


def dpo(s_w: Pairs, s_l: Pairs, *, beta: float = 0.1) -> Pairs:
    """-log sigmoid(beta (s_w - s_l))

    The likelihood of the preferences under Bradley-Terry, when the reward is the one that the policy would be optimal
    for: beta log(pi / ref). Only the difference counts: both completions may become less likely (displacement).

    Rafailov et al., "Direct Preference Optimization", 2023, arXiv 2305.18290, equation 7.

    Args:
        beta: strength of the implied KL penalty, 1/nats. Smaller lets the policy go further from its reference.
    """
    return -logsigmoid(beta * (s_w - s_l))


def dpo_norm(s_mean_w: Pairs, s_mean_l: Pairs, *, beta: float = 2.0) -> Pairs:
    """-log sigmoid(beta (s_mean_w - s_mean_l))

    DPO on token means, so that a long completion has no larger margin for its length; hence the larger beta.
    Meng et al., "SimPO", 2024, arXiv 2405.14734, where it is the ablation "DPO with length normalization".
    """
    return dpo(s_mean_w, s_mean_l, beta=beta)


def cdpo(s_w: Pairs, s_l: Pairs, *, beta: float = 0.1, label_smoothing: float = 0.1) -> Pairs:
    """(1 - e) dpo(D) + e dpo(-D), D = s_w - s_l: each preference is taken to be wrong with probability e.

    The margin has a finite optimum, beta D = log((1 - e) / e), instead of growing for ever.
    Mitchell, "A note on DPO with noisy preferences", 2023, equation 3.
    """
    e = label_smoothing
    return (1 - e) * dpo(s_w, s_l, beta=beta) + e * dpo(s_l, s_w, beta=beta)


def robust(s_w: Pairs, s_l: Pairs, *, beta: float = 0.1, label_smoothing: float = 0.1) -> Pairs:
    """((1 - e) dpo(D) - e dpo(-D)) / (1 - 2e), D = s_w - s_l

    If a share e < 1/2 of the preferences are flipped, its expectation is that of DPO on clean ones. May be negative.
    Chowdhury et al., "Provably Robust DPO", 2024, arXiv 2403.00409, section 3.1.
    """
    e = label_smoothing
    return ((1 - e) * dpo(s_w, s_l, beta=beta) - e * dpo(s_l, s_w, beta=beta)) / (1 - 2 * e)


def ipo(s_mean_w: Pairs, s_mean_l: Pairs, *, beta: float = 0.1) -> Pairs:
    """(s_mean_w - s_mean_l - 1 / (2 beta))^2

    A target for the margin instead of a sigmoid that never has enough, so that preferences which are always the same do
    not drive the policy away from its reference without bound. On token means, as its authors ran it; `ipo_sum: true`
    takes the sums, as the paper writes it.

    Azar et al., "A General Theoretical Paradigm to Understand Learning from Human Preferences", 2023, arXiv 2310.12036,
    equation 17; beta is its tau.
    """
    return (s_mean_w - s_mean_l - 1 / (2 * beta)).square()


def ipo_sum(s_w: Pairs, s_l: Pairs, *, beta: float = 0.1) -> Pairs:
    """(s_w - s_l - 1 / (2 beta))^2: IPO as the paper writes it. The target is one for the whole completion."""
    return (s_w - s_l - 1 / (2 * beta)).square()


def hinge(s_w: Pairs, s_l: Pairs, *, beta: float = 0.05) -> Pairs:
    """max(0, 1 - beta (s_w - s_l)): a pair that is apart by 1 / beta nats teaches nothing more.

    The calibration loss of SLiC (Zhao et al., 2023, arXiv 2305.10425) on log-ratios, as Liu et al. compare it in
    "Statistical Rejection Sampling Improves Preference Optimization", 2023, arXiv 2309.06657 (hinge-norm, gamma 0.05).
    """
    return torch.relu(1 - beta * (s_w - s_l))


def simpo(m_w: Pairs, m_l: Pairs, *, beta: float = 2.0, gamma_beta_ratio: float = 0.5) -> Pairs:
    """-log sigmoid(beta (m_w - m_l) - gamma), gamma = gamma_beta_ratio * beta

    The reward is what decoding maximizes, the mean log-probability; no reference. The chosen has to win by a margin.
    Meng et al., "SimPO", 2024, arXiv 2405.14734, equation 6.

    Args:
        gamma_beta_ratio: the margin in nats per token; gamma itself is this times beta.
    """
    return -logsigmoid(beta * (m_w - m_l - gamma_beta_ratio))


def orpo(m_w: Pairs, m_l: Pairs, *, orpo_lambda: float = 0.1) -> Pairs:
    """-m_w - lambda log sigmoid(log_odds(m_w) - log_odds(m_l))

    Instruction tuning on the chosen completion with a penalty on the odds of the rejected one; no reference.
    Hong et al., "ORPO: Monolithic Preference Optimization without Reference Model", 2024, arXiv 2403.07691, equation 6.
    """
    return -m_w - orpo_lambda * logsigmoid(log_odds(m_w) - log_odds(m_l))


def kto(
    s: Each,
    desirable: Bool[Tensor, " c"],
    s_mismatched: Float[Tensor, " k"],
    *,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Each:
    """lambda_d (1 - sigmoid(beta (s - z))) if desirable, lambda_u (1 - sigmoid(beta (z - s))) if not;
    z = max(0, mean of s over mismatched prompt-completion pairs), without gradient

    Kahneman and Tversky's value of a gain or a loss against a reference point: how far the policy has moved on
    completions in general, KL(policy || reference) as estimated from completions of other prompts. Matched completions
    would drag z along with what is trained. Needs no pairs: a completion and a thumb up or down.

    Ethayarajh et al., "KTO: Model Alignment as Prospect Theoretic Optimization", 2024, arXiv 2402.01306, equation 7.

    Args:
        s_mismatched: log-ratios of completions under other prompts than their own, of the whole step.
        desirable_weight, undesirable_weight: lambda; with unequal numbers, choose them such that
            desirable_weight * n_desirable / (undesirable_weight * n_undesirable) is in [1, 4/3].
    """
    z = kto_reference_point(s_mismatched)
    gain = desirable_weight * (1 - torch.sigmoid(beta * (s - z)))
    loss = undesirable_weight * (1 - torch.sigmoid(beta * (z - s)))
    return torch.where(desirable, gain, loss)


def apo_zero(s_w: Pairs, s_l: Pairs, *, beta: float = 0.1) -> Pairs:
    """(1 - sigmoid(beta s_w)) + sigmoid(beta s_l): the chosen up, the rejected down, each against its reference.

    For chosen completions better than what the policy writes. D'Oosterlinck et al., "Anchored Preference Optimization",
    2024, arXiv 2408.06266, equation 7.
    """
    return (1 - torch.sigmoid(beta * s_w)) + torch.sigmoid(beta * s_l)


def apo_down(s_w: Pairs, s_l: Pairs, *, beta: float = 0.1) -> Pairs:
    """sigmoid(beta s_w) + (1 - sigmoid(beta (s_w - s_l))): both down, the rejected more.

    For chosen completions worse than what the policy writes by itself. D'Oosterlinck et al., 2024, arXiv 2408.06266,
    equation 8. Where the chosen ones are good, this unlearns them.
    """
    return torch.sigmoid(beta * s_w) + (1 - torch.sigmoid(beta * (s_w - s_l)))


def exo(s_w: Pairs, s_l: Pairs, *, beta: float = 0.1, label_smoothing: float = 1e-3) -> Pairs:
    """KL(p || q), p = (sigmoid(beta D), sigmoid(-beta D)), q = (1 - e, e), D = s_w - s_l

    KL of the preference that the policy implies from the one observed, in the direction that seeks the mode; DPO is the
    other direction, which covers the mass.
    Ji et al., "Towards Efficient Exact Optimization of Language Model Alignment", 2024, arXiv 2402.00856, equation 16.

    Args:
        label_smoothing: e, above 0 (UserError): a preference that is certain has no finite KL.
    """
    if label_smoothing <= 0:
        raise UserError("label_smoothing: exo needs one above 0: see its equation", "Its paper has 1e-3.")
    log_p_w, log_p_l = logsigmoid(beta * (s_w - s_l)), logsigmoid(beta * (s_l - s_w))
    log_q_w, log_q_l = torch.tensor([1 - label_smoothing, label_smoothing], dtype=s_w.dtype).log().tolist()
    return log_p_w.exp() * (log_p_w - log_q_w) + log_p_l.exp() * (log_p_l - log_q_l)


def nca(s_w: Pairs, s_l: Pairs, *, beta: float = 0.01) -> Pairs:
    """-log sigmoid(beta s_w) - 1/2 log sigmoid(-beta s_w) - 1/2 log sigmoid(-beta s_l)

    Noise contrast: the chosen is data, both are noise. Absolute, so the chosen's likelihood does not fall.
    Chen et al., "Noise Contrastive Alignment of Language Models with Explicit Rewards", 2024, arXiv 2402.05369.
    """
    return -logsigmoid(beta * s_w) - 0.5 * logsigmoid(-beta * s_w) - 0.5 * logsigmoid(-beta * s_l)


def bco(s: Each, desirable: Bool[Tensor, " c"], *, beta: float = 0.01) -> Each:
    """-log sigmoid(beta s - d) if desirable, -log sigmoid(d - beta s) if not;
    d = half the sum of both classes' mean reward beta s, without gradient

    A classifier of thumbs up and down whose logit is the implicit reward; its bound on DPO's loss is tight when the
    shift d is the middle of both classes. The mean is the step's own: a running one would be state to keep.
    Jung et al., "Binary Classifier Optimization for Large Language Model Alignment", 2024, arXiv 2404.04656.
    """
    shifted = beta * s - bco_threshold(s, desirable, beta=beta)
    return -logsigmoid(torch.where(desirable, shifted, -shifted))


def sppo_hard(s_w: Pairs, s_l: Pairs, *, beta: float = 0.001) -> Pairs:
    """(s_w - 1 / (2 beta))^2 + (s_l + 1 / (2 beta))^2

    Self-play: each log-ratio goes to (probability of winning - 1/2) / beta; hard, since that probability is taken as 1
    or 0. At the published beta the targets, 500 nats away, are directions rather than places to arrive at.
    Wu et al., "Self-Play Preference Optimization for Language Model Alignment", 2024, arXiv 2405.00675, equation 4.7.
    """
    return (s_w - 0.5 / beta).square() + (s_l + 0.5 / beta).square()


def aot(s_w: Pairs, s_l: Pairs, margin_ref: Pairs, *, beta: float = 0.01, label_smoothing: float = 0.0) -> Pairs:
    """(1 - e) dpo(D) + e dpo(-D), D = sort(margin of policy) - sort(margin of reference), sorted over the step

    The whole distribution of the policy's margins is to dominate the reference's: the k-th smallest is compared with
    the k-th smallest, whichever pairs they belong to. Paired form.
    Melnyk et al., "Distributional Preference Alignment of LLMs via Optimal Transport", 2024, arXiv 2406.05882.

    Args:
        margin_ref: logp_ref of the chosen minus that of the rejected, nats.
    """
    margin = margin_ref + (s_w - s_l)
    return cdpo(margin.sort().values, margin_ref.sort().values, beta=beta, label_smoothing=label_smoothing)


def discopop(s_w: Pairs, s_l: Pairs, *, beta: float = 0.05, discopop_tau: float = 0.05) -> Pairs:
    """(1 - g) (-log sigmoid(x)) + g exp(-x), x = beta (s_w - s_l), g = sigmoid(x / tau)

    A blend of logistic and exponential loss that a language model found by search. Not convex: with tau 0.05
    it rises from x = -0.12 to 0.07, so that there, where training starts, a step first makes a pair worse.
    Lu et al., "Discovering Preference Optimization Algorithms with and for LLMs", 2024, arXiv 2406.08414, equation 5.
    """
    x = beta * (s_w - s_l)
    gate = torch.sigmoid(x / discopop_tau)
    # g exp(-x) as one exponential: far below 0, exp(-x) overflows where g is 0; together they vanish, since tau < 1.
    return -(1 - gate) * logsigmoid(x) + torch.exp(logsigmoid(x / discopop_tau) - x)


def dpo_nll(s_w: Pairs, s_l: Pairs, m_w: Pairs, *, beta: float = 0.1, nll_alpha: float = 1.0) -> Pairs:
    """-log sigmoid(beta (s_w - s_l)) - nll_alpha m_w: DPO that also imitates the chosen.

    The second term keeps the chosen from becoming less likely, which DPO alone allows as long as the rejected falls
    faster. Pang et al., "Iterative Reasoning Preference Optimization", 2024, arXiv 2404.19733.
    """
    return dpo(s_w, s_l, beta=beta) - nll_alpha * m_w


def cpo(logp_w: Pairs, logp_l: Pairs, m_w: Pairs, *, beta: float = 0.1, nll_alpha: float = 1.0) -> Pairs:
    """-log sigmoid(beta (logp_w - logp_l)) - nll_alpha m_w: `dpo_nll` with a uniform reference, so without one.

    The imitation takes the reference's place in holding the policy. Its mean is over tokens, as in the authors' code.
    Xu et al., "Contrastive Preference Optimization", 2024, arXiv 2401.08417, section 3.
    """
    return dpo(logp_w, logp_l, beta=beta) - nll_alpha * m_w


def ld_dpo(
    s_w: Pairs, s_l: Pairs, s_shared_w: Pairs, s_shared_l: Pairs, *, beta: float = 0.1, ld_alpha: float = 0.5
) -> Pairs:
    """-log sigmoid(beta (s'_w - s'_l)), s' = s_shared + ld_alpha (s - s_shared)

    DPO in which tokens beyond the length of the shorter completion count only ld_alpha, so that length alone makes less
    of a margin. 1 is DPO, 0 cuts the longer one; the paper chooses it for each model, 0.5 is ours.
    Liu et al., "Length Desensitization in Direct Preference Optimization", 2024, arXiv 2409.06411.
    """
    return dpo(s_shared_w + ld_alpha * (s_w - s_shared_w), s_shared_l + ld_alpha * (s_l - s_shared_l), beta=beta)


def wpo(s_w: Pairs, s_l: Pairs, w_w: Pairs, w_l: Pairs, *, beta: float = 0.1) -> Pairs:
    """-w_w w_l log sigmoid(beta (s_w - s_l)), w = exp(mean over tokens of log(pi / sum_v pi_v^2)), without gradient

    DPO in which a pair counts as much as the policy would write it itself, so that pairs of another policy act more as
    if they were its own. Dividing by sum_v pi_v^2, the mean probability of what it samples, makes w about 1 for its own
    completions however certain it is.
    Zhou et al., "WPO: Enhancing RLHF with Weighted Preference Optimization", 2024, arXiv 2406.11827, section 3.2.
    """
    return w_w * w_l * dpo(s_w, s_l, beta=beta)


def alphapo(
    m_w: Pairs, m_l: Pairs, *, beta: float = 2.0, gamma_beta_ratio: float = 0.5, alphapo_alpha: float = 0.25
) -> Pairs:
    """-log sigmoid(beta (r(m_w) - r(m_l)) - gamma), r(m) = (1 - exp(-alpha m)) / alpha, gamma = gamma_beta_ratio beta

    SimPO, which is alpha 0, with another shape of reward: for alpha > 0 an unlikely completion has a far lower one, so
    that pairs of which either is unlikely weigh more.
    Gupta et al., "AlphaPO: Reward Shape Matters for LLM Alignment", 2025, arXiv 2501.03884.
    """
    return simpo(power(m_w, alphapo_alpha), power(m_l, alphapo_alpha), beta=beta, gamma_beta_ratio=gamma_beta_ratio)


def fdpo_alpha(s_w: Pairs, s_l: Pairs, *, beta: float = 0.1, f_alpha: float = 0.5) -> Pairs:
    """-log sigmoid(beta (f'(u_w) - f'(u_l))), u = pi / pi_ref = exp(s), f'(u) = (1 - u^-alpha) / alpha

    DPO where the policy is held by an alpha-divergence in place of the KL: alpha 0 is KL(pi || ref) and so DPO, alpha 1
    is KL(ref || pi), which punishes what the policy no longer says.
    Wang et al., "Beyond Reverse KL: Generalizing DPO with Diverse Divergence Constraints", 2023, arXiv 2309.16240.
    """
    return dpo(power(s_w, f_alpha), power(s_l, f_alpha), beta=beta)


def fdpo_js(s_w: Pairs, s_l: Pairs, *, beta: float = 0.1) -> Pairs:
    """-log sigmoid(beta (f'(u_w) - f'(u_l))), u = pi / pi_ref = exp(s), f'(u) = log(2u / (1 + u))

    The Jensen-Shannon divergence: f' is at most log 2, so that nothing is paid far above the reference. Wang et al.
    """
    return dpo(logsigmoid(s_w), logsigmoid(s_l), beta=beta)  # log 2 is in both


losses: dict[str, Loss] = {
    "dpo": make_loss(dpo, "s", "reference", "pairs"),
    "dpo_norm": make_loss(dpo_norm, "s_mean", "reference", "pairs"),
    "cdpo": make_loss(cdpo, "s", "reference", "pairs"),
    "robust": make_loss(robust, "s", "reference", "pairs"),
    "ipo": make_loss(ipo, "s_mean", "reference", "pairs", ipo_sum=make_loss(ipo_sum, "s", "reference", "pairs")),
    "hinge": make_loss(hinge, "s", "reference", "pairs"),
    "simpo": make_loss(simpo, "m", "pairs"),
    "orpo": make_loss(orpo, "m", "pairs"),
    "kto": make_loss(kto, "s", "reference", "mismatched", parting=kto_threshold),
    "apo_zero": make_loss(apo_zero, "s", "reference", "pairs"),
    "apo_down": make_loss(apo_down, "s", "reference", "pairs"),
    "exo": make_loss(exo, "s", "reference", "pairs"),
    "nca": make_loss(nca, "s", "reference", "pairs"),
    "bco": make_loss(bco, "s", "reference", "whole step", parting=bco_threshold),
    "sppo_hard": make_loss(sppo_hard, "s", "reference", "pairs"),
    "aot": make_loss(aot, "s", "reference", "pairs", "whole step"),
    "discopop": make_loss(discopop, "s", "reference", "pairs"),
    "dpo_nll": make_loss(dpo_nll, "s", "reference", "pairs"),
    "cpo": make_loss(cpo, "logp", "pairs"),
    "ld_dpo": make_loss(ld_dpo, "s", "reference", "pairs", "shared"),
    "wpo": make_loss(wpo, "s", "reference", "pairs", "sharper"),
    "alphapo": make_loss(alphapo, "m", "pairs"),
    "fdpo_alpha": make_loss(fdpo_alpha, "s", "reference", "pairs"),
    "fdpo_js": make_loss(fdpo_js, "s", "reference", "pairs"),
}
