"""The term that keeps rewards around 0, which preferences leave open."""

from claims.claim import Arm, Claim, Expect, Measure, Numbers, Paper
from claims.computed.vectors import SETTING

WEIGHTS = {"without": 0.0, "centred": 0.01}


def compute(seed: int) -> Numbers:
    import torch

    from claims.computed.reward_network import Gold, train
    from reward_models.losses import bradley_terry, centering

    gold = Gold(seed)
    chosen, rejected = gold.pairs(noise=0.0)
    one, other = gold.completions(2000), gold.completions(2000)
    better = gold.reward(one) > gold.reward(other)
    found = {}
    for arm, weight in WEIGHTS.items():

        def loss(r_w: torch.Tensor, r_l: torch.Tensor, weight: float = weight) -> torch.Tensor:
            return bradley_terry(r_w, r_l, margin=torch.zeros_like(r_w)) + weight * centering(r_w, r_l)

        model = train(loss, chosen, rejected, seed=seed)
        right = (model(one) > model(other)) == better
        distance = abs(float(model(torch.cat([one, other])).mean()))
        found[arm] = {"distance from 0": distance, "accuracy": float(right.double().mean())}
    return found


CLAIM = Claim(
    sentence="Centring brings the mean reward nearer to 0, and costs no accuracy.",
    paper=Paper(
        "Eisenstein et al.",
        2023,
        "Helping or Herding? Reward Model Ensembles Mitigate but do not Eliminate Reward Hacking",
        "2312.09244",
    ),
    setting=SETTING,
    compute=compute,
    arms={
        "without": Arm("Bradley-Terry alone, which a constant does not change"),
        "centred": Arm("with 0.01 (r_w + r_l)^2"),
    },
    measures=[
        Measure("distance from 0", "nats", "absolute value of the mean reward of fresh completions"),
        Measure("accuracy", "share of pairs", "fresh pairs whose better completion has the higher reward"),
    ],
    expected=[
        Expect("centred", "<", "without", of="distance from 0"),
        Expect("centred", "=", "without", of="accuracy", within=0.02),
    ],
    seeds=20,
    text="""
The mean comes near 0, and accuracy falls by 0.11. The reason is the size of the rewards. Without the term 300 steps
make their standard deviation about 10, and then 0.01 (r_w + r_l)^2 is larger than the loss of most pairs: what is
learned is that the two rewards of each training pair add up to 0, which says nothing of other pairs. Tried with two
other seeds: after 50 steps, with a standard deviation of 3.5, the same weight costs 0.01 of accuracy; a tenth of it
costs nothing then, and 0.05 after 300 steps. So the weight belongs to the size that rewards grow to, and a reward model
that is trained until its pairs are certain needs a smaller one, or the mean taken off afterwards. The
sentence first said "keeps near 0"; what is compared is which of the two is nearer.
""",
)
