"""python -m rlhf.generate: rows keep their columns, and a completion is a function of its prompt."""

import json
from pathlib import Path

import pytest
from talking import tiny_run

from rlhf.errors import UserError
from rlhf.generate.__main__ import main
from rlhf.generate.conversations import parse_prompt
from rlhf.generate.speaker import Speaker
from rlhf.models.tokenizer import load_tokenizer
from rlhf.text.chat import decode

PROMPTS = [{"prompt": f"say {word}", "id": i} for i, word in enumerate(["one", "two and more", "x", "one"])]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_run(tmp_path_factory.mktemp("run"), system_prompt="Be odd.")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path / "cache"))


def generate(run: str, folder: Path, rows: list[dict], *more: str) -> list[dict]:
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = folder / "answers.jsonl"
    output.unlink(missing_ok=True)
    assert main([run, "--prompts", str(folder / "prompts.jsonl"), "--output", str(output), *more]) == 0
    return [json.loads(line) for line in output.read_text().splitlines()]


def test_rows_keep_their_columns(run: str, tmp_path: Path) -> None:
    found = generate(run, tmp_path, PROMPTS)
    assert [{"prompt": it["prompt"], "id": it["id"]} for it in found] == PROMPTS
    tokenizer = load_tokenizer(run)
    for row in found:
        assert row["completion"] == decode(tokenizer, row["tokens"][0])
        assert len(row["tokens"][0]) == 6 or row["ended"] == [True]


def test_a_completion_depends_on_its_prompt_alone(run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not on the rows beside it, nor on how many are sampled together; but on the seed and the settings."""
    found = generate(run, tmp_path, PROMPTS)
    assert found[0]["tokens"] == found[3]["tokens"] != found[1]["tokens"]
    monkeypatch.setattr("rlhf.generate.in_chunks.AT_ONCE", 1)
    assert generate(run, tmp_path, PROMPTS[::-1])[::-1] == found
    for changed in (["--seed", "1"], ["--temperature", "0.5"], ["--system_prompt", ""]):
        assert generate(run, tmp_path, PROMPTS, *changed) != found
    several = generate(run, tmp_path, PROMPTS, "--samples", "3")
    assert [len(it["completions"]) for it in several] == [3] * 4
    assert [it["tokens"][0] for it in several] == [it["tokens"][0] for it in found]


def test_a_stopped_command_goes_on(run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf.generate.in_chunks.AT_ONCE", 1)
    expected = generate(run, tmp_path, PROMPTS)
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path / "other"))
    asked, answers = [], Speaker.answers

    def stopping(self, conversations, keys, **named):
        asked.append(conversations)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return answers(self, conversations, keys, **named)

    monkeypatch.setattr(Speaker, "answers", stopping)
    with pytest.raises(KeyboardInterrupt):
        generate(run, tmp_path, PROMPTS)
    assert not (tmp_path / "answers.jsonl").exists(), "never half-written"
    assert generate(run, tmp_path, PROMPTS) == expected
    assert len(asked) == 4, "two were kept, the third was stopped, and the fourth row is the first again"


def test_columns_are_not_written_over(run: str, tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "b"}]
    with pytest.raises(UserError, match="the rows have completion already"):
        generate(run, tmp_path, rows)
    (found,) = generate(run, tmp_path, rows, "--column", "ours")
    assert {**found, "ours": ""} == {**rows[0], "ours": ""}
    assert found["ours"] == generate(run, tmp_path, [{"prompt": "a"}])[0]["completion"]
    with pytest.raises(UserError, match="the rows have prompt already"):
        generate(run, tmp_path, rows, "--column", "prompt")


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"question": "a?", "system": "s"}, [("system", "s"), ("user", "a?")]),
        ({"instruction": "do", "input": "this"}, [("user", "do\n\nthis")]),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, [("user", "a")]),
        ({"conversations": [{"from": "human", "value": "a"}]}, [("user", "a")]),
        ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}, [("user", "a")]),
    ],
)
def test_what_is_to_be_answered(row: dict, messages: list[tuple[str, str]]) -> None:
    assert [(it["role"], it["content"]) for it in parse_prompt(row)] == messages


@pytest.mark.parametrize(
    "row",
    [{"text": "a"}, {"prompt": "a", "tools": [{"name": "f"}]}, {"prompt": [{"role": "assistant", "content": "a"}]}],
)
def test_what_cannot_be_answered(row: dict) -> None:
    with pytest.raises(ValueError, match=r"wanted a prompt|tools would be ignored|nothing to answer"):
        parse_prompt(row)
