"""The command: which claims there are, that runs are made once and used again, and what is written."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import claims.results
from claims import catalogue
from claims.__main__ import DOCS, main
from claims.claim import Arm, Claim, Curve, Expect, File, Measure, Paper, RunOf, SeedPlus
from claims.measures import height, held_out, last, series
from claims.output import found, in_docs, index
from claims.page import _arms, _lines, page
from claims.results import Results, read_results
from claims.runs import Seed, slug
from rlhf.errors import UserError
from rlhf.run.planned import PlannedFile
from rlhf.run.sweep import Planned

PAPER = Paper("Somebody et al.", 2020, "A paper", "2001.00001")
TRAINED = Claim(
    sentence="More rope is longer.",
    paper=PAPER,
    setting="Two ropes.",
    command="policy_gradients.train",
    shared={"max_steps": 2, "reward_weights": {"format": 0.5}},
    before={"pairs": File("direct_alignment.sample_pairs", {"problems": 4}), "start": Arm("a start", {"lr": 1.0})},
    arms={
        "short rope": Arm("little of it", {"lr": 0.1, "model_name": RunOf("start")}),
        "long | rope": Arm("more of it", {"lr": 0.2, "reward_weights": {"partial": 0.25}}),
        "both ropes": Arm("laid end to end", None),
    },
    measures=[
        Measure("length", "metres", "the last length", last("length/mean")),
        Measure("accuracy", "share right", "held out", held_out()),
        Measure("together", "metres", "over both"),
    ],
    expected=[Expect("long | rope", ">", "short rope"), Expect("both ropes", ">", 0.0, of="together")],
    beside=[Expect("short rope", ">", "long | rope", of="accuracy")],
    over_runs=lambda paths: {"both ropes": {"together": float(len(paths))}},
    curves=[Curve("length, metres", series("length/mean"))],
    seeds=3,
    text="Nothing else was tried.",
)
COMPUTED = Claim(
    sentence="Two is half of four.",
    paper=PAPER,
    setting="Arithmetic.",
    arms={"two": Arm("2", line="a line", x=0.0), "four": Arm("4", line="a line", x=1.0), "one": Arm("1")},
    x="number of the arm",
    measures=[Measure("size", "units", "counted", ratio=True)],
    expected=[Expect("two", "<", "four")],
    compute=lambda seed: {"two": {"size": 2.0 + seed / 10}, "four": {"size": 4.0 + seed / 5}, "one": {"size": 1}},
    seeds=3,
    text="",
)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No picture, which takes a second."""
    monkeypatch.setattr("claims.output.write_picture", lambda claim, results, output: output.touch())


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two claims, and runs that are a few lines of JSON: length is 100 times lr and ten times the seed."""
    labels: list[str] = []

    def make(planned: Planned, *, beside_others: bool) -> None:
        labels.append(planned.label)
        if isinstance(planned, PlannedFile):
            planned.path.write_text("{}")
            return
        (planned.path / "final").mkdir(parents=True)
        (planned.path / "config.yaml").write_text(yaml.safe_dump(dict(planned.config)))
        (planned.path / "provenance.json").write_text(json.dumps({"git_commit": "abcdef123", "seed": 0}))
        length = 100 * planned.config["lr"] + 10 * planned.config["seed"]
        rows = [{"step": step, "wall_s": 30 * step, "length/mean": length * step / 2} for step in (1, 2)]
        (planned.path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        row = {"step": 2, "data": "d", "metric": "accuracy", "value": 0.5}
        (planned.path / "eval.jsonl").write_text(json.dumps(row) + "\n")

    monkeypatch.setenv("RLHF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("rlhf.run.sweep._make", make)
    monkeypatch.setattr("claims.__main__.DOCS", tmp_path / "docs")
    listed = {"rope": "claims.policy_gradients.rope", "halves": "claims.computed.halves"}
    known = {"rope": TRAINED, "halves": COMPUTED}
    for module in ("claims.__main__", "claims.results", "claims.output"):
        monkeypatch.setattr(f"{module}.open_claim", known.__getitem__)
    monkeypatch.setattr("claims.__main__.names", lambda: list(known))
    monkeypatch.setattr("claims.output.modules", lambda: listed)
    return labels


def test_every_file_of_a_claim_is_in_the_catalogue() -> None:
    for name in catalogue.names():
        assert isinstance(catalogue.open_claim(name), Claim)
    assert len(catalogue.names()) == len(set(catalogue.names()))


@pytest.mark.parametrize("name", catalogue.names())
def test_every_claim_has_runs_that_its_commands_accept(name: str, tmp_path: Path) -> None:
    claim = catalogue.open_claim(name)
    if claim.command:
        of_seeds = [[run.config["seed"] for run in Seed(claim, seed, tmp_path).arms] for seed in (0, 1)]
        assert of_seeds[1] == [seed + 1 for seed in of_seeds[0]]
    assert claim.seeds >= 5
    assert claim.sentence.endswith(".")


@pytest.mark.parametrize("name", sorted(found(in_docs(DOCS))))
def test_pages_of_the_documents_are_those_of_their_results(name: str) -> None:
    """Otherwise: uv run python -m claims all --redraw"""
    places = in_docs(DOCS)
    shown = page(
        name,
        catalogue.open_claim(name),
        read_results(name, places.of("results", name)),
        picture=f"../images/claims/{name}.png",
    )
    assert places.of("page", name).read_text() == shown
    assert places.of("picture", name).is_file()


def test_the_index_has_all_claims() -> None:
    """Those without a run by their command. Otherwise: uv run python -m claims all --redraw"""
    places = in_docs(DOCS)
    names = found(places)
    text = places.of("index", "").read_text()
    assert text == index(names, {name: f"claims/{name}.md" for name in names})
    for name in catalogue.names():
        assert (f"](claims/{name}.md) | **" in text) == (name in names)
        assert (f"not run yet | `uv run python -m claims {name}`" in text) == (name not in names)


def test_a_claim_from_its_runs_to_its_page(made: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is made before comes first; then seed by seed. Seeds are paired: they differ more than the arms do."""
    arguments = ["rope", "--at_once", "1", "--output_dir", str(tmp_path / "runs"), "--quiet", "--write_docs"]
    assert main(arguments) == 0
    assert made[:6] == [f"{name}, seed {seed}" for seed in range(3) for name in ("pairs", "start")]
    assert made[6:8] == ["short rope, seed 0", "long | rope, seed 0"]
    assert len(made) == 12
    shown = capsys.readouterr().out
    assert "length, long | rope − short rope: +10 [10, 10] seen" in shown
    assert "accuracy, short rope − long | rope: 0 [0, 0] not seen" in shown
    results = read_results("rope", tmp_path / "runs" / "rope" / "results.json")
    assert results.values["length"]["short rope"] == [10, 20, 30]
    assert results.values["together"]["both ropes"] == [4, 4, 4]
    assert results.curves["length, metres"]["short rope"][0] == [(1, 5), (2, 10)]
    assert (results.seconds, results.commits) == (9 * 60, ["abcdef1"])
    page = (tmp_path / "docs" / "claims" / "rope.md").read_text()
    assert page == (tmp_path / "runs" / "rope" / "rope.md").read_text().replace(
        "rope.png", "../images/claims/rope.png", 1
    )
    for words in (
        "# More rope is longer.",
        "Somebody et al., 2020, “A paper”, [arXiv 2001.00001](https://arxiv.org/abs/2001.00001)",
        "**Verdict: seen.**",
        '| long \\| rope | more of it | `lr: 0.2` `reward_weights: {"partial": 0.25}` |',
        "| short rope | little of it | `lr: 0.1` `model_name: start` |",
        "| long \\| rope − short rope | length | > 0 | +10 [10, 10] | **seen** |",
        "it does not count for the verdict:\n\n| comparison | of | expected |",
        "| short rope − long \\| rope | accuracy | > 0 | 0 [0, 0] | **not seen** |",
        "| short rope | 20 [−4.84, 44.8] | 0.5 [0.5, 0.5] | – | 10, 20, 30 |",
        "Nothing else was tried.",
        "uv run python -m claims rope\n",
        "Seeds 0, 1, 2; commit abcdef1;",
    ):
        assert words in page, words
    assert (tmp_path / "docs" / "images" / "claims" / "rope.png").stat().st_size > 10_000
    index = (tmp_path / "docs" / "claims.md").read_text()
    assert (
        "| [More rope is longer.](claims/rope.md) | **seen** | long \\| rope − short rope: +10 [10, 10] (length)"
        in index
    )


