"""An answer token by token is the answer that is sampled at once."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from steps_by_hand import save_tiny

from rlhf.errors import UserError
from rlhf.generate.settings import GenerationSettings
from rlhf.generate.speaker import Speaker
from rlhf.models.names import find_policy
from rlhf.sampling import sample

ASKED = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def open_speaker(folder: str) -> Callable[..., Speaker]:
    def opened(**settings) -> Speaker:
        asked = GenerationSettings(**{"max_new_tokens": 40, **settings})
        return Speaker.open(folder, asked, device="cpu", chat_template_kwargs={})

    return opened


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.0}, {"temperature": 0.7, "top_k": 5}])
def test_the_stream_is_the_answer(open_speaker: Callable[..., Speaker], settings: dict) -> None:
    speaker, said = open_speaker(**settings), []
    answer = speaker.stream(ASKED, (1, 2, 3), said.append)
    ((whole,),) = speaker.answers([ASKED], [(1, 2, 3)])
    assert answer == whole
    assert "".join(said) == whole.text
    assert len(said) > 5


def test_ctrl_c_ends_the_answer_alone(open_speaker: Callable[..., Speaker]) -> None:
    speaker, said = open_speaker(), []

    def say(text: str) -> None:
        said.append(text)
        if len(said) == 3:
            raise KeyboardInterrupt

    answer = speaker.stream(ASKED, (1, 2, 3), say)
    ((whole,),) = speaker.answers([ASKED], [(1, 2, 3)])
    assert len(answer.tokens) == 3
    assert answer.tokens == whole.tokens[:3]
    assert not answer.ended
    assert not speaker.is_whole(answer)


def test_the_stream_stops_at_the_answer(open_speaker: Callable[..., Speaker], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a model that says </answer> and goes on."""
    speaker = open_speaker(stop_at="answer")
    told = speaker.tokenizer.encode("<answer>1</answer>2<answer>3", add_special_tokens=False)

    def tell(*_, on_token, **__) -> None:
        for token in told:
            on_token(token)

    monkeypatch.setattr("rlhf.generate.speaker.sample", tell)
    said = []
    answer = speaker.stream(ASKED, (0,), said.append)
    assert "".join(said) == answer.text == "<answer>1</answer>"
    assert speaker.is_whole(answer)


def test_letters_of_several_tokens_are_said_whole(
    open_speaker: Callable[..., Speaker], monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = {1: "a", 2: "a\ufffd", 3: "aé"}
    monkeypatch.setattr("rlhf.generate.speaker.decode", lambda _, tokens: pieces[len(tokens)])
    monkeypatch.setattr("rlhf.generate.speaker.sample", lambda *_, on_token, **__: [on_token(7) for _ in range(3)])
    said = []
    open_speaker().stream(ASKED, (0,), said.append)
    assert said == ["a", "é"]


def test_tokens_are_told_as_they_are_chosen(open_speaker: Callable[..., Speaker]) -> None:
    """And of one completion only."""
    speaker, told = open_speaker(), []
    settings = {"max_new_tokens": 9, "end_tokens": [], "keys": [(5,)]}
    (found,) = sample(speaker.model, [[4, 5]], completions=1, on_token=told.append, **settings)
    assert found.tokens == [told]
    with pytest.raises(AssertionError, match="one completion"):
        sample(speaker.model, [[4, 5]], completions=2, on_token=told.append, **settings)


def test_a_base_model_takes_a_template_or_is_refused(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "base")
    (folder / "chat_template.jinja").unlink()
    settings = GenerationSettings(max_new_tokens=5)
    with pytest.raises(UserError, match="has no chat template"):
        Speaker.open(str(folder), settings, device="cpu", chat_template_kwargs={})
    speaker = Speaker.open(str(folder), settings, device="cpu", chat_template="chatml", chat_template_kwargs={})
    assert speaker.answers([ASKED], [(0,)])[0][0].tokens


def test_a_reward_model_does_not_speak() -> None:
    from rlhf.models.policy import load_policy

    for load in (find_policy, load_policy):
        with pytest.raises(UserError, match="is a reward model: it judges answers and writes none"):
            load("embedded-judge")


def test_weights_are_not_trained(open_speaker: Callable[..., Speaker]) -> None:
    speaker = open_speaker()
    assert not any(parameter.requires_grad for parameter in speaker.model.parameters())
    assert speaker.model.device == torch.device("cpu")
