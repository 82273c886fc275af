"""Chat templates that a run asks for, and the values of their variables."""

import pytest
from byte_tokenizer import bytes_tokenizer, controls
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rlhf.errors import UserError
from rlhf.text.chat import encode_conversation, encode_prompt, end_tokens
from rlhf.text.template import chatml, set_template, set_variables

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
THINKS = (  # as Qwen3's: the thought is closed in the prompt, if it is not wanted
    "{% macro end() %}<e>{{ mood }}{% endmacro %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ end() }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>"
    "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}{% endif %}"
)


def base(*special: str, **named: str) -> PreTrainedTokenizerFast:
    tokenizer = bytes_tokenizer("", ["<e>", *special], **named)
    tokenizer.chat_template = None
    return tokenizer


def prompt_of(tokenizer: PreTrainedTokenizerFast) -> str:
    return tokenizer.decode(encode_prompt(tokenizer, TALK[:1]))


# ------------------------------------------------------------------------------------------------------------ ChatML


@pytest.mark.parametrize(("special", "end"), [([], "<e>"), (["<|im_start|>", "<|im_end|>"], "<|im_end|>")])
def test_chatml_ends_with_a_token_that_the_tokenizer_has(special: list[str], end: str) -> None:
    """No token is new, whatever the tokenizer knows; the marks of roles may be plain text."""
    tokenizer = base(*special)
    size = len(tokenizer)
    set_template(tokenizer, chatml(tokenizer), label="chat_template: 'chatml'")
    encoded = encode_conversation(tokenizer, TALK)
    assert prompt_of(tokenizer) == f"<|im_start|>user\nHi{end}\n<|im_start|>assistant\n"
    assert tokenizer.decode(encoded.completion) == f"Hello.{end}"
    assert controls(tokenizer, encoded.completion) == [end]
    assert encoded.completion[-1] in end_tokens(tokenizer)
    assert len(tokenizer) == size


def test_chatml_begins_as_the_tokenizer_begins_a_text() -> None:
    from tokenizers import processors

    tokenizer = base("<s>", bos_token="<s>")
    assert not chatml(tokenizer).startswith("{{ bos_token }}")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    set_template(tokenizer, chatml(tokenizer), label="")
    assert prompt_of(tokenizer).startswith("<s><|im_start|>user")
    assert encode_prompt(tokenizer, TALK[:1]).count(tokenizer.bos_token_id) == 1


def test_chatml_needs_an_end() -> None:
    tokenizer = base()
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="or an end-of-sequence token"):
        chatml(tokenizer)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}", "chat template refuses this conversation"),
        ("{% for m in messages %}{{ m.role }}<e>{% endfor %}", "does not show what the assistant says"),
        (
            "{% for m in messages %}{{ m.content }}<|done|>{% endfor %}",
            r"ends an answer with '<\|done\|>'",
        ),
    ],
)
def test_a_template_that_does_not_fit_is_refused(template: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        set_template(base(), template, label="chat_template: 'mine.jinja'")
    assert "chat_template: 'mine.jinja'" in error.value.message


def test_a_template_without_an_end_of_its_own_is_taken() -> None:
    """The encoders put the tokenizer's end token behind an answer."""
    tokenizer = base()
    set_template(tokenizer, "{% for m in messages %}{{ m.content }}\n{% endfor %}", label="")
    assert encode_conversation(tokenizer, TALK).completion[-1] == tokenizer.eos_token_id


# --------------------------------------------------------------------------------------------------------- variables


def test_values_of_variables_reach_every_rendering() -> None:
    tokenizer = bytes_tokenizer(THINKS, ["<e>"])
    assert prompt_of(tokenizer) == "<user>Hi<e><assistant>"
    set_variables(tokenizer, {"enable_thinking": False, "mood": 'a "\\\n☺'})
    assert prompt_of(tokenizer) == '<user>Hi<e>a "\\\n☺<assistant><think></think>'
    assert tokenizer.decode(encode_conversation(tokenizer, TALK).completion) == "Hello.<e>"
    own = tokenizer.apply_chat_template(TALK[:1], tokenize=False, add_generation_prompt=True, enable_thinking=True)
    assert own == '<user>Hi<e>a "\\\n☺<assistant>', "whoever asks for another value gets it"


def test_values_are_saved_with_the_tokenizer(tmp_path) -> None:
    """transformers and vLLM render the saved template; another run may give a variable another value."""
    tokenizer = bytes_tokenizer(THINKS, ["<e>"])
    set_variables(tokenizer, {"enable_thinking": False})
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert prompt_of(again) == prompt_of(tokenizer) == "<user>Hi<e><assistant><think></think>"
    set_variables(again, {"enable_thinking": True})
    assert prompt_of(again) == "<user>Hi<e><assistant>"


@pytest.mark.parametrize("value", [None, True, 3, 0.5, "x", [1, "y", None], {"k": {"l": [False]}}])
def test_a_value_of_each_kind(value: object) -> None:
    tokenizer = bytes_tokenizer("{% for m in messages %}{{ m.content }}{{ v | tojson }}<e>{% endfor %}", ["<e>"])
    direct = tokenizer.apply_chat_template(TALK, tokenize=False, v=value)
    set_variables(tokenizer, {"v": value})
    assert tokenizer.apply_chat_template(TALK, tokenize=False) == direct


@pytest.mark.parametrize("name", ["enable_thinkin", "messages", "tools"])
def test_a_variable_that_the_template_does_not_read_is_refused(name: str) -> None:
    tokenizer = bytes_tokenizer(THINKS, ["<e>"])
    with pytest.raises(UserError, match=f"chat_template_kwargs: the chat template reads no '{name}'") as error:
        set_variables(tokenizer, {name: True})
    assert "enable_thinking" in error.value.message