def test_finished_runs_are_used_and_others_are_made(made: list[str], undrawn: None, tmp_path: Path) -> None:
    arguments = ["rope", "--at_once", "1", "--output_dir", str(tmp_path / "runs"), "--quiet"]
    assert main([*arguments, "--seeds", "2"]) == 0
    assert len(made) == 8
    assert main(arguments) == 0
    assert made[8:] == [f"{name}, seed 2" for name in ("pairs", "start", "short rope", "long | rope")]
    assert not (tmp_path / "docs").exists()


def test_seeds_that_are_finished_are_enough(made: list[str], tmp_path: Path) -> None:
    """After an interruption: two seeds of three, and numbers alone, which are drawn elsewhere."""
    arguments = ["rope", "--at_once", "1", "--output_dir", str(tmp_path), "--quiet", "--no_pages"]
    main([*arguments, "--seeds", "2"])
    assert main([*arguments, "--finished"]) == 0
    assert len(made) == 8
    assert read_results("rope", tmp_path / "rope" / "results.json").seeds == [0, 1]
    assert not (tmp_path / "rope" / "rope.md").exists()


def test_a_run_of_other_settings_is_not_used(made: list[str], tmp_path: Path) -> None:
    main(["rope", "--at_once", "1", "--output_dir", str(tmp_path), "--quiet", "--seeds", "1"])
    config = tmp_path / "rope" / "short_rope-seed0" / "config.yaml"
    config.write_text(config.read_text().replace("max_steps: 2", "max_steps: 9"))
    with pytest.raises(UserError, match="max_steps is 9 there, 2 is asked for"):
        main(["rope", "--at_once", "1", "--output_dir", str(tmp_path), "--quiet", "--seeds", "1"])


