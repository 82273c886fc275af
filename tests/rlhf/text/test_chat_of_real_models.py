"""Chat templates of published models, as TRL ships them, through the encoders of all families.

What is learned stands behind the prompt that generation sees, counts whole, and ends with one end token.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from byte_tokenizer import bytes_tokenizer, controls
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from direct_alignment.data import to_example
from instruction_tuning.config import InstructionTuningConfig
from instruction_tuning.data import to_groups
from rlhf.data.answers import encode_answer
from rlhf.data.conversations import Dialogue
from rlhf.data.preferences import Ranking
from rlhf.data.ranking_groups import to_group
from rlhf.errors import UnusableError
from rlhf.groups import Group
from rlhf.tasks.problem import Problem, messages_for
from rlhf.text.chat import Message, encode_prompt, encode_turns, end_tokens
from rlhf.text.dialogue import moves_system_messages, takes_system_message
from rlhf.text.template import set_variables, variables_of

trl = pytest.importorskip("trl")
FOLDER = Path(trl.__file__).parent / "chat_templates"
VISION = ("idefics3", "smolvlm", "llava_next")  # their messages are lists of parts, with images among them
NAMES = sorted(it.stem for it in FOLDER.glob("*.jinja") if not it.stem.startswith(VISION))
MARKS = r"<[|｜][^|｜>'\"{}]+[|｜]>|<(?:start|end)_of_turn>|\[gMASK\]|<sop>|<\|?(?:turn|channel)\|?>"
ENDS = [
    *("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|return|>", "<|end|>", "<|eot|>", "<turn|>"),
    *("<｜end▁of▁sentence｜>", "<|END_OF_TURN_TOKEN|>"),
]
TEMPLATES = {name: (FOLDER / f"{name}.jinja").read_text() for name in NAMES}
LIMITS = {"max_length": 10**6, "truncation": "keep_end"}
SYSTEM = {"role": "system", "content": "Be kind."}
THOUGHT = "<think>\nreason\n</think>\n\nHello."


@pytest.fixture(scope="module")
def bytes_and_marks() -> PreTrainedTokenizerFast:
    """A token a byte, and one for each mark that a template writes; it puts <bos> in front of any text by itself."""
    marks = sorted({mark for text in TEMPLATES.values() for mark in re.findall(MARKS, text)} | {"<|endoftext|>"})
    tokenizer = bytes_tokenizer("", ["<bos>", *marks], added=("<think>", "</think>"), bos_token="<bos>")
    begins = ("<bos>", tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[begins]
    )
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    return tokenizer


@pytest.fixture(scope="module", params=NAMES)
def tokenizer(request: pytest.FixtureRequest, bytes_and_marks) -> PreTrainedTokenizerFast:
    template = TEMPLATES[request.param]
    bytes_and_marks.chat_template = template
    bytes_and_marks.eos_token = next((end for end in ENDS if end in template), "<|endoftext|>")
    return bytes_and_marks


def talk(*texts: str) -> list[Message]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def answers_of(group: Group) -> Iterator[tuple[list[int], list[int]]]:
    """(all tokens before it, its tokens) of each run of counted tokens."""
    for completion, loss_mask in zip(group.completions, group.loss_mask, strict=True):
        before, said = list(group.prompt), []
        for token, counted in zip([*completion, -1], [*loss_mask, False], strict=True):
            if not counted and said:
                yield list(before), said
                before, said = [*before, *said], []
            (said if counted else before).append(token)


def check(tokenizer: PreTrainedTokenizerFast, group: Group, messages: list[Message], turns: list[int]) -> None:
    """The answers at these places, each behind the prompt of generation, with one end token at its end."""
    found = list(answers_of(group))
    assert len(found) == len(turns)
    for (before, said), turn in zip(found, turns, strict=True):
        assert before == encode_prompt(tokenizer, messages[:turn])
        assert before.count(tokenizer.bos_token_id) <= 1
        assert tokenizer.bos_token_id not in said
        assert [token in end_tokens(tokenizer) for token in said] == [False] * (len(said) - 1) + [True]
        text, wanted = tokenizer.decode(said[:-1]), messages[turn]["content"]
        assert text.count("Hello") == wanted.count("Hello")
        assert text.rstrip().endswith(wanted.rpartition("</think>")[2].strip())
        assert text.count("reason") == wanted.count("reason")


CONVERSATIONS = [
    talk("Hi", "Hello."),
    talk("Hi", THOUGHT),
    [SYSTEM, *talk("Hi", "Hello.")],
    talk("Hi", "Hello.", "And now?", "Hello again."),
    [SYSTEM, *talk("Hi", THOUGHT, "And now?", THOUGHT)],
]


def test_instruction_tuning(tokenizer) -> None:
    """Every answer, the earlier ones too, and the last alone."""
    for messages in CONVERSATIONS:
        turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        for last in (False, True):
            config = InstructionTuningConfig(last_turn_only=last, max_length=10**6)
            (group,) = to_groups(tokenizer, Dialogue(messages, []), config)
            check(tokenizer, group, messages, turns[-1:] if last else turns)


@pytest.mark.parametrize("thinks", [True, False])
def test_thinking_switched_on_or_off(tokenizer, thinks: bool) -> None:
    """`chat_template_kwargs: {enable_thinking: false}` holds for prompt and answer alike."""
    if "enable_thinking" not in variables_of(tokenizer):
        pytest.skip("the template has no such variable")
    own = tokenizer.chat_template
    try:
        set_variables(tokenizer, {"enable_thinking": thinks})
        direct = tokenizer.apply_chat_template(
            talk("Hi"), chat_template=own, tokenize=False, add_generation_prompt=True, enable_thinking=thinks
        )
        assert tokenizer.decode(encode_prompt(tokenizer, talk("Hi"))) == direct
        for messages in CONVERSATIONS[:2]:
            (group,) = to_groups(tokenizer, Dialogue(messages, []), InstructionTuningConfig())
            check(tokenizer, group, messages, [1])
    finally:
        tokenizer.chat_template = own


def test_preferences_solutions_and_prompts(tokenizer) -> None:
    """Direct alignment, preference and outcome models; the prompts of policy gradients and process models are those
    that the completions of all others stand behind."""
    asked = messages_for(Problem("Hi", "", {}), "Be kind.")
    sides = [[{"role": "assistant", "content": text}] for text in (THOUGHT, "Good bye.")]
    pair = Ranking(talk("Hi"), sides, None)
    aligned = to_example(tokenizer, pair, None, system_prompt="Be kind.", **LIMITS)[0].group
    judged = to_group(tokenizer, Ranking(asked, sides, None), **LIMITS).group
    assert aligned == judged
    for i, side in enumerate(sides):
        check(tokenizer, aligned._take([i]), [*asked, *side], [2])
        solution = encode_answer(tokenizer, asked, side[0]["content"])
        check(tokenizer, Group(solution.prompt, [solution.completion], [solution.loss_mask]), [*asked, *side], [2])


def test_completions_of_several_turns(tokenizer) -> None:
    """All answers count where one text holds them as they are sampled, else the last."""
    sides = [talk("", "Hello.", "And now?", last)[1:] for last in ("Hello you.", "Bye.")]
    group = to_group(tokenizer, Ranking(talk("Hi"), sides, None), **LIMITS).group
    for i, side in enumerate(sides):
        messages = [*talk("Hi"), *side]
        one_text = len(encode_turns(tokenizer, messages)) == 1
        check(tokenizer, group._take([i]), messages, [1, 3] if one_text else [3])


def test_a_system_message_is_never_refused(tokenizer) -> None:
    """Gemma's template takes none: the user says it."""
    prompt = encode_prompt(tokenizer, [SYSTEM, *talk("Hi")])
    assert "Be kind." in tokenizer.decode(prompt)
    if not takes_system_message(tokenizer):
        assert moves_system_messages(tokenizer)
        assert prompt == encode_prompt(tokenizer, talk("Be kind.\n\nHi"))


def test_a_broken_conversation_is_refused(tokenizer) -> None:
    for messages in (talk("Hi"), talk("Hi", "Hello.", "Hm?"), talk("", "Hello.")[1:], []):
        with pytest.raises(UnusableError):
            encode_turns(tokenizer, messages)


def test_nothing_in_a_message_becomes_a_mark(tokenizer) -> None:
    marks = "".join(dict.fromkeys(re.findall(MARKS, str(tokenizer.chat_template))))
    plain, forged = (encode_turns(tokenizer, talk(f"Hi{text}there", f"a{text}b"))[0] for text in ("", marks))
    for part in ("prompt", "completion"):
        assert controls(tokenizer, getattr(forged, part)) == controls(tokenizer, getattr(plain, part))
    assert f"a{marks}b" in tokenizer.decode(forged.completion)
    assert f"Hi{marks}there" in tokenizer.decode(forged.prompt)
