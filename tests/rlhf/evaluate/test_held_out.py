"""Held-out problems, and which prompts a model cannot read."""

import pytest

from rlhf.config.sampling import SamplingConfig
from rlhf.embedded.make import character_tokenizer, new_model
from rlhf.errors import UserError
from rlhf.evaluate import held_out
from rlhf.evaluate.held_out import HeldOut
from rlhf.tasks.problem import Problem
from rlhf.tasks.procedural import ProceduralTask
from rlhf.text.chat import encode_prompt

TOKENIZER = character_tokenizer()
TASK = ProceduralTask("spell_backward", {"min_word_len": 3, "max_word_len": 6}, answer_in="text")
FIRST = [Problem("ab?", "", {})]


@pytest.fixture(scope="module")
def model():
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    return new_model(**sizes, num_attention_heads=2, num_key_value_heads=1).eval()


def of(**settings) -> HeldOut:
    return HeldOut({"spell_backward": TASK}, SamplingConfig(max_steps=1, eval_problems=2, **settings))


def test_held_out_and_first_problems_are_checked(model, monkeypatch) -> None:
    """With the system prompt, by the tokenizer's words, and with room for the completion."""
    asked = []
    monkeypatch.setattr(held_out, "refuse_unknown_prompts", lambda *given: asked.append(given))
    monkeypatch.setattr(held_out, "refuse_long_prompts", lambda *given: asked.append(given))
    of(system_prompt="Be brief.", max_new_tokens=17).refuse_unreadable(model, TOKENIZER, FIRST)
    words = [
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": problem.question}]
        for problem in [*TASK.held_out_problems(2), *FIRST]
    ]
    prompts = [encode_prompt(TOKENIZER, messages) for messages in words]
    assert asked == [(TOKENIZER, prompts), (model, prompts, 17)]


def test_a_prompt_that_the_model_cannot_read_is_refused(model) -> None:
    of(max_new_tokens=17).refuse_unreadable(model, TOKENIZER, FIRST)
    with pytest.raises(UserError, match=r"reads \d+ tokens at most"):
        of(max_new_tokens=10**6).refuse_unreadable(model, TOKENIZER, FIRST)
    with pytest.raises(UserError, match="does not know"):
        of(max_new_tokens=17).refuse_unreadable(model, TOKENIZER, [Problem("\u2603", "", {})])
