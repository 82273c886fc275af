"""How groups of runs stand against one, and runs that are read at equal sampled tokens: by hand."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf.errors import UserError
from rlhf.report.against import baseline_of, by_metric, standings
from rlhf.report.over_seeds import SeedGroup, group_runs
from rlhf.report.runs import Point, Run, Target
from rlhf.report.spent import by_spent
from rlhf.statistics import Estimate, paired_runs, t_interval

WORDS, SUMS = Target("words", "accuracy"), Target("sums", "accuracy")


def run_of(
    algorithm: str, seed: int | None, curves: Mapping[Target, Mapping[int, float]], tokens: Mapping[int, float] = {}
) -> Run:
    """A run with these held-out curves, and with tokens sampled in these steps."""
    evaluation = {
        target: [Point(step, Estimate(value, 0.0, 1.0, 9)) for step, value in curve.items()]
        for target, curve in curves.items()
    }
    metrics: list[dict[str, Any]] = [{"step": step, "sampler/tokens": own} for step, own in tokens.items()]
    config = {"algorithm": algorithm} | ({} if seed is None else {"seed": seed})
    return Run(Path(f"runs/{algorithm}-{seed}"), config, metrics=metrics, evaluation=evaluation)


def group(algorithm: str, ends: Mapping[int | None, float], target: Target = WORDS) -> SeedGroup:
    return SeedGroup(algorithm, [run_of(algorithm, seed, {target: {0: 0.0, 9: v}}) for seed, v in ends.items()])


def test_groups_against_the_first_by_hand() -> None:
    """grpo 0.5, 0.7, 0.9 (seeds 0, 1, 2) against rloo 0.6, 0.6, 0.2 (2, 1, 0): paired -0.3, -0.1, -0.3; of the 9 pairs
    of runs rloo's is above in 2 (0.6 above 0.5, twice)."""
    grpo, rloo = group("grpo", {0: 0.5, 1: 0.7, 2: 0.9}), group("rloo", {2: 0.6, 1: 0.6, 0: 0.2})
    first, second = standings([grpo, rloo], [WORDS], grpo)
    assert (first.label, first.difference, first.improvement) == ("grpo", None, None)
    assert first.middle.value == pytest.approx(0.7)
    assert second.difference == pytest.approx(t_interval([-0.3, -0.1, -0.3]))
    assert second.improvement is not None
    assert second.improvement.value == pytest.approx(2 / 9)
    assert 0 <= second.improvement.low < 2 / 9 < second.improvement.high <= 1
    assert first.cells == ["grpo", f"0.700 [{first.middle.low:.3f}, {first.middle.high:.3f}]", "-", "-"]
    assert second.cells[2].startswith("-0.233 [-0.5")
    (_, other) = standings([rloo, grpo], [WORDS], rloo)
    assert other.difference.value == pytest.approx(-second.difference.value)
    assert other.improvement.value == pytest.approx(1 - second.improvement.value)


@pytest.mark.parametrize("metric", ["loss", "calibration_error"])
def test_less_loss_or_error_is_better(metric: str) -> None:
    loss = Target("held-out", metric)
    high, low = group("nll", {0: 2.0, 1: 3.0}, loss), group("dft", {0: 1.0, 1: 1.5}, loss)
    (_, dft) = standings([high, low], [loss], high)
    assert dft.improvement == Estimate(1.0, None, None, 2)
    assert dft.difference == paired_runs({0: 1.0, 1: 1.5}, {0: 2.0, 1: 3.0})
    assert dft.cells[3] == "1.000 (no interval)"


def test_a_length_is_neither_better_nor_worse() -> None:
    length = Target("samples", "length")
    short, long = group("a", {0: 20.0, 1: 22.0}, length), group("b", {0: 30.0, 1: 34.0}, length)
    (_, found) = standings([short, long], [length], short)
    assert found.improvement is None
    assert found.difference == paired_runs({0: 30.0, 1: 34.0}, {0: 20.0, 1: 22.0})
    assert found.cells[3] == "-"


def test_data_sets_of_a_metric_are_one_standing() -> None:
    """Differences of means over data sets: (0.9 + 0.1)/2 - 0.4 and (0.7 + 0.5)/2 - 0.4."""

    def both(algorithm: str, ends: list[tuple[float, float]]) -> SeedGroup:
        curves = [{WORDS: {9: words}, SUMS: {9: sums}} for words, sums in ends]
        return SeedGroup(algorithm, [run_of(algorithm, seed, curve) for seed, curve in enumerate(curves)])

    base, other = both("a", [(0.4, 0.4), (0.4, 0.4)]), both("b", [(0.9, 0.1), (0.7, 0.5)])
    (_, found) = standings([base, other], [WORDS, SUMS], base)
    assert found.difference == pytest.approx(t_interval([0.1, 0.2]))
    assert found.improvement.value == pytest.approx((1 + 1 / 2) / 2)
    assert found.middle.value == pytest.approx((0.7 + 0.5) / 2)
    assert by_metric([WORDS, Target("words", "loss"), SUMS]) == {
        "accuracy": [WORDS, SUMS],
        "loss": [Target("words", "loss")],
    }


def test_what_was_not_measured_stands_nowhere() -> None:
    grpo, rloo = group("grpo", {0: 0.5, 1: 0.7}), group("rloo", {0: 0.5}, SUMS)
    assert [each.label for each in standings([grpo, rloo], [WORDS], grpo)] == ["grpo"]
    assert standings([grpo, rloo], [WORDS], rloo) == []
    other = group("maxrl", {7: 0.9})
    (_, found) = standings([grpo, other], [WORDS], grpo)
    assert found.difference is None, "no seed in common"
    assert found.improvement.value == 1.0


