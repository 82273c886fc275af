"""Preferences that are always the same: whether the margin has an end."""

from collections.abc import Callable
from pathlib import Path

from claims.claim import Arm, Claim, Curve, Expect, Measure, Paper, RunOf
from claims.direct_alignment.setting import RUN, pairs
from claims.measures import held_out, series
from rlhf.config.recorded import read_config

STEPS = 120
LAST = 10  # steps that a mean is taken over


def in_nats(mean_of: int) -> Callable[[Path], list[tuple[float, float]]]:
    """The margin of log-ratios along a run: what is logged is beta times it."""
    margins = series("reward/margin", mean_of=mean_of)

    def found(path: Path) -> list[tuple[float, float]]:
        beta = float(read_config(path)["beta"])
        return [(step, margin / beta) for step, margin in margins(path)]

    return found


def growth(path: Path) -> float:
    """From the middle of the run to its end."""
    margin = dict(in_nats(LAST)(path))
    return margin[STEPS] - margin[STEPS // 2]


CLAIM = Claim(
    sentence="Where preferences never vary, DPO's margin grows on whatever beta is, and IPO's stops at its target.",
    paper=Paper(
        "Azar et al.",
        2023,
        "A General Theoretical Paradigm to Understand Learning from Human Preferences",
        "2310.12036",
    ),
    setting="The embedded model on 16 pairs of its own completions of step_arithmetic, the right one always chosen: "
    f"{STEPS} steps of 8 pairs, so each sixty times.",
    command="direct_alignment.train",
    before={"pairs": pairs()},
    shared={
        **RUN,
        "task": None,
        "data": {"path": RunOf("pairs"), "held_out": 100},
        "max_samples": 16,
        "batch_size": 8,
        "max_steps": STEPS,
        "save_every": STEPS,
    },
    arms={
        "DPO, beta 0.1": Arm("-log sigmoid(beta margin), which never has enough", {"loss": "dpo", "beta": 0.1}),
        "DPO, beta 1": Arm("the same, with ten times the weight of the reference", {"loss": "dpo", "beta": 1.0}),
        "IPO, beta 0.1": Arm(
            "(margin - 1 / (2 beta))^2: a target of 5 nats", {"loss": "ipo", "beta": 0.1, "ipo_sum": True}
        ),
    },
    measures=[
        Measure(
            "growth",
            "nats",
            "margin of log-ratios on the pairs: mean of the last ten steps less that of steps 51 to 60",
            growth,
        ),
        Measure("KL", "nats", "KL(policy || start) of whole completions after training", held_out("kl", "samples")),
    ],
    expected=[
        Expect("DPO, beta 0.1", ">", "IPO, beta 0.1"),
        Expect("DPO, beta 1", ">", "IPO, beta 0.1"),
        Expect("IPO, beta 0.1", "=", 0.0, within=0.5),
        Expect("DPO, beta 0.1", ">", "IPO, beta 0.1", of="KL"),
    ],
    curves=[Curve("margin of log-ratios on the pairs, nats", in_nats(LAST))],
    text="",
)
