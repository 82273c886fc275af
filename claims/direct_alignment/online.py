"""The same loss on pairs of the start, and on pairs of the policy as it is."""

from claims.claim import Arm, Claim, Curve, Expect, Measure, Paper, RunOf
from claims.direct_alignment.setting import ACCURACY, RUN, pairs
from claims.measures import held_out, series

PROBLEMS = 1500

CLAIM = Claim(
    sentence="DPO on pairs of the policy as it is learns more than on pairs of the policy as it was.",
    paper=Paper("Guo et al.", 2024, "Direct Language Model Alignment from Online AI Feedback", "2402.04792"),
    setting="The embedded model on step_arithmetic; pairs are a right and a wrong one of four completions. 60 steps of "
    "16 pairs. Offline each pair is seen a little more than once; online about twice, since some problems give none.",
    command="direct_alignment.train",
    before={"pairs": pairs(problems=PROBLEMS)},
    shared={**RUN, "loss": "dpo", "data": {"path": RunOf("pairs"), "problems": PROBLEMS}},
    arms={
        "offline": Arm("pairs of the start, all sampled before the run"),
        "online": Arm("new pairs of the policy every five steps, of new problems", {"online_every": 5}),
    },
    measures=[
        ACCURACY,
        Measure("KL", "nats", "KL(policy || start) of whole completions after training", held_out("kl", "samples")),
    ],
    expected=[Expect("online", ">", "offline")],
    curves=[Curve("share of the step's pairs that the policy ranks right", series("reward/accuracy", mean_of=5))],
    text="""
New pairs take it to 0.97 right where those of the start take it to 0.88, 0.08 nats further from the start. They cost
more: every five steps new completions of new problems are sampled and judged, which the offline arm did once.
""",
)
