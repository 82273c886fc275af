"""Statistics of runs, by hand: curves smoothed, thinned and averaged; runs grouped over seeds, and their labels."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_directories import write_run

from rlhf.errors import UserError
from rlhf.report.over_seeds import (
    SeedGroup,
    area_under,
    differing_keys,
    group_runs,
    held_out_over_seeds,
    over_seeds,
    smooth,
    thin,
    without_unknown_defaults,
)
from rlhf.report.runs import Point, Run, Target, read_run
from rlhf.statistics import Estimate, t_interval


def test_t_interval_by_hand() -> None:
    """0.7, 0.8, 0.9: mean 0.8; s = √(((-0.1)² + 0² + 0.1²) / 2) = 0.1; t(0.975, 2) = 4.302653 (its closed form is
    (2p-1)·√(2 / (4p(1-p))) = 0.95·√(2 / 0.0975)); half width = 4.302653 · 0.1 / √3 = 0.248414.
    """
    t = 0.95 * math.sqrt(2 / (4 * 0.975 * 0.025))
    assert t == pytest.approx(4.302653, abs=1e-6)
    found = t_interval([0.7, 0.8, 0.9])
    assert found.low is not None
    assert found.high is not None
    assert found.value == pytest.approx(0.8)
    assert found.high - 0.8 == pytest.approx(t * 0.1 / math.sqrt(3))
    assert 0.8 - found.low == pytest.approx(0.248414, abs=1e-6)
    assert found.n == 3


def test_t_interval_of_two_uses_the_cauchy_quantile() -> None:
    """With k = 2, t(0.975, 1) = tan(0.475 π) = 12.7062; s = |a-b| / √2, so the half width is 12.7062 · |a-b| / 2."""
    found = t_interval([0.4, 0.6])
    assert found.high == pytest.approx(0.5 + math.tan(0.475 * math.pi) * 0.1)


def test_a_single_seed_has_no_interval() -> None:
    assert t_interval([0.5]) == Estimate(0.5, None, None, 1)


def test_over_seeds_stops_where_a_run_was_cut_short() -> None:
    """The second run has no step 20: a mean there would be one over other seeds."""
    found = over_seeds([{0: 0.2, 10: 0.5, 20: 0.8}, {0: 0.4, 10: 0.7}])
    assert [point.step for point in found] == [0, 10]
    assert found[1].estimate.value == pytest.approx(0.6)


def test_area_under_by_hand() -> None:
    """Up to step 15: ½·(0.2+0.6)·10 = 4, then from 0.6 at 10 to 0.7 at 15: ½·1.3·5 = 3.25; 7.25 / 15."""
    curve = [(0.0, 0.2), (10.0, 0.6), (20.0, 0.8)]
    assert area_under(curve, 15) == pytest.approx(7.25 / 15)
    assert area_under(curve, 20) == pytest.approx((4 + 7) / 20)
    assert area_under(curve[:1], 20) is None


def test_smoothing_keeps_a_line_and_takes_noise_away() -> None:
    steps = np.arange(1.0, 201)
    noise = np.random.default_rng(0).normal(0, 0.3, 200)
    line = 3 + 0.05 * steps
    smoothed = smooth(steps, line + noise, steps)
    assert np.abs(smoothed - line).mean() < 0.35 * np.abs(noise).mean()
    schedule = np.minimum(steps / 20, 1)
    assert np.array_equal(smooth(steps, schedule, steps), schedule)


def test_thinning_keeps_spikes() -> None:
    values = np.zeros(10_000)
    values[1234], values[5678] = 9, -9
    kept = thin(values, 100)
    assert len(kept) <= 100
    assert {1234, 5678} <= set(kept.tolist())


def local_lines(steps: np.ndarray, values: np.ndarray, at: np.ndarray) -> list[float]:
    """At each point the line of weighted least squares, weights exp(-((step - at) / width)^2 / 2), width 1/14 of all"""
    width = (steps[-1] - steps[0]) / 14
    lines = [np.polyfit(steps - a, values, 1, w=np.exp(-(((steps - a) / width) ** 2) / 4)) for a in at]
    return [float(line[1]) for line in lines]


@pytest.mark.parametrize("count", [8, 9, 60])
def test_smoothing_is_a_weighted_line_at_each_point(count: int) -> None:
    generator = np.random.default_rng(count)
    steps = np.cumsum(generator.uniform(0.5, 1.5, count)) + 100
    values = generator.normal(size=count) + 0.1 * steps
    at = np.linspace(steps[0], steps[-1], 17)
    assert smooth(steps, values, at) == pytest.approx(np.array(local_lines(steps, values, at)), abs=1e-4)


def test_few_points_and_curves_without_noise_stay() -> None:
    """Seven points are few. What bends by under a thousandth of its range has no noise."""
    noise = np.random.default_rng(0).normal(size=8)
    steps = np.arange(8.0)
    at = np.array([0.5, 2.0])
    between = [(noise[0] + noise[1]) / 2, noise[2]]
    assert smooth(steps[:7], noise[:7], at) == pytest.approx(between)
    assert smooth(steps, noise, at) != pytest.approx(between)
    for bend, stays in ((0.9e-3, True), (1.1e-3, False)):
        values = np.array([0, bend, 0, bend, 0, bend, 0, 1.0])  # second differences 2 * bend, but for the last
        values[:7] /= 2
        assert (smooth(steps, values, steps).tolist() == values.tolist()) is stays


def test_a_point_far_from_all_is_not_a_division_by_zero() -> None:
    steps = np.array([*range(9), 1e4])
    values = np.array([*np.random.default_rng(1).normal(size=9), 3.0])
    assert np.isfinite(smooth(steps, values, np.array([0.0, 5e3, 1e4]))).all()


def test_thinning_keeps_the_ends_of_every_stretch() -> None:
    """Of 100 values by 10: five stretches of 20, the lowest and the highest of each, in order."""
    values = np.random.default_rng(0).normal(size=100)
    wanted = sorted({s + int(f(values[s : s + 20])) for s in range(0, 100, 20) for f in (np.argmin, np.argmax)})
    assert thin(values, 10).tolist() == wanted
    assert thin(values, 100).tolist() == list(range(100))
    assert thin(values, 99).tolist() != list(range(100))


def test_area_under_at_its_ends() -> None:
    """From step 10 on: 0.2 to 0.6 up to 20 is 0.4; to 40, where the curve stays at 0.6: (4 + 12) / 30."""
    curve = [(10.0, 0.2), (20.0, 0.6)]
    assert area_under(curve, 20) == pytest.approx(0.4)
    assert area_under(curve, 15) == pytest.approx(0.3)
    assert area_under(curve, 40) == pytest.approx(16 / 30)
    assert area_under(curve, 10) is None
    assert area_under(curve, 9) is None
    assert area_under([], 9) is None


def test_over_seeds_by_hand() -> None:
    assert over_seeds([]) == []
    assert over_seeds([{5: 0.2, 0: 0.1}]) == [
        Point(0, Estimate(0.1, None, None, 1)),
        Point(5, Estimate(0.2, None, None, 1)),
    ]
    assert over_seeds([{0: 0.1}, {5: 0.2}]) == []
    assert over_seeds([{0: 0.1, 5: 1.0}, {5: 0.0, 7: 0.0}]) == [Point(5, t_interval([1.0, 0.0]))]


def test_a_curve_over_seeds_is_of_the_runs_that_have_it() -> None:
    """One of them keeps its own interval; none has no curve."""
    words, sums = Target("words", "accuracy"), Target("sums", "accuracy")
    own = [Point(0, Estimate(0.5, 0.4, 0.6, 100))]
    runs = [Run(Path("a"), evaluation={words: own}), Run(Path("b"), evaluation={words: own, sums: own})]
    assert held_out_over_seeds(SeedGroup("g", runs), sums) == own
    assert held_out_over_seeds(SeedGroup("g", runs), words) == [Point(0, t_interval([0.5, 0.5]))]
    assert held_out_over_seeds(SeedGroup("g", runs), Target("words", "accuracy_greedy")) == []


# ------------------------------------------------------------------------------------------------------------ grouping


@pytest.mark.parametrize(
    ("configs", "keys", "labels"),
    [
        ([{"lr": 1e-5}, {"lr": 1e-6}], [], ["lr=1e-05", "lr=1e-06"]),
        # No key tells all three apart, so two are needed.
        (
            [{"algorithm": "a", "lr": 1}, {"algorithm": "b", "lr": 1}, {"algorithm": "b", "lr": 2}],
            [],
            ["algorithm=a, lr=1", "algorithm=b, lr=1", "algorithm=b, lr=2"],
        ),
        ([{"lr": 1}, {"lr": 1, "beta": 2}], ["beta"], ["beta=default", "beta=2"]),
        # A chosen label that leaves two groups the same is completed: two lines must not have one name.
        ([{"loss": "a", "lr": 1}, {"loss": "a", "lr": 2}], ["loss"], ["loss=a, lr=1", "loss=a, lr=2"]),
        ([{"data": {"size": 1}}, {"data": {"size": 2}}], [], ["data.size=1", "data.size=2"]),
        ([{"algorithm": "a"}], [], ["a"]),
    ],
)  # fmt: skip
def test_labels(tmp_path: Path, configs: list[dict], keys: list[str], labels: list[str]) -> None:
    for i, config in enumerate(configs):
        write_run(tmp_path / str(i), config=config)
    runs = [read_run(tmp_path / str(i)) for i in range(len(configs))]
    assert [group.label for group in group_runs(runs, keys)] == labels


def test_runs_without_config_stay_apart(tmp_path: Path) -> None:
    for name in ("x", "y"):
        write_run(tmp_path / name, metrics=[{"step": 1, "loss": 1.0}])
    groups = group_runs([read_run(tmp_path / name) for name in ("x", "y")])
    assert [group.label for group in groups] == ["x", "y"]


def runs_of(*configs: dict[str, Any]) -> list[Run]:
    return [Run(Path(f"runs/{i}"), config) for i, config in enumerate(configs)]


def test_seed_and_names_do_not_part_runs() -> None:
    """They come in the order in which they were given, and the order of keys means nothing."""
    runs = runs_of(
        {"lr": 2, "loss": "b", "seed": 0},
        {"lr": 1, "loss": "a", "seed": 0, "output_dir": "x", "wandb_run_name": "y"},
        {"seed": 1, "loss": "b", "lr": 2},
        {"seed": 1, "loss": "a", "lr": 1, "output_dir": "z"},
    )
    groups = group_runs(runs)
    assert [(group.label, [run.seed for run in group.runs]) for group in groups] == [("b", [0, 1]), ("a", [0, 1])]
    assert groups[0].runs == [runs[0], runs[2]]


def test_a_default_that_an_older_run_does_not_know_does_not_part_runs() -> None:
    """The new setting was given by nobody, and so is what the older code did. Given, it parts them, and so does a
    setting of which no run says that nobody gave it. The names of runs stay."""
    old, new = {"loss": "a", "seed": 0}, {"loss": "a", "seed": 1, "new": False, "algorithm": "x"}

    def labels(unset: object, *keys: str) -> list[str]:
        runs = [Run(Path("runs/0"), old), Run(Path("runs/1"), new, {"unset": unset})]
        return [group.label for group in group_runs(runs, keys)]

    assert labels(["new", "algorithm"]) == ["default", "x"]
    assert labels(["new", "algorithm"], "new") == ["new=default", "new=False"]
    del new["algorithm"]
    assert labels(["new"]) == ["a"]
    assert labels([]) == labels(None) == ["new=default", "new=False"]
    later = {"max_steps": 5, "seed": 0, "lora_rank": 0}
    for trainer, count in (("instruction_tuning.train", 1), ("x.train", 2), ("os.path", 2)):
        runs = [Run(Path(f"runs/{n}"), own, {"trainer": trainer}) for n, own in enumerate(({"max_steps": 5}, later))]
        assert len(group_runs(runs)) == count, "runs that recorded nothing: by the defaults of today, of our trainers"
    unread, known = Run(Path("runs/2")), Run(Path("runs/3"), {**new, "new": True}, {"unset": ["new"]})
    assert len(without_unknown_defaults([unread, known])[1].config) == 3, "a run without a config knows no setting"


def test_two_runs_of_one_seed_are_apart_and_named() -> None:
    """Their directories tell them apart; runs without a seed are repetitions."""
    runs = runs_of(
        {"loss": "a", "seed": 0}, {"loss": "a", "seed": 0}, {"loss": "a", "seed": 1}, {"loss": "b", "seed": 0}
    )
    assert [(group.label, len(group.runs)) for group in group_runs(runs)] == [("a 0", 2), ("a 1", 1), ("b", 1)]
    assert [(group.label, len(group.runs)) for group in group_runs(runs_of({"loss": "a"}, {"loss": "a"}))] == [("a", 2)]
    assert len(group_runs([*runs[:1], *runs[:1]])[0].runs) == 1, "a directory named twice is one run"


def test_labels_are_keys_that_differ() -> None:
    """Well-known names first, in their order; seeds and names never; as few as tell all apart."""
    configs = [
        {"z": 1, "lr": 1, "task": "s", "seed": 0, "same": 5},
        {"z": 2, "lr": 2, "task": "t", "seed": 1, "same": 5},
    ]
    assert differing_keys(configs) == ["task", "lr", "z"]
    assert [group.label for group in group_runs(runs_of(*configs))] == ["task=s", "task=t"]
    three = [{"task": "s", "lr": 1, "z": 1}, {"task": "s", "lr": 2, "z": 1}, {"task": "t", "lr": 2, "z": 1}]
    assert [group.label for group in group_runs(runs_of(*three))] == ["task=s, lr=1", "task=s, lr=2", "task=t, lr=2"]
    assert [group.label for group in group_runs(runs_of(*three), ["z"])] == [
        "z=1, task=s, lr=1",
        "z=1, task=s, lr=2",
        "z=1, task=t, lr=2",
    ]
    assert [group.label for group in group_runs(runs_of({"task": "s", "lr": 1}))] == ["task=s"]
    assert [group.label for group in group_runs(runs_of({"other": 1}))] == ["0"], "the directory's name"


def test_a_label_key_that_no_run_has_is_refused() -> None:
    with pytest.raises(UserError, match="--label lrr: no run has this config key") as error:
        group_runs(runs_of({"lr": 1}), ["lrr"])
    assert "did you mean 'lr'" in str(error.value.hint)
