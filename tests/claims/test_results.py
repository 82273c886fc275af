"""The numbers of a claim: which code a computation belongs to, and what a run without one says."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from claims import results
from claims.claim import Arm, Claim, Expect, Measure, Numbers, Paper
from claims.results import Results, read_results


def compute(seed: int) -> Numbers:
    return {"arm": {"size": float(seed)}}


def other(seed: int) -> Numbers:
    return {"arm": {"size": 2.0 * seed}}


CODE = {
    "rlhf/kl.py": "k1",
    "rlhf/embedded/model.safetensors": "weights",
    "rlhf/embedded/config.json": "sizes",
    "policy_gradients/deep/ratios.py": "ratio",
    "claims/computed/world.py": "a world",
}
BESIDE = {
    "rlhf/README.md": "words",
    "reward_models/fit.py": "another family",
    "claims/page.py": "how it looks",
    "claims/computed/claim.py": "words\nCLAIM = Claim()",
}


@pytest.fixture
def digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Of a tree of a few files, and of a computation."""
    monkeypatch.setattr(results, "ROOT", tmp_path)

    def write(name: str, text: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    def found(function: Callable[[int], Numbers] = compute, **changed: str) -> str:
        for name, text in {**CODE, **BESIDE, **changed}.items():
            write(name, text)
        return results._code(function)

    return found


def test_a_computation_is_made_anew_where_its_code_or_the_model_has_changed(digest: Callable[..., str]) -> None:
    before = digest()
    assert digest() == before
    assert digest(other) != before
    for name in CODE:
        assert digest(**{name: "changed"}) != before, name


def test_what_a_claim_says_of_a_computation_does_not_make_it_anew(digest: Callable[..., str]) -> None:
    before = digest()
    for name, text in BESIDE.items():
        assert digest(**{name: f"changed {text}"}) == before, name


@pytest.mark.parametrize(
    ("version", "shown"),
    [
        ({"git_commit": "0123456789", "git_dirty": False}, "0123456"),
        ({"git_commit": "0123456789", "git_dirty": True}, "0123456 with uncommitted changes"),
        ({"git_commit": None}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_the_code_of_a_run(version: dict, shown: str) -> None:
    assert results._commit(version) == shown


def test_numbers_that_are_missing_come_back_as_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of JSON has null for them; a comparison with a number takes that number for every seed."""
    claim = Claim(
        sentence="Two is more than one.",
        paper=Paper("Somebody", 2020, "A paper", "2001.00001"),
        setting="Arithmetic.",
        arms={"two": Arm("2"), "four": Arm("4")},
        measures=[Measure("size", "units", "counted")],
        expected=[Expect("two", ">", 1.0)],
        compute=compute,
        seeds=2,
        text="",
    )
    monkeypatch.setattr(results, "open_claim", lambda name: claim)
    values = {"size": {"two": [2.0, 3.0], "four": [math.nan, 4.0]}}
    written = Results([0, 1], values, {"a curve": {"two": [[(1.0, 2.0)], []]}}, 1.5, ["abc"], "a processor")
    file = tmp_path / "results.json"
    file.write_text(written.as_json())
    assert "NaN" not in file.read_text()
    assert len(file.read_text().splitlines()) == 2 + 6, "a line for each field"
    again = read_results("halves", file)
    assert math.isnan(again.values["size"]["four"][0])
    assert again.values["size"]["four"][1] == 4
    assert again.curves == written.curves
    assert (again.seconds, again.commits, again.processor) == (1.5, ["abc"], "a processor")
    (found,) = again.comparisons(claim)
    assert found.found[0] == pytest.approx(1.5)