def test_the_baseline_is_the_group_of_a_run() -> None:
    groups = [group("grpo", {0: 0.5, 1: 0.7}), group("rloo", {0: 0.5})]
    assert baseline_of(groups, None) is groups[0]
    assert baseline_of(groups, Path("runs/../runs/rloo-0")) is groups[1]
    with pytest.raises(UserError, match="--against runs/ppo-0: not one of the runs"):
        baseline_of(groups, Path("runs/ppo-0"))


# -------------------------------------------------------------------------------------------------- sampled tokens


def test_runs_are_read_at_the_same_sampled_tokens() -> None:
    """The first samples 100 a step, the second 300: both reach 200. On the line of the second from 0.2 to 0.8 after 600
    tokens lies 0.4 at 200, and 0.3 at 100."""
    few = run_of("grpo", 0, {WORDS: {0: 0.2, 1: 0.5, 2: 0.6}}, {1: 100.0, 2: 100.0})
    many = run_of("dapo", 0, {WORDS: {0: 0.2, 2: 0.8}}, {1: 300.0, 2: 300.0})
    one, other = by_spent([few, many], "sampled_tokens")
    assert [(p.step, p.estimate.value) for p in one.evaluation[WORDS]] == [(0, 0.2), (100, 0.5), (200, 0.6)]
    found = {p.step: p.estimate.value for p in other.evaluation[WORDS]}
    assert found == {0: pytest.approx(0.2), 100: pytest.approx(0.3), 200: pytest.approx(0.4)}
    assert other.evaluation[WORDS][0].estimate[1:] == (None, None, 9), "no interval of a value between two others"
    assert [row["step"] for row in one.metrics] == [100, 200]
    assert [row["step"] for row in other.metrics] == [300], "up to the step in which the tokens are spent"
    assert [point.step for point in many.evaluation[WORDS]] == [0, 2], "the runs themselves are as they were"


def test_runs_are_read_at_the_same_optimizer_steps() -> None:
    """GRPO takes one on each of four batches; PPO two on each of two, after a batch for its critic alone."""
    grpo = run_of("grpo", 0, {WORDS: {0: 0.2, 2: 0.6, 4: 0.8}}, {})
    ppo = run_of("ppo", 0, {WORDS: {0: 0.2, 1: 0.2, 2: 0.4, 3: 0.6}}, {})
    grpo.metrics.extend({"step": step, "optim/steps": 1.0} for step in (1, 2, 3, 4))
    ppo.metrics.extend({"step": step, "optim/steps": 0.0 if step == 1 else 2.0} for step in (1, 2, 3))
    one, other = by_spent([grpo, ppo], "optimizer_steps")
    at = {0: 0.2, 1: 0.4, 3: 0.7, 4: 0.8}  # a third of four is 1.3
    assert {p.step: p.estimate.value for p in one.evaluation[WORDS]} == pytest.approx(at)
    assert {p.step: p.estimate.value for p in other.evaluation[WORDS]} == pytest.approx(
        {0: 0.2, 1: 0.3, 3: 0.5, 4: 0.6}
    )
    assert [row["step"] for row in other.metrics] == [0, 2, 4]
    more = run_of("ppo", 1, {WORDS: dict.fromkeys(range(9), 0.5)}, {})
    more.metrics.extend({"step": step, "optim/steps": float(step > 6)} for step in range(1, 9))
    (found,) = by_spent([more], "optimizer_steps")
    assert [p.step for p in found.evaluation[WORDS]] == [0, 1, 2], "each once, though it was evaluated nine times"


def test_what_is_learned_without_new_samples_counts_for_those_that_there_are() -> None:
    """A round of 100 tokens and two steps, then another: after 100 tokens the policy is that of step 2."""
    rounds = run_of("top", 0, {WORDS: {0: 0.1, 1: 0.2, 2: 0.5, 4: 0.7}}, {1: 100.0, 2: 0.0, 3: 100.0, 4: 0.0})
    (found,) = by_spent([rounds], "sampled_tokens")
    assert [p.step for p in found.evaluation[WORDS]] == [0, 67, 133, 200]
    values = [p.estimate.value for p in found.evaluation[WORDS]]
    assert values == pytest.approx(np.interp([0, 67, 133, 200], [0, 100, 200], [0.1, 0.5, 0.7]))


def test_nothing_is_said_of_tokens_before_the_first_evaluation() -> None:
    late = run_of("grpo", 0, {WORDS: {1: 0.5, 2: 0.6}}, {1: 100.0, 2: 100.0})
    (found,) = by_spent([late], "sampled_tokens")
    assert [p.step for p in found.evaluation[WORDS]] == [200]


def test_runs_without_samples_are_refused() -> None:
    given = run_of("dpo", 0, {WORDS: {0: 0.2, 2: 0.8}}, {1: 0.0})
    with pytest.raises(UserError, match=r"runs/dpo-0: no step has sampled tokens, or says how many \(sampler/tokens\)"):
        by_spent([given], "sampled_tokens")


def test_equal_tokens_and_seeds_together() -> None:
    """Groups are as ever: their means over seeds are at the same tokens."""
    runs = [run_of("grpo", seed, {WORDS: {0: 0.0, 1: 0.4 + 0.2 * seed}}, {1: 100.0 + seed}) for seed in (0, 1)]
    runs += [run_of("dapo", 0, {WORDS: {0: 0.0, 1: 1.0}}, {1: 400.0})]
    groups = group_runs(by_spent(runs, "sampled_tokens"), ["algorithm"])
    (_, dapo) = standings(groups, [WORDS], groups[0])
    assert dapo.middle.value == pytest.approx(0.25)
    assert dapo.difference.value == pytest.approx(0.25 - 0.4)
