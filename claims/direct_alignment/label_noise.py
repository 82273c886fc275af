"""Preferences of which some are the wrong way round, and losses that know how many."""

from claims.claim import Arm, Claim, Expect, Paper, RunOf
from claims.direct_alignment.setting import ACCURACY, RUN, pairs

SHARES = (0, 10, 20, 40)  # percent of the pairs
DPO, CDPO, ROBUST = "DPO", "cDPO", "robust DPO"


def name(line: str, share: int) -> str:
    return f"{line}, {share} %"


def arm(line: str, share: int) -> Arm:
    data = {"data": {"path": RunOf(name("pairs", share))}}
    if line == DPO:
        return Arm(f"{share} % of the pairs swapped", {"loss": "dpo", **data}, line=line, x=share)
    loss = "cdpo" if line == CDPO else "robust"
    settings = {"loss": loss, "label_smoothing": share / 100, **data}
    return Arm(f"{share} % swapped, and the loss is told so", settings, line=line, x=share)


CLAIM = Claim(
    sentence="Where preferences are noisy, DPO losses that know the rate of the noise learn more than DPO.",
    paper=Paper(
        "Chowdhury et al.", 2024, "Provably Robust DPO: Aligning Language Models with Noisy Feedback", "2403.00409"
    ),
    setting="The embedded model on 300 pairs of its own completions of step_arithmetic, of which a share has the wrong "
    "one chosen: 60 steps of 16 pairs, so each about three times. cDPO is that of Mitchell (2023).",
    command="direct_alignment.train",
    before={name("pairs", share): pairs(label_noise=share / 100) for share in SHARES},
    shared={**RUN, "max_samples": 300, "max_steps": 60, "save_every": 60, "eval_samples": 0},
    arms={
        name(line, share): arm(line, share) for line in (DPO, CDPO, ROBUST) for share in SHARES if share or line == DPO
    },
    measures=[ACCURACY],
    expected=[
        Expect(name(DPO, 40), "<", name(DPO, 0)),
        *(Expect(name(line, share), ">", name(DPO, share)) for share in (20, 40) for line in (CDPO, ROBUST)),
    ],
    x="pairs with the wrong one chosen, %",
    text="",
)
