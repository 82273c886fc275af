"""The tokenizer of a run: one for data and model; what it says of system messages."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from byte_tokenizer import bytes_tokenizer
from transformers import Qwen3Config

from instruction_tuning.config import InstructionTuningConfig, ScratchConfig
from rlhf.run.models import Models
from rlhf.text.chat import encode_prompt

NO_SYSTEM = (
    "{% for m in messages %}{{ raise_exception('System role not supported') if m.role == 'system' }}"
    "<{{ m.role }}>{{ m.content }}<e>{% endfor %}"
)
SYSTEM = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer = bytes_tokenizer(NO_SYSTEM, ["<e>"])
    tokenizer.save_pretrained(tmp_path)
    Qwen3Config(eos_token_id=tokenizer.eos_token_id).save_pretrained(tmp_path)
    return tmp_path


def models(said: list[str], **settings) -> Models:
    run = Models()
    run.config = InstructionTuningConfig(**settings)
    run.console = SimpleNamespace(say=said.append)
    return run


def test_one_tokenizer_says_that_system_messages_move(folder: Path) -> None:
    said: list[str] = []
    run = models(said, model_name=str(folder))
    tokenizer = run.load_tokenizer()
    assert run.load_tokenizer() is tokenizer
    encode_prompt(tokenizer, SYSTEM[1:])
    run.say_what_moved()
    assert said == []
    for _ in range(2):
        encode_prompt(tokenizer, SYSTEM)
    run.say_what_moved()
    assert said == ["data: the chat template takes no system message: it stands in front of the user's first message"]


def test_settings_of_the_conversation_hold_for_a_new_model_too() -> None:
    run = models([], scratch=ScratchConfig(), chat_template="chatml")
    text = run.load_tokenizer(run.config.scratch).decode(encode_prompt(run.load_tokenizer(), SYSTEM[1:]))
    assert text == "<|im_start|>user\nHi<|end|>\n<|im_start|>assistant\n"
