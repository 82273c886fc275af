"""The gradients of KL estimators, as sums over all completions of a policy that is enumerated."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from claims.computed.enumerated import Enumerated
from rlhf.kl import k1, k2, k3
from rlhf.tensors import masked_sum

ANOTHER = 1000  # seeds of references

type PerToken = Float[Tensor, "n t"]


def in_loss(k: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Each token's estimate is minimized: its gradient goes through the estimate itself."""
    return lambda logp, logp_ref, mask: masked_sum(k(logp, logp_ref), mask)


def in_reward(k: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The completion's estimate is taken off its reward: a constant, by which log pi of the completion is weighed."""
    return lambda logp, logp_ref, mask: masked_sum(k(logp, logp_ref).detach(), mask) * masked_sum(logp, mask)


def times_ratio(k: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """pi / sg(pi) times the estimate: 1 in value, and it carries how the samples depend on the policy."""
    return lambda logp, logp_ref: (logp - logp.detach()).exp() * k(logp, logp_ref)


def inverted(logp: PerToken, logp_ref: PerToken) -> PerToken:
    """k3 with pi / ref in place of ref / pi."""
    return k3(logp_ref, logp)


# What is minimized of each completion (n,), from log pi, log ref and the mask.
PENALTIES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "k1 in reward": in_reward(k1),
    "k2 in loss": in_loss(k2),
    "ratio · k3 in loss": in_loss(times_ratio(k3)),
    "k3 in loss": in_loss(k3),
    "k3 in reward": in_reward(k3),
    "k1 in loss": in_loss(k1),
    "k3 inverted in loss": in_loss(inverted),
}


def errors(seed: int, distances: list[float]) -> dict[tuple[str, float], dict[str, float]]:
    """What each penalty's gradient is worth at each distance of the reference, KL(pi || ref) in nats.

    error, completions    |E g - exact| / |exact|, exact: the gradient of KL(pi || ref) of whole completions
    error, next tokens    the same, exact: that of the next token's KL in the states that pi visits, as they are
    spread                sqrt(E |g - E g|^2) / |exact| of one completion, exact: that of whole completions
    """
    policy = Enumerated(seed)
    direction = Enumerated(seed + ANOTHER).theta.detach()
    found = {}
    for distance in distances:
        theta_ref = at_distance(policy, direction, distance)
        of_completions, of_tokens = exact(policy, theta_ref)
        size = of_completions.norm()
        for name, penalty in PENALTIES.items():
            each = gradients(policy, penalty, policy.logp_under(theta_ref))
            p = policy.probability().detach()
            mean = p @ each
            found[name, distance] = {
                "error, completions": float((mean - of_completions).norm() / size),
                "error, next tokens": float((mean - of_tokens).norm() / of_tokens.norm()),
                "spread": float((p @ (each - mean).square().sum(1)).sqrt() / size),
            }
    return found


def gradients(
    policy: Enumerated, penalty: Callable[[Tensor, Tensor, Tensor], Tensor], logp_ref: Float[Tensor, "n t"]
) -> Float[Tensor, "n p"]:
    """The gradient that each completion gives."""
    values = penalty(policy.logp(), logp_ref, policy.mask)
    return torch.stack([policy.gradient(value).flatten() for value in values])


def exact(policy: Enumerated, theta_ref: Float[Tensor, "s v"]) -> tuple[Float[Tensor, " p"], Float[Tensor, " p"]]:
    """The gradients of KL(pi || ref): of whole completions, and of next tokens in the states as they are visited."""
    logp_ref = masked_sum(policy.logp_under(theta_ref), policy.mask)
    p = policy.probability()
    of_completions = policy.gradient((p * (p.log() - logp_ref)).sum())
    table = policy.theta.log_softmax(-1)
    of_states = (table.exp() * (table - theta_ref.log_softmax(-1))).sum(-1)
    of_tokens = policy.gradient((policy.visits().detach() * of_states).sum())
    return of_completions.flatten(), of_tokens.flatten()


def kl(policy: Enumerated, theta_ref: Float[Tensor, "s v"]) -> float:
    """KL(pi || ref) of whole completions, nats."""
    p = policy.probability().detach()
    return float((p * (p.log() - masked_sum(policy.logp_under(theta_ref), policy.mask))).sum())


def at_distance(policy: Enumerated, direction: Float[Tensor, "s v"], distance: float) -> Float[Tensor, "s v"]:
    """The logits of a reference on a ray from the policy's, where KL(pi || ref) is `distance`, by bisection."""
    start = policy.theta.detach()
    low, high = 0.0, 1.0
    while kl(policy, start + high * direction) < distance:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        if kl(policy, start + middle * direction) < distance:
            low = middle
        else:
            high = middle
    return start + high * direction
