"""The table that lays runs side by side: from files by hand."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from rlhf.errors import UserError
from rlhf.report.table import table
from rlhf.run.compare import refuse_unequal, write_all
from rlhf.run.sweep import Planned, choose
from rlhf.statistics import t_interval


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """A run with a held-out curve; two steps of 2 and 3 seconds, at 10 and 20 tokens a second: 80 tokens."""

    def make(name: str, curve: dict[int, float], *, seed: int = 0, metric: str = "accuracy", **config) -> Path:
        run = tmp_path / name
        run.mkdir()
        (run / "config.yaml").write_text(yaml.safe_dump({"seed": seed, "output_dir": str(run)} | config))
        rows = [{"step": s, "data": "words", "metric": metric, "value": v, "n": 9} for s, v in curve.items()]
        (run / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        steps = [
            {"step": 1, "time/update_s": 1.5, "time/sampling_s": 0.5, "speed/tokens_per_s": 10.0, "loss": 7.0},
            {"step": 2, "time/update_s": 3.0, "speed/tokens_per_s": 20.0},
        ]
        for step, taken in zip(steps, (1.0, 4.0), strict=True):
            step |= {"optim/steps": taken, "sampler/tokens": 10.0 * taken}
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in steps))
        return run

    return make


def rows_of(text: str) -> list[list[str]]:
    """Without the table of how the groups stand against the first."""
    lines = [line for line in text.split(" against ")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def test_a_row_by_hand(make_run) -> None:
    """Heights over steps 0 to 10: (0.2 + 0.6) / 2 = 0.4 and 0.5; after: 0.6 and 0.6 + 0.2."""
    paths = [
        make_run("g0", {0: 0.2, 10: 0.6}, seed=0, algorithm="grpo"),
        make_run("g1", {0: 0.2, 10: 0.8}, seed=1, algorithm="grpo"),
        make_run("r0", {0: 0.3, 10: 0.4}, seed=0, algorithm="rloo"),
    ]
    text = table(paths, key="algorithm", metric="accuracy")
    assert text.startswith("Held-out accuracy on words:\n\n| algorithm | before |")
    head, _, grpo, rloo = rows_of(text)
    assert " ".join(head[:5]) == "algorithm before after seeds mean over training"
    assert head[5:] == ["optimizer steps", "seconds", "tokens"]
    after, height = t_interval([0.6, 0.8]), t_interval([0.4, 0.5])
    assert after.high > 1
    assert grpo == [
        "grpo", "0.200", "0.700 [0.000, 1.000]", "0.600, 0.800",
        f"0.450 [{max(0, height.low):.3f}, {min(1, height.high):.3f}]", "5", "5", "80",
    ]  # fmt: skip
    assert rloo == ["rloo", "0.300", "0.400 (one seed)", "0.400", "0.350 (one seed)", "5", "5", "80"]


def test_a_directory_named_twice_is_one_seed(make_run) -> None:
    path = make_run("g0", {0: 0.2, 10: 0.4}, algorithm="grpo")
    *_, row = rows_of(table([path, path, path.parent / "." / path.name], key="algorithm", metric="accuracy"))
    assert row[2:4] == ["0.400 (one seed)", "0.400"]


def test_two_runs_of_one_seed_are_not_two_seeds(make_run) -> None:
    """They are shown apart, with the names of their directories; real seeds stay together."""
    paths = [make_run(name, {0: 0.2, 10: 0.4}, seed=seed, algorithm="grpo") for name, seed in (("a0", 0), ("a1", 1))]
    paths += [make_run("b0", {0: 0.2, 10: 0.4}, seed=0, algorithm="grpo")]
    _, _, first, second = rows_of(table(paths, key="algorithm", metric="accuracy"))
    assert first[3] == "0.400, 0.400"
    assert second[2:4] == ["0.400 (one seed)", "0.400"]
    assert {first[0], second[0]} == {"grpo a0", "grpo b0"}


def test_the_end_is_one_that_all_seeds_reached(make_run) -> None:
    """One seed was cut short at step 10: 0.5 at 10 beside 0.6 at 10, not beside 0.9 at 20. Heights up to 10 as well."""
    paths = [
        make_run("g0", {0: 0.2, 10: 0.6, 20: 0.9}, seed=0, algorithm="grpo"),
        make_run("g1", {0: 0.2, 10: 0.5}, seed=1, algorithm="grpo"),
        make_run("r0", {0: 0.4, 20: 0.8}, seed=0, algorithm="rloo"),
    ]
    _, _, grpo, rloo = rows_of(table(paths, key="algorithm", metric="accuracy"))
    assert grpo[3] == "0.600, 0.500"
    assert grpo[4].startswith("0.375 [")
    assert rloo[2] == "0.800 (one seed)"
    assert rloo[4] == "0.500 (one seed)"  # from 0.4 to 0.6 at step 10


def test_what_was_not_measured_is_a_dash(make_run) -> None:
    """A single evaluation has no height; a run without the metric, or without a common step, no value."""
    paths = [
        make_run("g0", {0: 0.2}, algorithm="grpo"),
        make_run("r0", {0: 0.4}, algorithm="rloo", metric="other"),
        make_run("m0", {5: 0.4}, seed=0, algorithm="maxrl"),
        make_run("m1", {0: 0.4}, seed=1, algorithm="maxrl"),
    ]
    _, _, grpo, rloo, maxrl = rows_of(table(paths, key="algorithm", metric="accuracy"))
    assert grpo[1:5] == ["0.200", "0.200 (one seed)", "0.200", "-"]
    assert rloo == ["rloo", *["-"] * 7]
    assert maxrl == ["maxrl", *["-"] * 7]
    assert table(paths, key="algorithm", metric="nothing") == ""


def test_each_data_set_has_its_table(make_run) -> None:
    run = make_run("g0", {0: 0.2, 10: 0.4}, algorithm="grpo")
    with (run / "eval.jsonl").open("a") as file:
        file.write('{"step": 0, "data": "sums", "metric": "accuracy", "value": 0.9, "n": 3}\n')
    text = table([run], key="algorithm", metric="accuracy")
    assert text.index("on words:") < text.index("on sums:")
    assert rows_of(text)[-1][1] == "0.900"


def test_terms_are_equal_or_refused() -> None:
    refuse_unequal({"a": {"lr": 1}, "b": {"lr": 1}, "c": {"lr": 1}})
    with pytest.raises(UserError, match="lr: c has 2, a has 1"):
        refuse_unequal({"a": {"lr": 1, "x": 1}, "b": {"lr": 1, "x": 1}, "c": {"lr": 2, "x": 1}})


def test_names_are_chosen() -> None:
    assert choose("--algorithms", "all", ["a", "b"], seeds=1) == ["a", "b"]
    assert choose("--algorithms", "b", ["a", "b"], seeds=2) == ["b"]
    assert choose("--algorithms", "b, a", ["a", "b"], seeds=1) == ["b", "a"], "in the order of the command line"
    with pytest.raises(UserError, match=r"^--algorithms: there is no 'gpro': did you mean 'grpo'"):
        choose("--algorithms", "rloo,gpro", ["grpo", "rloo"], seeds=1)
    with pytest.raises(UserError, match=r"^--losses: a, c is given twice") as refused:
        choose("--losses", "a,c,b,c,a", ["a", "b", "c"], seeds=1)
    assert refused.value.hint == "Repetitions are seeds: --seeds N."
    with pytest.raises(UserError, match="at least 1, not 0"):
        choose("--algorithms", "b", ["a", "b"], seeds=0)


def test_page_picture_and_table_are_of_the_same_runs(make_run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    paths = [
        make_run("g0", {0: 0.2, 10: 0.6}, algorithm="größer", metric="reward"),
        make_run("r0", {0: 0.3, 10: 0.4}, algorithm="rloo", metric="reward"),
    ]
    written: list[tuple] = []
    monkeypatch.setattr(
        "rlhf.report.comparison_page.write_comparison", lambda *given, **how: written.append((*given, how))
    )
    monkeypatch.setattr("rlhf.report.picture.write_png", lambda *given, **how: written.append((*given, how)))
    encodings: list[str | None] = []

    def write_text(file: Path, text: str, encoding: str | None = None) -> None:
        encodings.append(encoding)
        file.write_bytes(text.encode("utf-8"))

    monkeypatch.setattr(Path, "write_text", write_text)
    planned = [Planned(path.name, path, "toy.train", []) for path in paths]
    text = write_all(planned, tmp_path, key="algorithm", by="sampled_tokens", against=paths[1])
    assert written == [
        (paths, tmp_path / "comparison.html", "algorithm", {"by": "sampled_tokens", "against": paths[1]}),
        (paths, tmp_path / "comparison.png", "algorithm", {"by": "sampled_tokens"}),
    ]
    assert text == table(paths, key="algorithm", metric="reward", by="sampled_tokens", against=paths[1])
    assert "After: at 50 sampled tokens" in text
    assert "Held-out reward against rloo:" in text
    assert "| algorithm | interquartile mean | minus rloo | probability of improvement |" in text
    assert "| größer | 0.600 (one seed) | +0.200 (one seed) | 1.000 (one seed) |" in text
    assert rows_of(text)[2][0] == "größer"
    assert (tmp_path / "comparison.md").read_bytes().decode("utf-8") == text
    assert encodings == ["utf-8"], "whatever the system's is"


def test_rewards_are_compared_where_nothing_is_right_or_wrong(make_run, tmp_path: Path) -> None:
    """Their interval is not cut at 0 and 1. Losses alone are no table."""
    paths = [make_run(f"r{i}", {0: 1.0, 2: 5.0 + i}, seed=i, metric="reward", algorithm="grpo") for i in (0, 1)]
    planned = [Planned(path.name, path, "toy.train", []) for path in paths]
    text = write_all(planned, tmp_path, key="algorithm")
    assert text.startswith("Held-out reward on words:")
    interval = t_interval([5.0, 6.0])
    assert rows_of(text)[2][2] == f"5.500 [{interval.low:.3f}, {interval.high:.3f}]"
    loss = make_run("l", {0: 1.0, 2: 2.0}, metric="loss", algorithm="grpo")
    assert write_all([Planned("l", loss, "toy.train", [])], tmp_path, key="algorithm") == ""


def test_seconds_and_tokens_by_hand(make_run) -> None:
    """Seconds of a step are the sum of its times: 2 + 3 and 4; tokens are seconds times speed, where it was logged:
    2 * 10 + 3 * 20 = 80 and 0. Means over the seeds: 4.5 and 40.
    """
    paths = [make_run(f"g{seed}", {0: 0.2, 10: 0.4}, seed=seed, algorithm="grpo") for seed in (0, 1)]
    (paths[1] / "metrics.jsonl").write_text(json.dumps({"step": 1, "time/update_s": 4.0, "uptime/x_s": 9.0}) + "\n")
    (*_, row) = rows_of(table(paths, key="algorithm", metric="accuracy"))
    assert row[5:] == ["5", "4", "40"], "4.5 is rounded to even"
    for number, path in enumerate(paths):
        rows = [{"step": 1, "time/update_s": 1000.0, "speed/tokens_per_s": 1000.0 * (number + 1)}]
        (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (*_, row) = rows_of(table(paths, key="algorithm", metric="accuracy"))
    assert row[5:] == ["-", "1000", "1,500,000"]


def test_the_whole_table_as_text(make_run) -> None:
    run = make_run("g0", {0: 0.2, 10: 0.4}, algorithm="grpo")
    assert table([run], key="algorithm", metric="accuracy") == (
        "Held-out accuracy on words:\n"
        "\n"
        "| algorithm | before | after | seeds | mean over training | optimizer steps | seconds | tokens |\n"
        "|---|---|---|---|---|---|---|---|\n"
        "| grpo | 0.200 | 0.400 (one seed) | 0.400 | 0.300 (one seed) | 5 | 5 | 80 |\n"
    )


def test_runs_of_one_group_may_take_different_numbers_of_optimizer_steps(make_run) -> None:
    paths = [make_run(f"g{seed}", {0: 0.2, 10: 0.4}, seed=seed, algorithm="grpo") for seed in (0, 1)]
    (paths[1] / "metrics.jsonl").write_text(json.dumps({"step": 1, "optim/steps": 2.0}) + "\n")
    (*_, row) = rows_of(table(paths, key="algorithm", metric="accuracy"))
    assert row[5] == "2 to 5"
