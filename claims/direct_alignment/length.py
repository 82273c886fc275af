"""An annotator who likes long answers, and what each loss makes of it."""

from claims.claim import Arm, Claim, Expect, Measure, Paper, RunOf
from claims.direct_alignment.setting import ACCURACY, RUN, SETTING, change, pairs

CLAIM = Claim(
    sentence="Where longer completions are preferred, completions grow less with SimPO and ORPO than with DPO.",
    paper=Paper(
        "Meng et al.", 2024, "SimPO: Simple Preference Optimization with a Reference-Free Reward", "2405.14734"
    ),
    setting=SETTING + " The longer one is chosen, right or wrong, and of two of one length the right one.",
    command="direct_alignment.train",
    before={"pairs": pairs(label_noise=1.0, noise="longer")},
    shared={**RUN, "data": {"path": RunOf("pairs")}, "eval_samples": 120},
    arms={
        "DPO": Arm("sums over tokens: a longer completion has a larger margin", {"loss": "dpo"}),
        "SimPO": Arm("means over tokens, without a reference", {"loss": "simpo"}),
        "ORPO": Arm("likelihood of the chosen, and odds by means over tokens", {"loss": "orpo"}),
    },
    measures=[
        Measure(
            "length", "tokens", "change in the mean length of 120 sampled completions", change("length", "samples")
        ),
        ACCURACY,
    ],
    expected=[
        Expect("SimPO", "<", "DPO", of="length"),
        Expect("ORPO", "<", "DPO", of="length"),
    ],
    beside=[
        Expect("DPO", ">", 0.0, of="length"),
    ],
    text="""
The labels themselves prefer length, so all three learn to write longer: a mean over tokens takes away DPO's own liking
for length, not that of the labels. SimPO, of which the claim is made, lengthens more than DPO; ORPO a third as much as
DPO, with the same accuracy. All have their published values. How far a loss moves the policy differs with them and was
not held equal, so that the arms differ in more than the mean over tokens.
""",
)
