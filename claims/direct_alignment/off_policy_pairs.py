"""Pairs of a sampler that writes what the policy hardly would, and a loss that counts them for less."""

from typing import Any

from claims.claim import Arm, Claim, Expect, Measure, Paper, RunOf
from claims.direct_alignment.setting import ACCURACY, RUN, pairs
from claims.measures import held_out

HOT = 1.5  # the temperature of the other sampler


def learning_from(name: str, loss: str) -> dict[str, Any]:
    return {"loss": loss, "data": {"path": RunOf(name)}}


CLAIM = Claim(
    sentence="On pairs that another policy wrote, DPO learns more where each pair counts by how likely the policy is "
    "to write it itself.",
    paper=Paper("Zhou et al.", 2024, "WPO: Enhancing RLHF with Weighted Preference Optimization", "2406.11827"),
    setting="The embedded model on step_arithmetic (three or four terms). Pairs are a right and a wrong one of four "
    f"completions, sampled at temperature 1, as it is asked afterwards, or at {HOT}; 60 steps of 16 pairs. That "
    "sampler is another policy, though not one of other weights.",
    command="direct_alignment.train",
    before={"own": pairs(), "hot": pairs(temperature=HOT)},
    shared=RUN,
    arms={
        "DPO": Arm("pairs of the hot sampler, all alike", learning_from("hot", "dpo")),
        "WPO": Arm("the same pairs, each weighed by how likely the policy is to write it", learning_from("hot", "wpo")),
        "DPO, own": Arm("pairs of the policy as it was", learning_from("own", "dpo")),
        "WPO, own": Arm("the same pairs, weighed", learning_from("own", "wpo")),
    },
    measures=[
        ACCURACY,
        Measure("KL", "nats", "KL(policy || start) of whole completions after training", held_out("kl", "samples")),
    ],
    expected=[
        Expect("WPO", ">", "DPO"),
    ],
    beside=[
        Expect("DPO", "<", "DPO, own"),
        Expect("WPO, own", "=", "DPO, own", within=0.05),
        Expect("WPO", "<", "DPO", of="KL"),
    ],
    seeds=10,
    text="""
Pairs of the hot sampler teach DPO less than those of the policy itself, 0.73 to 0.87. Weighing them brings 0.05 of that
back, on a way from the start that is longer and not shorter. On the policy's own pairs the weights are worth 0.02.
""",
)
