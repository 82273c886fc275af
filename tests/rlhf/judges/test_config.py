"""Settings of judges: names, mappings, files; and what is refused."""

import re
from pathlib import Path

import pytest

from rlhf.errors import UserError
from rlhf.judges.config import read_judge, read_rubric, refuse_missing_judge

RUBRIC = "model: embedded\nrubric:\n  number:\n    ask: Is there a number?\n    weight: 2\n  short: Is it short? \n"


def test_a_name_a_mapping_or_a_file(tmp_path: Path) -> None:
    assert (read_judge("embedded").model, read_judge("embedded").by) == ("embedded", "verdict")
    assert read_judge("{model: smollm2-135m, by: mean_logp, swap: false}").swap is False
    assert read_judge("{model: m, url: http://localhost:8000/v1/}").url == "http://localhost:8000/v1"
    file = tmp_path / "rubric.yaml"
    file.write_text(RUBRIC)
    criteria = read_judge(str(file)).rubric
    assert {name: (it.ask, it.weight) for name, it in criteria.items()} == {
        "number": ("Is there a number?", 2.0),
        "short": ("Is it short?", 1.0),
    }


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("{modell: m}", "judge: unknown key modell; did you mean 'model'"),
        ("{url: http://localhost:8000/v1}", "judge: model is not set"),
        ("{model: m, by: votes}", 'judge: by is "votes"; accepted: one of verdict, mean_logp'),
        ("{model: m, url: localhost:8000}", "is no address; accepted: http(s)://HOST:PORT/v1"),
        ("{model: m, url: 'http://me:secret@host/v1'}", "an address holds no password"),
        ("{model: m, url: http://host/v1, by: sum_logp}", "by: sum_logp needs the model's probabilities"),
        ("{model: m, by: sum_logp, rubric: {a: {ask: b}}}", "by: sum_logp compares answers"),
        ("{model: m, key_from: MY_KEY}", "did you forget the url?"),
        ("{model: m, rubric: {a: {ask: b, wieght: 2}}}", "judge: unknown key rubric.a.wieght"),
        ("{model: m, rubric: {a: {ask: b, weight: 0}}}", "rubric.a.weight is 0"),
        ("{model: m, rubric: {a: {ask: ' '}}}", "rubric.a.ask"),
        ("{model: m, timeout_s: 0}", "timeout_s is 0; accepted: a number > 0"),
        ("{model: [}", "judge: {model: [}, which is not valid YAML"),
        ("nowhere.yaml", "judge: there is no file 'nowhere.yaml'"),
    ],
)
def test_what_is_wrong_is_named(spec: str, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        read_judge(spec)


def test_a_file_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "judge.yaml"
    file.write_text("model: embedded\nrubrik: {}\n")
    with pytest.raises(UserError, match=r"judge.yaml:2: unknown key rubrik; did you mean 'rubric'"):
        read_judge(str(file))
    file.write_text("model: embedded\n")
    with pytest.raises(UserError, match=r"reward_functions: .*judge.yaml has no rubric"):
        read_rubric(str(file), key="reward_functions")


def test_what_the_settings_name_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"judge: there is no folder './nowhere'"):
        refuse_missing_judge(read_judge("./nowhere"))
    config = read_judge("{model: m, url: http://localhost:1/v1, key_from: MY_KEY}")
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(UserError, match="the environment variable MY_KEY is not set"):
        refuse_missing_judge(config)
    monkeypatch.setenv("MY_KEY", "sk-secret")
    with pytest.raises(UserError, match=r"http://localhost:1/v1 cannot be reached"):
        refuse_missing_judge(config)
    assert "sk-secret" not in repr(config)
