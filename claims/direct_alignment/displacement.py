"""Displacement: what becomes of the chosen completions themselves."""

from pathlib import Path

from claims.claim import Arm, Claim, Curve, Expect, Measure, Paper, RunOf
from claims.direct_alignment.setting import ACCURACY, RUN, SETTING, change, pairs
from claims.measures import series

chosen, rejected = change("logp", "chosen"), change("logp", "rejected")


def margin(path: Path) -> float:
    return chosen(path) - rejected(path)


CLAIM = Claim(
    sentence="DPO makes the chosen completions less likely while the margin grows, and a likelihood term less so.",
    paper=Paper(
        "Pal et al.", 2024, "Smaug: Fixing Failure Modes of Preference Optimisation with DPO-Positive", "2402.13228"
    ),
    setting=SETTING
    + " Right and wrong completions have most of their tokens in common, which the paper calls the hard case.",
    command="direct_alignment.train",
    before={"pairs": pairs()},
    shared={**RUN, "data": {"path": RunOf("pairs")}},
    arms={
        "DPO": Arm("the difference of log-ratios alone", {"loss": "dpo"}),
        "DPO + NLL": Arm(
            "besides, the negative log-likelihood of the chosen, by token (Pang et al., 2024, arXiv 2404.19733)",
            {"loss": "dpo_nll"},
        ),
    },
    measures=[
        Measure("chosen", "nats", "change in the log-probability of held-out chosen completions", chosen),
        Measure("margin", "nats", "change in log-probability, chosen less rejected, held out", margin),
        ACCURACY,
    ],
    expected=[
        Expect("DPO", "<", 0.0, of="chosen"),
        Expect("DPO", ">", 0.0, of="margin"),
        Expect("DPO + NLL", ">", "DPO", of="chosen"),
    ],
    curves=[Curve("log-probability of the step's chosen completions, nats", series("logp/chosen", mean_of=8))],
    seeds=10,
    text="""
The chosen completions lose 1.1 nats while the rejected ones lose 8.3, and the policy gets better all the same: 0.87 of
its samples are right, 0.27 of the start's. So displacement is there and does no harm here, where what gains instead is
right as well. The likelihood term (weight 1, by token) takes back a third of the fall and does not keep the chosen
where they were; larger weights were not run.

A gentler run was tried first (30 steps of 32 pairs, lr 2e-5, one seed): there the chosen became more likely, by 0.4
nats. Displacement comes later, when most pairs are ranked right already. After 80 steps like these (one seed) it was
2.6 nats.

The sentence first said that a likelihood term keeps the chosen. It was reworded when the runs had shown that the term
makes up for a part of the fall alone; measures and comparisons are as they were.
""",
)
