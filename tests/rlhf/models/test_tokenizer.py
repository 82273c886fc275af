"""Which chat template a run's tokenizer has: the model's, ChatML, that of a file, or that of another model."""

from pathlib import Path

import pytest
from byte_tokenizer import bytes_tokenizer
from transformers import AutoTokenizer, Qwen3Config

from rlhf.errors import UserError
from rlhf.models.tokenizer import load_tokenizer
from rlhf.text.chat import encode_prompt

TALK = [{"role": "user", "content": "Hi"}]
TULU = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token if m.role == 'assistant' }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model without a template, and its instruction-tuned sibling; of both only what a tokenizer needs."""
    folder = tmp_path_factory.mktemp("models")
    for name, template in (("base", None), ("instruct", TULU)):
        tokenizer = bytes_tokenizer("", ["<e>"])
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder / name)
        Qwen3Config(eos_token_id=tokenizer.eos_token_id).save_pretrained(folder / name)
    (folder / "mine.jinja").write_text(TULU)
    return folder


def prompt_of(models: Path, **settings) -> str:
    tokenizer = load_tokenizer(str(models / "base"), **settings)
    return tokenizer.decode(encode_prompt(tokenizer, TALK))


def test_a_base_model_is_refused_with_the_way_out(models: Path) -> None:
    with pytest.raises(UserError, match="no chat template, as base models have none") as error:
        load_tokenizer(str(models / "base"))
    assert "set chat_template: chatml, or chat_template: MODEL" in str(error.value.hint)


@pytest.mark.parametrize("kind", ["chatml", "file", "model"])
def test_a_base_model_with_a_template(models: Path, kind: str) -> None:
    name, wanted = {
        "chatml": ("chatml", "<|im_start|>user\nHi<e>\n<|im_start|>assistant\n"),
        "file": (str(models / "mine.jinja"), "<|user|>\nHi\n<|assistant|>\n"),
        "model": (str(models / "instruct"), "<|user|>\nHi\n<|assistant|>\n"),
    }[kind]
    assert prompt_of(models, chat_template=name) == wanted


def test_a_template_in_place_of_the_models_own_is_saved(models: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(models / "instruct"), chat_template="chatml")
    tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "chat_template.jinja").read_text() == tokenizer.chat_template
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == tokenizer.chat_template


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.jinja", "chat_template: there is no file '.*nowhere.jinja'"),
        ("base", "chat_template: the tokenizer of '.*base' has no chat templates"),
        ("nowhere/at_all", "chat_template: .*nowhere/at_all"),
    ],
)
def test_a_template_that_is_not_there(models: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        prompt_of(models, chat_template=str(models / name))