def test_what_is_computed_is_computed_once(
    made: list[str], undrawn: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["halves", "--at_once", "1", "--output_dir", str(tmp_path / "runs"), "--quiet", "--write_docs"]
    assert main(arguments) == 0
    results = read_results("halves", tmp_path / "runs" / "halves" / "results.json")
    assert results.values["size"]["four"] == [4.0, 4.2, 4.4]
    page = (tmp_path / "docs" / "claims" / "halves.md").read_text()
    assert "| two / four | size | < 1 | × 0.5 [0.5, 0.5] | **seen** |" in page
    assert "|  | 0 | 1 |\n| --- | --- | --- |\n| a line | 2.1 [1.86, 2.36] | 4.2 [3.73, 4.72] |" in page
    assert "| one | 1 [1, 1] | 1, 1, 1 |" in page
    calls = list((tmp_path / "cache" / "claims").iterdir())
    assert len(calls) == 3
    before = [file.stat().st_mtime_ns for file in calls]
    assert main(arguments) == 0
    assert [file.stat().st_mtime_ns for file in calls] == before
    monkeypatch.setattr(claims.results, "_code", lambda compute: "other code")
    assert main(arguments) == 0
    assert len(list((tmp_path / "cache" / "claims").iterdir())) == 6


def test_pages_are_drawn_again_without_a_run(made: list[str], undrawn: None, tmp_path: Path) -> None:
    main(["all", "--at_once", "1", "--output_dir", str(tmp_path / "runs"), "--quiet", "--write_docs"])
    count = len(made)
    places = in_docs(tmp_path / "docs")
    shown = places.of("page", "rope").read_text()
    places.of("page", "rope").unlink()
    assert main(["all", "--redraw", "--output_dir", str(tmp_path / "nowhere"), "--quiet"]) == 0
    assert (places.of("page", "rope").read_text(), len(made)) == (shown, count)
    places.of("results", "rope").unlink()
    assert main(["all", "--redraw", "--quiet"]) == 0  # of what has results
    with pytest.raises(UserError, match="rope: there are no results"):
        main(["rope", "--redraw"])
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("more", "missing"),
    [
        ({"arms": {**COMPUTED.arms, "three": Arm("3")}}, "size of three"),
        ({"measures": [*COMPUTED.measures, Measure("weight", "grams", "weighed")]}, "weight of two"),
        ({"curves": [Curve("size, units", series("size"))]}, "size, units"),
    ],
)
def test_results_of_a_claim_that_has_grown_are_refused(
    made: list[str], undrawn: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: Any, missing: str
) -> None:
    """Its page and the index of all claims would have a hole."""
    main(["halves", "--at_once", "1", "--output_dir", str(tmp_path / "runs"), "--quiet", "--write_docs"])
    grown = {"rope": TRAINED, "halves": replace(COMPUTED, **more)}
    for module in ("claims.__main__", "claims.results", "claims.output"):
        monkeypatch.setattr(f"{module}.open_claim", grown.__getitem__)
    with pytest.raises(UserError, match=f"halves.json has no {missing}, which the claim has") as refused:
        main(["halves", "--redraw"])
    assert refused.value.hint == "Make what is missing: python -m claims halves."
    with pytest.raises(UserError, match=f"has no {missing}"):
        found(in_docs(tmp_path / "docs"))


