"""Rows of files to groups of tokens: formats, order, truncation, and which tokens are learned."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from instruction_tuning.config import DataConfig, InstructionTuningConfig
from instruction_tuning.data import Demonstrations, Rows, to_groups
from rlhf.data.conversations import Dialogue, parse_row
from rlhf.data.rows import TooLong
from rlhf.embedded.make import END, character_tokenizer
from rlhf.errors import UserError
from rlhf.groups import Group, micro_batches
from rlhf.text.chat import encode_prompt

ASK = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@pytest.mark.parametrize(
    ("row", "contents"),
    [
        ({"messages": ASK}, ["a", "b"]),
        ({"messages": [{"role": "system", "content": "s"}, *ASK], "other": 1}, ["s", "a", "b"]),
        ({"prompt": "a", "completion": "b"}, ["a", "b"]),
        ({"prompt": ASK[:1], "completion": ASK[1:]}, ["a", "b"]),
        ({"instruction": "a", "output": "b"}, ["a", "b"]),
        ({"instruction": "a", "input": "c", "output": "b"}, ["a\n\nc", "b"]),
        ({"instruction": "a", "input": "", "output": "b"}, ["a", "b"]),
        ({"messages": ASK, "prompt": "a", "completion": " b"}, ["a", "b"]),
        ({"messages": None, "prompt": "a", "completion": "b"}, ["a", "b"]),
    ],
)
def test_formats(row: dict, contents: list[str]) -> None:
    messages = parse_row(row).messages
    assert [message["content"] for message in messages] == contents
    assert [message["role"] for message in messages][-2:] == ["user", "assistant"]


@pytest.mark.parametrize(
    "row",
    [
        {"text": "a"},
        {"messages": ASK[:1]},
        {"messages": [ASK[0], {"role": "assistant", "content": "  "}]},
        {"messages": [ASK[0], {"role": "assistant", "content": None}]},
        {"prompt": "a", "completion": 3},
        {"messages": ASK, "completion": "another"},
        {"messages": ASK, "output": ["b"]},
        {"prompt": json.dumps(ASK[:1]), "completion": "b"},
        {"messages": str(ASK)},
        {},
    ],
)
def test_unusable_rows(row: dict) -> None:
    with pytest.raises(ValueError, match=r"wanted|empty|does not end|ignored"):
        parse_row(row)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user"}]},
        {"messages": "abc"},
        {"messages": 5},
        {"prompt": [], "completion": []},
        {"instruction": 3, "output": "x"},
        {"instruction": "a", "input": 3, "output": "x"},
        {"messages": [{"role": 3, "content": "a"}, *ASK]},
        {"messages": [{"role": "user", "content": ["a"]}, ASK[1]]},
        {"prompt": {"role": "user"}, "completion": "b"},
        3,
    ],
)
def test_rows_of_the_wrong_shape(row) -> None:
    """Only a ValueError is counted among the 5 % and shown with its line; anything else ends the run without one."""
    with pytest.raises(ValueError, match=r"wanted|empty|does not end"):
        getattr(parse_row, "__wrapped__", parse_row)(row)  # past the check of its signature


CHARACTERS = character_tokenizer()


def write(folder: Path, rows: int | Iterable[Mapping]) -> str:
    file = folder / "rows.jsonl"
    if isinstance(rows, int):
        rows = [{"prompt": f"q{i}", "completion": f"a{i}"} for i in range(rows)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def read(path: str, *, seed: int = 0, said: list[str] | None = None, **changes) -> Rows:
    """`changes` are of the config, or of its data where they are named so there."""
    of_data = {key: changes.pop(key) for key in list(changes) if key in DataConfig.model_fields}
    config = InstructionTuningConfig(
        **{"batch_size": 1, "seed": seed, **changes}, data=DataConfig(path=path, **of_data), output_dir="unused"
    )
    return Rows(config, CHARACTERS, say=(said if said is not None else []).append)


def questions(groups: Iterable[Group]) -> list[str]:
    """Of `<|user|>q<|end|><|assistant|>`."""
    return [CHARACTERS.decode(group.prompt).split("<|user|>")[1].split("<|end|>")[0] for group in groups]


def test_every_epoch_shows_every_row_once_in_another_order(tmp_path: Path) -> None:
    """50 rows, 10 held out (a fifth at most), 40 in epochs of 5 batches of 8; a batch may cross over."""
    path = write(tmp_path, 50)
    data = read(path)
    held_out = questions(data.held_out)
    epochs = [[q for step in range(5 * e, 5 * e + 5) for q in questions(data.batch(step, 8))] for e in range(2)]
    assert len(held_out) == 10
    for epoch in epochs:
        assert sorted([*epoch, *held_out]) == sorted(f"q{i}" for i in range(50))
    assert epochs[0] != epochs[1]
    across = questions(data.batch(1, 30))
    assert across == [*epochs[0][30:], *epochs[1][:20]]

    other = read(path, seed=1)
    assert questions(other.held_out) == held_out, "runs with other seeds are measured on the same rows"
    assert questions(other.batch(0, 8)) != epochs[0][:8]
    again = read(path)
    assert questions(again.batch(7, 8)) == questions(data.batch(7, 8)), "nothing but the number of the step matters"
    small = read(path, held_out=5, size=7)
    assert len({q for step in range(9) for q in questions(small.batch(step, 8))}) == 7
    assert set(questions(small.held_out)) < set(held_out), "whatever the size"


def test_a_question_is_learned_or_held_out(tmp_path: Path) -> None:
    """40 questions, each three times with other answers, once behind a system message and once in a longer talk."""
    rows: list[dict] = []
    for i in range(40):
        rows += [{"prompt": f"q{i}", "completion": f"a{i}"}, {"prompt": f"q{i}", "completion": "b", "system": "s"}]
        rows += [{"prompt": "and?", "completion": "c", "history": [[f"q{i}", "b"]]}]
    data = read(write(tmp_path, rows))
    learned = {q for step in range(100) for q in questions(data.batch(step, 1))}
    held_out = set(questions(data.held_out))
    assert len(data.held_out) == 24
    assert len(held_out) == 8
    assert len(learned) == 32
    assert not learned & held_out


@pytest.mark.parametrize("rows", [1, 3, [{"prompt": "q", "completion": f"a{i}"} for i in range(40)]])
def test_too_few_questions_to_hold_some_out(tmp_path: Path, rows) -> None:
    path, said = write(tmp_path, rows), list[str]()
    data = read(path, said=said)
    assert data.held_out == []
    assert len(data.conversations) == (rows if isinstance(rows, int) else len(rows))
    assert len(said) == 1
    assert "too few to keep" in said[0]
    assert "nothing is held out" in said[0]
    said.clear()
    assert read(path, held_out=0, said=said).held_out == []
    assert said == [], "asked for"


def test_a_batch_larger_than_the_data_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, 10)
    assert len(read(path, batch_size=8).batch(0, 8)) == 8
    with pytest.raises(UserError, match="8 conversations to train on are fewer than batch_size 9"):
        read(path, batch_size=9)


def test_the_fingerprint_is_of_all_that_is_learned_and_held_out(tmp_path: Path) -> None:
    """Of 10 rows 2 are held out; whichever row changes, and whatever of it, the fingerprint does."""
    rows = [{"prompt": f"q{i}", "completion": f"a{i}"} for i in range(10)]
    prints = {read(write(tmp_path, rows)).fingerprint}
    for i in range(10):
        changed: list[dict] = [dict(row) for row in rows]
        changed[i]["completion"] = "another"
        prints.add(read(write(tmp_path, changed)).fingerprint)
    rows[0]["system"] = "s"
    prints.add(read(write(tmp_path, rows)).fingerprint)
    assert len(prints) == 12


# --------------------------------------------------------------------------------------------- rows that cannot be used


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "a" * 90, "completion": "b"}, "takes 95 tokens, max_length is 64"),
        ({"prompt": "q", "completion": "\u4e16\u754c"}, "does not know 2 of the 3 tokens of the answer"),
        ({"prompt": "\u4f60\u597d?", "completion": "b"}, "does not know 2 tokens of the prompt"),
        ({"prompt": "q\ud83d", "completion": "b"}, "half a character"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "begins with the assistant"),
        ({"messages": [{"role": "user", "content": "x"}]}, "does not end with the assistant"),
        ({"messages": [{"role": "human", "content": "x"}, ASK[1]]}, "role 'human'"),
        ({"messages": [ASK[0], {**ASK[1], "weight": 0}]}, "weight"),
        ({"messages": [ASK[0], {**ASK[1], "train": False}]}, "train"),
        ({"prompt": "q", "completion": "b", "label": False}, "label"),
        ({"prompt": "q", "completion": "b", "documents": ["d"]}, "documents"),
        ({"messages": ASK, "tools": [{"name": "f"}]}, "tools: the model's chat template does not show them"),
        ({"messages": [ASK[0], {**ASK[1], "tool_calls": [{"name": "f"}]}]}, "tool_calls: the model's chat template"),
        ({"messages": [ASK[0], {**ASK[1], "reasoning_content": "r"}]}, "reasoning_content: the model's chat template"),
        ({"messages": ASK, "system": ["s"]}, "system: wanted text"),
        ({"messages": ASK, "history": ["q"]}, "history: wanted a list of"),
        ([], "wanted an object"),
        (None, "wanted an object"),
    ],
)
def test_rows_are_refused_with_their_reason_before_the_first_step(tmp_path: Path, row, reason: str) -> None:
    """One of 41 rows is left out and shown; of 11, one is more than 5 %. Each with its line."""
    good = [{"prompt": f"q{i}", "completion": f"a{i}"} for i in range(40)]
    said: list[str] = []
    data = read(write(tmp_path, [*good, row]), said=said, max_length=64)
    assert len(data.conversations) + len(data.held_out) == 40
    assert len(said) == 1
    assert reason in said[0]
    assert "line 41" in said[0]
    with pytest.raises(UserError) as error:
        read(write(tmp_path, [*good[:10], row]), max_length=64)
    assert reason in error.value.message
    assert "line 11" in error.value.message


def test_no_step_is_empty(tmp_path: Path) -> None:
    """Two of 50 rows do not fit: they are in no batch, and each batch of one has something to learn."""
    rows = [{"prompt": f"q{i}", "completion": "b" * (90 if i < 2 else 3)} for i in range(50)]
    data = read(write(tmp_path, rows), max_length=64)
    assert all(sum(map(sum, group.loss_mask)) == 4 for step in range(100) for group in data.batch(step, 1))
    assert all(data.batch(step, 1) for step in range(100))


def test_an_unknown_letter_in_a_long_prompt_is_read(tmp_path: Path) -> None:
    """One token of twenty; an answer may have none, since it would be learned."""
    rows = [{"prompt": f"caf\u00e9 number {i:06d}?", "completion": "yes"} for i in range(20)]
    assert len(read(write(tmp_path, rows), held_out=0).conversations) == 20


def test_context_goes_in_front() -> None:
    row = {"instruction": "c", "output": "d", "system": "s", "history": [["a", "b"]]}
    roles = [(message["role"], message["content"]) for message in parse_row(row).messages]
    assert roles == [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    with_messages = {"messages": [{"role": "system", "content": "s"}, *ASK], "system": "s", "history": ASK}
    assert [m["content"] for m in parse_row(with_messages).messages] == ["s", "a", "b", "a", "b"]
    with pytest.raises(ValueError, match="another system message"):
        parse_row({**with_messages, "system": "t"})


def test_calls_are_kept_as_the_template_takes_them() -> None:
    """Null keys, as tables have them, are left out; arguments that are JSON text become an object."""
    call = {"type": "function", "id": None, "function": {"name": "f", "arguments": '{"town": "A"}'}}
    messages = [
        {"role": "user", "content": "q", "tool_calls": None},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "", "tool_call_id": "1"},
        {"role": "assistant", "content": "a", "name": None},
    ]
    dialogue = parse_row({"messages": messages, "tools": '[{"name": "f", "x": null}]'})
    assert dialogue.tools == [{"name": "f"}]
    assert dialogue.messages == [
        {"role": "user", "content": "q"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"town": "A"}}}],
        },
        {"role": "tool", "content": "", "tool_call_id": "1"},
        {"role": "assistant", "content": "a"},
    ]


def test_demonstrations_that_do_not_fit_are_an_error() -> None:
    config = InstructionTuningConfig(max_length=60, batch_size=2, data=DataConfig(held_out=2), output_dir="unused")
    with pytest.raises(UserError, match=r"a demonstration cannot be used: takes \d+ tokens, max_length is 60"):
        Demonstrations(config, CHARACTERS)
    for changes in ({"batch_size": 3}, {"data": DataConfig(held_out=1)}):
        with pytest.raises(UserError, match="not a multiple of the 2 tasks"):
            Demonstrations(config.model_copy(update={"max_length": 1000, **changes}), CHARACTERS)


# --------------------------------------------------------------------------------------------------------------- tokens


def groups_of(messages: list[dict], **changes) -> list[Group]:
    config = InstructionTuningConfig(**{"max_length": 100, **changes}, output_dir="unused")
    return to_groups(CHARACTERS, Dialogue(messages, []), config)


def test_what_is_learned_token_by_token() -> None:
    """<user> a <end> <assistant> | b <end>: the last two count, and are what a micro-batch predicts."""
    (group,) = groups_of(ASK)
    assert group.prompt == encode_prompt(CHARACTERS, ASK[:1])
    (rows,) = micro_batches([group], token_budget=100)
    counted = rows.labels[rows.mask].tolist()
    assert CHARACTERS.convert_ids_to_tokens(counted) == ["b", END]
    before = rows.input_ids.flatten()[rows.logit_index[rows.mask]].tolist()
    assert CHARACTERS.convert_ids_to_tokens(before) == ["<|assistant|>", "b"]


def test_truncation() -> None:
    """A prompt of 4 tokens and an answer of 5 + 1: cut at 7, three tokens are left; at 4 or less, nothing to learn."""
    conversation = [ASK[0], {"role": "assistant", "content": "vwxyz"}]
    lengths = {}
    for max_length in (5, 7, 9, 10, 11):
        (group,) = groups_of(conversation, max_length=max_length, truncation="keep_start")
        lengths[max_length] = len(group.completions[0])
        assert len(group.loss_mask[0]) == len(group.completions[0])
        if max_length < 10:
            with pytest.raises(TooLong, match=f"takes 10 tokens, max_length is {max_length}"):
                groups_of(conversation, max_length=max_length)
    assert lengths == {5: 1, 7: 3, 9: 5, 10: 6, 11: 6}
    for max_length in (3, 4):
        with pytest.raises(ValueError, match="nothing of the answer is left"):
            groups_of(conversation, max_length=max_length, truncation="keep_start")


def test_what_is_cut_is_said(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i}", "completion": "b" * (90 if i < 20 else 3)} for i in range(50)]
    said: list[str] = []
    data = read(write(tmp_path, rows), said=said, max_length=64, truncation="keep_start")
    assert said == ["data: 20 conversations are cut at max_length 64; what is cut has no end token"]
    assert len(data.conversations) + len(data.held_out) == 50


def test_last_turn_only() -> None:
    conversation = [*ASK, {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]
    for last_turn_only, count in ((False, 4), (True, 2)):
        (group,) = groups_of(conversation, last_turn_only=last_turn_only)
        assert sum(group.loss_mask[0]) == count


# Of the user's messages, so that the contexts of two turns begin differently.
COUNTS = "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}"
FORGETS = (  # of earlier answers only their first letter is shown
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content if loop.last or m.role == 'user' else m.content[0] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_turns_that_the_template_rewrites_are_branches_of_one_group() -> None:
    """Each behind its own context; in groups of their own where these have no beginning in common."""
    tokenizer, config = character_tokenizer(), InstructionTuningConfig()
    talk = [*ASK[:1], {"role": "assistant", "content": "bc"}, *ASK]
    contexts = {}
    for template in (FORGETS, COUNTS + FORGETS):
        tokenizer.chat_template = template
        groups = to_groups(tokenizer, Dialogue(talk, []), config)
        contexts[template] = len(groups)
        branches = [(group, i) for group in groups for i in range(len(group.completions))]
        for (group, i), turn in zip(branches, (1, 3), strict=True):
            at = group.loss_mask[i].index(True)
            assert [*group.prompt, *group.completions[i][:at]] == encode_prompt(tokenizer, talk[:turn])
            assert tokenizer.decode(group.completions[i][at:]) == f"{talk[turn]['content']}{END}"
            assert all(group.loss_mask[i][at:])
    assert contexts == {FORGETS: 1, COUNTS + FORGETS: 2}
