"""Pairs of which a share is the wrong way round: by lot, or where it suits something that is not quality."""

from claims.claim import Arm, Claim, Expect, Measure, Numbers, Paper
from claims.computed.vectors import SETTING

SHARES = (10, 20, 40)  # percent of the pairs
LINES = {
    "by lot": "which pairs are wrong is chance",
    "one way": "wrong are pairs whose worse completion has the larger first number, chosen by chance among those",
}
NONE = "none wrong"
FRESH, PROMPTS, CHOICES = 4000, 200, 1024


def at(line: str, share: int) -> str:
    return f"{line}, {share} %"


def compute(seed: int) -> Numbers:
    from functools import partial

    import torch

    from claims.computed.reward_network import Gold, train
    from reward_models.losses import bradley_terry

    gold = Gold(seed)
    better, worse = gold.pairs(noise=0.0)
    lot = torch.rand(len(better), generator=gold.random)
    one, other = gold.completions(FRESH), gold.completions(FRESH)
    apart = gold.reward(one) - gold.reward(other)
    choices = gold.completions(PROMPTS, CHOICES)
    worth = gold.reward(choices)
    order = {"by lot": lot, "one way": lot + (better[:, 0] > worse[:, 0])}  # the first ones of it are turned round
    found = {}
    for name, line, share in [
        (NONE, "by lot", 0),
        *((at(line, share), line, share) for line in LINES for share in SHARES),
    ]:
        wrong = (order[line].argsort().argsort() < len(better) * share / 100)[:, None]
        chosen, rejected = torch.where(wrong, worse, better), torch.where(wrong, better, worse)
        model = train(partial(bradley_terry, margin=torch.zeros(len(better))), chosen, rejected, seed=seed)
        best = model(choices.flatten(0, 1)).view_as(worth).argmax(1, keepdim=True)
        found[name] = {
            "accuracy": float(((model(one) > model(other)) == (apart > 0)).double().mean()),
            "best of 1024": float(worth.gather(1, best).mean()),
        }
    return found


CLAIM = Claim(
    sentence="Wrong labels cost a reward model accuracy, and more where they lean one way.",
    paper=Paper("Wang et al.", 2024, "Secrets of RLHF in Large Language Models Part II: Reward Modeling", "2401.06080"),
    setting=SETTING + f" Accuracy on {FRESH} fresh pairs without noise; best of {CHOICES} fresh completions, {PROMPTS} "
    "times.",
    compute=compute,
    arms={
        NONE: Arm("every pair is the right way round"),
        **{at(line, share): Arm(what, line=line, x=share) for line, what in LINES.items() for share in SHARES},
    },
    x="pairs that are the wrong way round, %",
    measures=[
        Measure("accuracy", "share of pairs", "fresh pairs whose better completion has the higher reward"),
        Measure("best of 1024", "standard deviations", "gold reward of the completion with the highest reward"),
    ],
    expected=[
        Expect(at("by lot", 10), "<", NONE),
        Expect(at("by lot", 20), "<", at("by lot", 10)),
        Expect(at("by lot", 40), "<", at("by lot", 20)),
        *(Expect(at("one way", share), "<", at("by lot", share)) for share in SHARES),
    ],
    beside=[
        Expect(at("by lot", 20), "<", NONE, of="best of 1024"),
        *(Expect(at("one way", share), "<", at("by lot", share), of="best of 1024") for share in SHARES),
    ],
    seeds=20,
    text="""
Every tenth pair turned round takes 0.08 off an accuracy of 0.83, two tenths 0.15, and four tenths leave 0.56 where 0.5
is chance; what is chosen of 1024 falls with it, from 2.2 standard deviations above the mean to 0.6. These networks see
each of 400 pairs 300 times, enough to learn the wrong ones by heart.

That it matters which pairs are wrong is not seen. The first number says as little about quality as any other, and a
network that follows it where it was told to is not seen to be worse than one that follows chance: by 0.013 of accuracy
at most, though in what is chosen of 1024 the interval at 40 % reaches -0.35. The paper has no lean; that half of the
sentence is this page's own guess. Errors of people lean towards length, for one: what a reward model makes of that is
on [a page of its own](length_bias.md).
""",
)
