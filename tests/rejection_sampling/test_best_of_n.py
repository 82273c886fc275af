"""Best-of-n: its KL by enumeration, curves by hand, and the command."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from numpy import ndarray as Array

from rejection_sampling.best_of_n import main
from rejection_sampling.best_of_n_curves import curves
from rlhf.evaluate.best_of import kl_of_best_of, measured_kl_of_best_of
from rlhf.models.reward_model import RewardModel


def enumerated_kl(proxy: Array, n: int) -> float:
    """KL(best-of-n || policy) of a policy that gives each of these m answers with probability 1/m: over all m^n draws
    of n, where the best is given, and one of the best, each as often, if several are."""
    m = len(proxy)
    p = np.zeros(m)
    for drawn in product(range(m), repeat=n):
        best = [i for i in drawn if proxy[i] == max(proxy[j] for j in drawn)]
        for i in best:
            p[i] += 1 / len(best) / m**n
    p = p[p > 0]
    return float(np.sum(p * np.log(p * m)))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "proxy", [[0.0, 1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 1.0, 2.0, 2.0], [0.0, 0.0, 0.0, 1.0], [3.0, 3.0, 3.0]], ids=str
)
def test_the_kl_is_that_of_all_draws(proxy: list[float], n: int) -> None:
    measured = measured_kl_of_best_of(np.array(proxy), n)
    assert measured == pytest.approx(enumerated_kl(np.array(proxy), n), abs=1e-12)
    assert measured <= kl_of_best_of(n) + 1e-12


@pytest.mark.parametrize("n", [1, 2, 8, 64])
def test_without_ties_the_kl_is_the_formula(n: int) -> None:
    """Equal as answers become as many as never to be drawn twice; with ties the formula is a bound alone."""
    scores = np.random.default_rng(0).normal(size=20_000)
    assert measured_kl_of_best_of(scores, n) == pytest.approx(kl_of_best_of(n), abs=1e-5)
    few = np.random.default_rng(0).normal(size=128)
    assert measured_kl_of_best_of(few, n) == pytest.approx(kl_of_best_of(n), abs=0.011), "a few are drawn twice"
    right = np.arange(1000) < 250
    assert measured_kl_of_best_of(right, 64) == pytest.approx(np.log(4), abs=1e-5), "all there is to gain is 1/p"
    if n > 1:
        assert measured_kl_of_best_of(right, n) < kl_of_best_of(n) - 0.05


def test_curves_by_hand() -> None:
    """Two problems with three answers. The first one's proxy prefers wrong answers, the second one's ties."""
    proxy = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 1.0]])
    gold = np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    found = {(r["metric"], r["of"]): r for r in curves(proxy, gold, largest_n=3, data="t")}
    assert sorted({n for _, n in found}) == [1, 2]
    # n = 1: (2/3 + 2/3) / 2. n = 2: of the first, pairs {1,2} -> 1, {1,3} and {2,3} -> 0; of the second, {1,2} is 1/2.
    assert found["gold", 1]["value"] == pytest.approx(2 / 3)
    assert found["gold", 2]["value"] == pytest.approx((1 / 3 + (0.5 + 1 + 1) / 3) / 2)
    assert found["proxy", 2]["value"] == pytest.approx(((2 + 3 + 3) / 3 + 2 / 3) / 2)
    kl = [enumerated_kl(own, 2) for own in proxy]
    assert found["kl", 2]["value"] == pytest.approx(sum(kl) / 2)
    assert (found["kl", 2]["low"], found["kl", 2]["high"]) == pytest.approx((min(kl), max(kl)))
    assert found["kl", 2]["bound"] == kl_of_best_of(2)
    assert found["gold", 2]["n"] == 2


class ShortIsGood:
    """Prefers short answers."""

    def __init__(self, names, **how) -> None:
        assert list(names) == ["a", "b"]
        assert how == {"combine": "min", "variance_weight": None, "steps": "min"}

    def score(self, conversations) -> list[list[float]]:
        return [[-float(len(answer.tokens)) for answer in answers] for _, answers in conversations]


def test_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("rlhf.models.reward_model.RewardModel", ShortIsGood)
    monkeypatch.setattr("rlhf.models.names.find_folder", lambda name, key="model_name": None)
    monkeypatch.setattr("rlhf.report.charts.render_png", lambda spec, output: output)
    asked = [
        "--task",
        "spell_backward",
        "--task_config",
        "{max_word_len: 3}",
        "--max_new_tokens",
        "24",
    ]
    small = ["--problems", "3", "--samples", "4", "--largest_n", "4", "--output", str(tmp_path / "out")]
    assert main([*asked, *small, "--reward_model", "a", "b", "--combine", "min", "--debug"]) == 0
    records = [json.loads(line) for line in (tmp_path / "out" / "best_of_n.jsonl").read_text().splitlines()]
    assert [(r["metric"], r["of"]) for r in records] == [(m, n) for n in (1, 2, 4) for m in ("gold", "proxy", "kl")]
    assert "Best of n by a + b" in (tmp_path / "out" / "best_of_n.html").read_text()
    assert "best_of_n.png" in capsys.readouterr().out


def test_a_file_of_others_is_left_alone(tmp_path: Path, capsys) -> None:
    (tmp_path / "best_of_n.png").write_text("a holiday")
    assert main(["--output", str(tmp_path)]) == 2
    assert (tmp_path / "best_of_n.png").read_text() == "a holiday"


def test_a_reward_model_is_the_projects_own() -> None:
    """The stand-in above has the constructor's arguments."""
    import inspect

    assert {"names", "combine", "variance_weight", "steps"} <= inspect.signature(RewardModel).parameters.keys()
