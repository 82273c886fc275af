"""Numbers of the commands without a config: refused where they are read, in the words of configs."""

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest

import direct_alignment.sample_pairs
import reward_models.evaluate
import reward_models.sample
import reward_models.score
from rlhf.config.options import mapping, number, seed, whole
from rlhf.errors import UserError, run_main


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many", "", "nan", "1e3", "1000001"])
def test_what_is_no_whole_number_in_range_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="accepted: a whole number >= 1 and <= 1000000"):
        whole(1)(text)


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "warm", "", "-1e-9", "1e999"])
def test_what_is_no_number_in_range_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="accepted: a number >= 0"):
        number(0)(text)


def test_what_is_in_range_is_read() -> None:
    assert (whole(1)("1"), number(0)("0"), number(0)("1e-3"), seed(str(2**32 - 1))) == (1, 0.0, 0.001, 2**32 - 1)
    assert mapping("{max_terms: 4, a: [1]}") == mapping('{"max_terms": 4, "a": [1]}') == {"max_terms": 4, "a": [1]}
    for text in ("[1]", "x", "{", "{a: " * 100 + "1" + "}" * 100):
        with pytest.raises(argparse.ArgumentTypeError):
            mapping(text)


WRONG = [
    *(
        [option, value]
        for option in ("--problems", "--candidates", "--max_new_tokens")
        for value in ("0", "-1", "1e9", "x")
    ),
    *(["--temperature", value] for value in ("-1", "nan", "inf", "hot", "1e-320")),
    *(["--seed", value] for value in ("-1", "4294967296", "x")),
    ["--task_config", "[1]"],
    ["--no_such_option", "1"],
]


@pytest.mark.parametrize("wrong", WRONG, ids=" ".join)
@pytest.mark.parametrize("command", [reward_models.sample.main, direct_alignment.sample_pairs.main])
def test_both_samplers_refuse_numbers_out_of_range(
    command: Callable, wrong: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--output", str(tmp_path / "x.jsonl"), *wrong]
    code = run_main(lambda: command(arguments), debug=False)
    error = capsys.readouterr().err
    assert code == 2
    assert wrong[0] in error
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        (
            reward_models.evaluate.main,
            ["RUN", "--token_budget", "0"],
            "token_budget is 0; accepted: a whole number >= 1",
        ),
        (
            reward_models.score.main,
            ["RUN", "--variance_weight", "nan"],
            "weight is nan; accepted: a number >= 0",
        ),
    ],
)
def test_evaluation_and_scoring_refuse_numbers_out_of_range(command: Callable, arguments: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        command([*arguments, "--data", "d.jsonl", "--output", "o"])
