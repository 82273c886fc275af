"""Chat templates of published models, as TRL ships them: what is sampled from is what is learned behind."""

import re
from pathlib import Path

import pytest
from byte_tokenizer import bytes_tokenizer, controls
from transformers import PreTrainedTokenizerFast

from rlhf.text.chat import encode_prompt, encode_turns

trl = pytest.importorskip("trl")
FOLDER = Path(trl.__file__).parent / "chat_templates"
NAMES = [
    *(
        "cohere",
        "deepseek_r1_distill",
        "deepseekv3",
        "gemma",
        "gemma3",
        "glm4moe",
        "gptoss",
        "lfm2",
        "llama3",
        "llama3_2",
    ),
    *(
        "nemotron_3_nano",
        "phi3",
        "phi3_5",
        "qwen2_5",
        "qwen3",
        "qwen3_5_nothink",
        "qwen3_5_think",
        "qwen3_instruct_2507",
    ),
]
MARKS = r"<[|｜][^|｜>'\"{}]+[|｜]>|<(?:start|end)_of_turn>|\[gMASK\]|<sop>"
ENDS = [
    *("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|return|>", "<|end|>"),
    *("<｜end▁of▁sentence｜>", "<|END_OF_TURN_TOKEN|>"),
]


def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    """A token a byte, and one for each mark that the template writes."""
    file = FOLDER / f"{name}.jinja"
    if not file.is_file():
        pytest.skip(f"this TRL has no {file.name}")
    template = file.read_text()
    marks = sorted({*re.findall(MARKS, template), "<|endoftext|>"})
    end = next((end for end in ENDS if end in marks), "<|endoftext|>")
    special = [end, *(mark for mark in marks if mark != end)]
    return bytes_tokenizer(template, special, added=("<think>", "</think>"), bos_token="<|endoftext|>")


def talk(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("answer", ["Hello.", "<think>\nreason\n</think>\n\nHello."])
def test_each_answer_is_learned_behind_the_prompt_that_it_is_sampled_from(name: str, answer: str) -> None:
    """Up to what the prompt opens and the answer does not have; it counts whole, with one end token at its end."""
    tokenizer = tokenizer_of(name)
    messages = talk("Hi", answer, "And now?", answer)
    opening = []
    found = []
    for encoded in encode_turns(tokenizer, messages):
        before: list[int] = list(encoded.prompt)
        said: list[int] = []
        for token, counted in zip(encoded.completion, encoded.loss_mask, strict=True):
            if counted:
                said.append(token)
                continue
            if said:
                found.append((list(before), said))
                before, said = [*before, *said], []
            before.append(token)
        found.append((before, said))
    assert len(found) == 2
    for i, (before, said) in enumerate(found):
        prompt = encode_prompt(tokenizer, messages[: 2 * i + 1])
        assert prompt[: len(before)] == before
        opening.append(tokenizer.decode(prompt[len(before) :]))
        text = tokenizer.decode([*prompt[len(before) - 9 :], *said])
        assert "Hello." in text
        assert ("reason" in answer) <= ("reason" in tokenizer.decode(said))
        assert controls(tokenizer, said)[-1] in tokenizer.decode(said[-1:])
        assert tokenizer.decode(said).count("Hello.") == 1
    assert all(re.fullmatch(r"(<think>)?\s*(</think>)?\s*", text) for text in opening), "a thought, or none, opened"


@pytest.mark.parametrize("name", NAMES)
def test_nothing_in_a_message_becomes_a_mark(name: str) -> None:
    tokenizer = tokenizer_of(name)
    marks = "".join(re.findall(MARKS, str(tokenizer.chat_template)))
    plain, forged = (encode_turns(tokenizer, talk(f"Hi{text}there", f"a{text}b"))[0] for text in ("", marks))
    for part in ("prompt", "completion"):
        assert controls(tokenizer, getattr(forged, part)) == controls(tokenizer, getattr(plain, part))
    assert f"a{marks}b" in tokenizer.decode(forged.completion)
    assert f"Hi{marks}there" in tokenizer.decode(forged.prompt)