def test_plan_and_list_make_nothing(made: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert "More rope is longer." in capsys.readouterr().out
    assert main(["all", "--plan", "--seeds", "2", "--output_dir", str(tmp_path / "runs")]) == 0
    shown = capsys.readouterr().out
    assert "rope: 8 runs, 0 of them there" in shown
    assert "halves: computed with 2 seeds" in shown
    assert (made, (tmp_path / "runs").exists()) == ([], False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ropes"], "there is no 'ropes': did you mean 'rope'"),
        ([], "which claim"),
        (["rope", "--seeds", "0"], "--seeds is 0"),
        (["rope", "rope"], "rope is given twice"),
        (["rope", "--finished", "--output_dir", "nowhere"], "no seed has all its runs"),
    ],
)
def test_what_the_command_refuses(made: list[str], arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main(arguments)


def test_settings_name_what_is_made_before(tmp_path: Path) -> None:
    one = Seed(TRAINED, 4, tmp_path)
    short, long = one.arms
    assert short.config["model_name"] == str(tmp_path / "start-seed4")
    assert long.config["reward_weights"] == {"exact": None, "format": 0.5, "partial": 0.25, "model": 1.0}
    pairs, _ = one.before
    assert pairs.command[-6:] == ["--seed", "4", "--problems", "4", "--output", str(tmp_path / "pairs-seed4.jsonl")]
    assert slug("Dr. GRPO, 40 %") == "dr_grpo_40"


def test_what_all_runs_share_may_name_a_file_and_be_of_the_seed(tmp_path: Path) -> None:
    shared = {"model_name": RunOf("start"), "staleness": SeedPlus(), "eval_problems": SeedPlus(10)}
    claim = replace(TRAINED, shared=shared, arms={"a rope": Arm("", {"seed": SeedPlus(1000)})}, expected=[], beside=[])
    (run,) = Seed(claim, 4, tmp_path).arms
    found = {key: run.config[key] for key in (*shared, "seed")}
    assert found == {"model_name": str(tmp_path / "start-seed4"), "staleness": 4, "eval_problems": 14, "seed": 1004}
    assert "`staleness: seed` `eval_problems: seed + 10`" in _arms(claim)


def test_measures_of_a_run(tmp_path: Path) -> None:
    rows = [{"step": step, "wall_s": step, "policy/entropy": value} for step, value in enumerate([4, 2, 1, 3], start=1)]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    held = [
        {"step": step, "data": f"{name}, held out", "metric": "accuracy", "value": value}
        for step, value, name in [(0, 0.0, "words"), (4, 0.5, "words"), (4, 0.9, "numbers")]
    ]
    (tmp_path / "eval.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in held))
    assert last("policy/entropy", steps=2)(tmp_path) == 2
    assert last("policy/kl")(tmp_path) != last("policy/kl")(tmp_path)  # nan: it was not logged
    assert series("policy/entropy", mean_of=2)(tmp_path) == [(2, 3), (4, 2)]
    assert (held_out()(tmp_path), held_out(data="numbers")(tmp_path)) == (0.5, 0.9)
    assert height()(tmp_path) == 0.25
    with pytest.raises(ValueError, match=re.escape("no held-out reward on anything")):
        held_out("reward")(tmp_path)


def test_places_on_an_axis_are_written_out() -> None:
    claim = replace(COMPUTED, arms={"a": Arm("", line="a", x=1024)}, expected=[])
    results = Results([0], {"size": {"a": [1.0]}}, {}, 0.0, [], "")
    assert "|  | 1024 |" in _lines(claim, COMPUTED.measures[0], results)
