"""The term that keeps rewards around 0, which preferences leave open."""

from claims.claim import Arm, Claim, Expect, Measure, Paper, RunOf
from claims.reward_models.judged import RUN, SETTING, Judged, by, learning_from, pairs

CLAIM = Claim(
    sentence="Centring keeps the mean reward near 0, and costs no accuracy.",
    paper=Paper(
        "Eisenstein et al.",
        2023,
        "Helping or Herding? Reward Model Ensembles Mitigate but do not Eliminate Reward Hacking",
        "2312.09244",
    ),
    setting=SETTING,
    command="reward_models.train_preference_rm",
    before={"pairs": pairs()},
    shared={**RUN, **learning_from(RunOf("pairs"))},
    arms={
        "without": Arm("Bradley-Terry alone, which a constant does not change", {"centering": 0.0}),
        "centred": Arm("with 0.01 (r_w + r_l)^2", {"centering": 0.01}),
    },
    measures=[
        Measure(
            "distance from 0",
            "nats",
            "absolute value of the mean reward over all completions",
            by(lambda judged: abs(float(judged.score.mean()))),
        ),
        Measure("accuracy", "share of pairs", "pairs whose right completion has the higher score", by(Judged.accuracy)),
    ],
    expected=[
        Expect("centred", "<", "without", of="distance from 0"),
        Expect("centred", "=", "without", of="accuracy", within=0.03),
    ],
    text="",
)
