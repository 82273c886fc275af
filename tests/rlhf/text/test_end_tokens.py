"""One set of end tokens: of the tokenizer, of what its template really says, and of the configs of the model."""

import json
from pathlib import Path

import pytest
from tiny_models import tiny_model
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from rlhf.models.heads import load_with_head
from rlhf.models.policy import load, load_tokenizer
from rlhf.text.chat import decode, end_tokens
from rlhf.text.end_tokens import tell_end_tokens

SPECIAL = ["<|pad|>", "<|begin|>", "<|eos|>", "<|over|>", "<|say|>", "<think>", "</think>"]


def turns(end: str) -> str:
    """A template whose turns end so."""
    return "{% for m in messages %}<|say|>{{ m.role }}:{{ m.content }}" + end + "{% endfor %}"


def tokenizer_with(template: str, **names: str) -> PreTrainedTokenizerFast:
    """One token a letter, the special ones first, and </answer> as an added token that is not special."""
    words = {word: i for i, word in enumerate([*SPECIAL, *map(chr, range(32, 127)), "\n"])}
    core = Tokenizer(models.WordLevel(words, unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    core.add_tokens([AddedToken("</answer>", special=False, normalized=False)])
    names = {"eos_token": "<|eos|>", "pad_token": "<|pad|>", "bos_token": "<|begin|>", **names}
    return PreTrainedTokenizerFast(tokenizer_object=core, chat_template=template, unk_token="?", **names)


def ends(tokenizer) -> list[str]:
    return tokenizer.convert_ids_to_tokens(end_tokens(tokenizer))


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        (turns("<|over|>\n"), ["<|eos|>", "<|over|>"]),
        (turns("\n<|over|><|eos|>"), ["<|eos|>", "<|over|>"]),
        (turns("{{ eos_token }}"), ["<|eos|>"]),
        (turns("{% if not loop.last %}<|over|>{% endif %}"), ["<|eos|>"]),  # opens the next turn, if there is one
        (turns("</answer>"), ["<|eos|>", "</answer>"]),
        (turns(""), ["<|eos|>"]),
        ("{% if '<|over|>' in messages[0].content %}no{% endif %}" + turns(""), ["<|eos|>"]),  # named, never said
        ("{{ raise_exception('no') }}", ["<|eos|>"]),
        ("the conversation is not shown", ["<|eos|>"]),
    ],
)
def test_the_end_is_what_the_template_says_behind_an_answer(template: str, wanted: list[str]) -> None:
    assert ends(tokenizer_with(template)) == wanted


def test_another_template_has_another_end() -> None:
    tokenizer = tokenizer_with(turns("<|over|>"))
    assert ends(tokenizer) == ["<|eos|>", "<|over|>"]
    tokenizer.chat_template = turns("<|say|>")
    assert ends(tokenizer) == ["<|eos|>", "<|say|>"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model whose template says no end."""
    tokenizer = tokenizer_with(turns(""))
    tiny_model("llama", vocabulary=len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def write(file: Path, **values: object) -> None:
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**known, **values}))


def test_ends_of_generation_config_are_heard(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    assert ends(load_tokenizer(str(folder))) == ["<|eos|>"]
    GenerationConfig(eos_token_id=[3, 4]).save_pretrained(folder)
    assert ends(load_tokenizer(str(folder))) == ["<|eos|>", "<|over|>", "<|say|>"]
    GenerationConfig(eos_token_id=3).save_pretrained(folder)
    assert ends(load_tokenizer(str(folder))) == ["<|eos|>", "<|over|>"]


def test_ends_of_config_are_heard_if_they_are_control_tokens(folder: Path) -> None:
    """Configs are made with defaults (Llama's eos_token_id is 2, whatever the tokenizer calls 2)."""
    letter = load_tokenizer(str(folder)).convert_tokens_to_ids("B")
    for value, wanted in ((3, ["<|eos|>", "<|over|>"]), ([4, letter], ["<|eos|>", "<|say|>"]), (None, ["<|eos|>"])):
        write(folder / "config.json", eos_token_id=value)
        write(folder / "generation_config.json", eos_token_id=value, _from_model_config=True)
        assert ends(load_tokenizer(str(folder))) == wanted


def test_ends_that_were_said_of_a_copied_generation_config_are_heard(folder: Path) -> None:
    """A model whose generation config was made from config.json keeps that mark when an end is added and saved."""
    write(folder / "config.json", eos_token_id=2)
    write(folder / "generation_config.json", eos_token_id=[2, 3], _from_model_config=True)
    assert ends(load_tokenizer(str(folder))) == ["<|eos|>", "<|over|>"]


def test_ids_beyond_the_vocabulary_are_no_ends(folder: Path) -> None:
    GenerationConfig(eos_token_id=[3, 100_000, -1]).save_pretrained(folder)
    assert ends(load_tokenizer(str(folder))) == ["<|eos|>", "<|over|>"]


def test_what_is_saved_names_every_end(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Also of a model that ended otherwise: what is trained to end with the template's token must stop there."""
    saved = tmp_path_factory.mktemp("saved")
    model, tokenizer = load(str(folder))
    tokenizer.chat_template = turns("<|over|>")
    tell_end_tokens(model, tokenizer)
    model.save_pretrained(saved)
    tokenizer.save_pretrained(saved)
    assert json.loads((saved / "generation_config.json").read_text())["eos_token_id"] == [2, 3]
    assert json.loads((saved / "config.json").read_text())["eos_token_id"] == [2, 3]
    assert AutoModelForCausalLM.from_pretrained(saved).generation_config.eos_token_id == [2, 3]
    assert AutoTokenizer.from_pretrained(saved).eos_token == "<|eos|>"
    assert ends(load_tokenizer(str(saved))) == ["<|eos|>", "<|over|>"]


def test_a_reward_model_is_saved_with_its_ends(folder: Path) -> None:
    model, tokenizer = load_with_head(str(folder))
    tell_end_tokens(model, tokenizer)
    assert model.config.eos_token_id == 2


def test_special_tokens_survive_decoding_but_for_ends_padding_and_beginnings() -> None:
    """Some models have the tags of thought and answer among them: a verifier must see these."""
    tokenizer = tokenizer_with(turns("<|over|>"))
    tokens = tokenizer("<|begin|><think>a</think>b</answer><|say|><|over|><|eos|><|pad|>")["input_ids"]
    assert len(tokens) == 10
    assert decode(tokenizer, tokens).replace(" ", "") == "<think>a</think>b</answer><|say|>"
