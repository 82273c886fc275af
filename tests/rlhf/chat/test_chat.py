"""A chat line by line, with models whose answers are real, if senseless."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from talking import ADDITION, tiny_run

from rlhf.chat.__main__ import main
from rlhf.chat.commands import in_words
from rlhf.tasks.problem import Problem, Verdict


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("runs")
    one = tiny_run(folder / "one", system_prompt="Be odd.", answer_in="last_number", **ADDITION)
    return [one, tiny_run(folder / "two", seed=1)]


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch, capsys) -> Callable[..., list[str]]:
    """The lines that a chat shows behind its beginning, of what comes through a pipe."""

    def talk(said: str, *arguments: str) -> list[str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(said))
        capsys.readouterr()
        assert main(arguments) == 0
        shown = capsys.readouterr().out
        return shown.partition("/help lists the commands\n")[2].splitlines()

    return talk


def test_the_end_of_the_input_ends_the_chat(runs: list[str], chat: Callable) -> None:
    assert chat("", runs[0]) == []
    assert chat("hello\n", runs[0]) == chat("hello\n/quit\nnot heard\n", runs[0])


def test_it_says_how_the_model_is_asked(runs: list[str], chat: Callable, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    main(runs)
    first, second, _ = capsys.readouterr().out.splitlines()
    assert first == f"{runs[0]}: system prompt 'Be odd.', temperature 1, up to 6 tokens (of {runs[0]}/config.yaml)"
    assert "no system prompt" in second


def test_turns_have_a_history_until_reset(runs: list[str], chat: Callable) -> None:
    """The template shows what was said; the second answer is to another conversation than the first."""
    shown = "\n".join(chat("hello\nagain\n/template\n/reset\n/template\n", runs[0]))
    assert "<|system|>Be odd.<|end|><|user|>hello<|end|><|assistant|>" in shown
    assert "<|user|>again<|end|>" in shown
    before, after = shown.split("a new conversation\n")
    assert after.endswith("<|system|>Be odd.<|end|><|user|>...<|end|><|assistant|>")
    assert before.count("<|assistant|>") == 3


def test_another_system_prompt_begins_anew(runs: list[str], chat: Callable) -> None:
    assert chat("hello\n/system Be even.\n/template\n", runs[0])[-1].endswith(
        "<|system|>Be even.<|end|><|user|>...<|end|><|assistant|>"
    )
    assert chat("/system\n/template\n", runs[0])[-1] == "<|user|>...<|end|><|assistant|>"


def test_models_answer_one_after_the_other(runs: list[str], chat: Callable) -> None:
    """Each as it does by itself."""
    alone = [chat("hello\n", run) for run in runs]
    together = chat("hello\n", *runs)
    first, second = (together.index(f"{run}:") for run in runs)
    assert [together[first + 1 : second], together[second + 1 :]] == alone
    assert alone[0] != alone[1]


def test_temperature(runs: list[str], chat: Callable) -> None:
    cold = chat("/temperature 0\nhello\n/reset\nhello\n", runs[0])
    assert cold[0] == "temperature 0"
    middle = cold.index("a new conversation")
    assert cold[1:middle] == cold[middle + 1 :] != chat("hello\n", runs[0])
    assert "accepted: a number >= 0" in chat("/temperature hot\n", runs[0])[0]


def test_a_held_out_problem_is_asked_and_verified(runs: list[str], chat: Callable) -> None:
    """In a new conversation; each /task asks another one."""
    shown = chat("hello\n/task\n/task\n/template\n", runs[0])
    asked = [line for line in shown if line.endswith("?") or "alculate" in line]
    verdicts = [line for line in shown if line.startswith(("[wrong", "[right"))]
    assert len(verdicts) == 2
    assert len(set(asked)) >= 2
    assert "hello" not in shown[-1]
    assert "begin the chat with --task NAME" in chat("/task\n", runs[1])[0]


def test_a_problem_s_own_messages_come_first(runs: list[str], chat: Callable, tmp_path: Path) -> None:
    """Its system prompt instead of the run's."""
    asked = [{"role": "system", "content": "One word."}, {"role": "user", "content": "What is half of 4?"}]
    rows = [{"prompt": [asked[0], {**asked[1], "content": f"What is half of {2 * i}?"}], "answer": i} for i in range(9)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = ["--task", "prompts", "--task_config", f"{{path: {tmp_path / 'p.jsonl'}, match: number}}"]
    shown = "\n".join(chat("/task\n/template\n", runs[0], *task))
    assert "<|system|>One word.<|end|><|user|>What is half of " in shown
    assert "Be odd." not in shown


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (Verdict(1.0, 1.0, 1.0, answer="5"), "right; the answer read is '5'"),
        (Verdict(0.0, 0.0, 0.0, answer="6"), "wrong, '5' is right; the answer read is '6'; not in the form asked for"),
        (Verdict(0.0, 1.0, 0.0), "wrong, '5' is right; no answer was found"),
        (Verdict(0.0, 1.0, 0.0, failed="time out"), "not verified: time out"),
        (None, "sums has no reference answers"),
    ],
)
def test_verdicts_in_words(verdict: Verdict | None, words: str) -> None:
    class Sums:
        name, verifies, fingerprint = "sums", True, ""

        def train_problems(self, *, seed: int, first: int, count: int) -> list[Problem]: ...
        def held_out_problems(self, count: int) -> list[Problem]: ...
        def verify(self, problem: Problem, completion: str) -> Verdict | None:
            return verdict

    assert in_words(Sums(), Problem("2+3", "5", {}), "text") == words


def test_what_the_model_reads_is_shown_on_request(runs: list[str], chat: Callable) -> None:
    shown = chat("hello\n", runs[0], "--show_prompt")
    assert shown[0] == "[reads] <|system|>Be odd.<|end|><|user|>hello<|end|><|assistant|>"


def test_commands_that_do_not_exist(runs: list[str], chat: Callable) -> None:
    assert chat("/tempreature 1\n", runs[0]) == ["there is no command /tempreature; did you mean 'temperature'?"]
    assert [line.split()[0] for line in chat("/help\n", runs[0])] == [
        "/help", "/reset", "/system", "/template", "/task", "/temperature", "/quit",
    ]  # fmt: skip


def test_what_is_too_long_is_not_said(runs: list[str], chat: Callable) -> None:
    shown = chat(f"{'long ' * 400}\nhello\n", runs[0])
    assert shown[0].startswith("error: a prompt of")
    assert shown[2:] == chat("hello\n", runs[0])


def test_ctrl_c_stops_the_answer_and_not_the_chat(
    runs: list[str], chat: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlhf.generate import speaker

    told, hear = [], speaker.decode

    def interrupted(*arguments) -> str:
        told.append(arguments)
        if len(told) == 2:
            raise KeyboardInterrupt
        return hear(*arguments)

    monkeypatch.setattr(speaker, "decode", interrupted)
    shown = chat("hello\n/temperature 0\n", runs[0])
    assert shown[0].endswith("[cut off]")
    assert shown[-1] == "temperature 0"


def test_one_model_twice_is_refused(runs: list[str]) -> None:
    from rlhf.errors import UserError

    with pytest.raises(UserError, match="the same model twice"):
        main([runs[0], runs[0]])
