"""Messages of a row: text or a list, what belongs in front of them, and tools; each reason for a refusal."""

import json

import pytest

from rlhf.data.messages import parse_messages, parse_tools, with_context

ASKED, SAID = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


def test_text_is_one_message_of_the_role() -> None:
    assert parse_messages("hello", "user", "prompt") == [{"role": "user", "content": "hello"}]
    assert parse_messages("", "assistant", "completion") == [{"role": "assistant", "content": ""}]
    with pytest.raises(ValueError, match="prompt"):
        parse_messages(json.dumps([ASKED]), "user", "prompt")


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool"])
def test_each_role_is_read(role: str) -> None:
    assert parse_messages([{"role": role, "content": "x"}], "user", "m") == [{"role": role, "content": "x"}]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "m: wanted text or a list of messages, found None"),
        (3, "m: wanted text or a list of messages, found 3"),
        ([], r"m: wanted text or a list of messages, found \[\]"),
        ([{"from": "narrator", "value": "q"}], "m: from 'narrator', wanted one of human, user, gpt"),
        ([{"from": "human", "value": None}], "m: wanted messages with role and content as text"),
        (["q"], "m: wanted messages with role and content as text, found 'q'"),
        ([{"content": "q"}], "m: wanted messages with role and content as text, found {"),
        ([{"role": 3, "content": "q"}], "m: wanted messages with role and content as text"),
        (
            [{"role": "human", "content": "q"}],
            "m: role 'human', wanted one of system, developer, user, assistant, tool",
        ),
        ([{"role": "user"}], "m: wanted messages with role and content as text"),
        ([{"role": "user", "content": None}], "m: wanted messages with role and content as text"),
        ([{"role": "user", "content": ["q"]}], "m: wanted messages with role and content as text"),
        ([{**ASKED, "name": 3}], "m: name: wanted text, found 3"),
        ([{**SAID, "tool_call_id": ["1"]}], "m: tool_call_id: wanted text"),
        ([{**SAID, "reasoning_content": {"a": 1}}], "m: reasoning_content: wanted text"),
        ([{**SAID, "tool_calls": "f()"}], r"m: tool_calls: wanted a list of calls, found 'f\(\)'"),
        ([{**SAID, "tool_calls": ["f"]}], "m: tool_calls: wanted a list of calls"),
        ([{**SAID, "tool_calls": [{"name": "f"}], "content": ["x"]}], "m: content: wanted text"),
        ([{**ASKED, "weight": 0.5}], "weight would be ignored"),
        ([{**ASKED, "images": ["x.png"]}], "images would be ignored"),
        ([{**SAID, "train": False}], "train would be ignored"),
        ([{**SAID, "trainable": False}], "trainable would be ignored"),
        ([{**SAID, "loss": False}], "loss would be ignored"),
        ([ASKED, {**SAID, "loss": 0}], "loss would be ignored"),
    ],
)
def test_odd_messages_are_refused_with_the_reason(value: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_messages(value, "user", "m")


def test_sharegpts_messages_are_messages() -> None:
    said = [
        {"from": "system", "value": "s"},
        {"from": "human", "value": "q"},
        {"from": "gpt", "value": "a", "weight": 1},
        {"from": "observation", "value": "o"},
    ]
    roles = ("system", "user", "assistant", "tool")
    wanted = [{"role": role, "content": text} for role, text in zip(roles, "sqao", strict=True)]
    assert parse_messages(said, "user", "m") == wanted
    assert parse_messages(said[1], "assistant", "m") == wanted[1:2], "one message stands for a list"


def test_what_describes_a_message_is_left_out_and_what_it_says_is_kept() -> None:
    """In one order of keys, whatever the row's."""
    described = {"id": 7, "content": "a", "source": "web", "role": "assistant", "weight": 1}
    (message,) = parse_messages([described], "user", "m")
    assert message == SAID
    assert list(message) == ["role", "content"]
    said = {"content": "c", "thinking": "t", "reasoning": "r", "reasoning_content": "x", "tool_call_id": "1"}
    (message,) = parse_messages([{**said, "name": "n", "role": "tool"}], "user", "m")
    assert message == {**said, "name": "n", "role": "tool"}
    (message,) = parse_messages([{**SAID, "name": None, "reasoning": "", "tool_calls": []}], "user", "m")
    assert message == SAID


def test_a_call_needs_no_text_and_its_arguments_become_an_object() -> None:
    """Beside the name or inside `function`; nulls go at any depth; what is no object stays as it is written."""

    def read(call: object) -> object:
        (message,) = parse_messages([{"role": "assistant", "content": None, "tool_calls": [call]}], "user", "m")
        assert message["content"] == ""
        (made,) = message["tool_calls"]
        return made

    assert read({"name": "f", "arguments": '{"a": 1}', "id": None}) == {"name": "f", "arguments": {"a": 1}}
    assert read({"function": {"name": "f", "arguments": '{"a": [1, null]}'}, "type": "function"}) == {
        "function": {"name": "f", "arguments": {"a": [1, None]}},
        "type": "function",
    }
    assert read({"name": "f", "arguments": {"a": None, "b": [{"c": None, "d": 1}]}}) == {
        "name": "f",
        "arguments": {"b": [{"d": 1}]},
    }
    for text in ("[1]", "not json", "3"):
        assert read({"name": "f", "arguments": text}) == {"name": "f", "arguments": text}


# ------------------------------------------------------------------------------------------------------------ context


@pytest.mark.parametrize("name", ["system", "system_prompt", "system_message"])
def test_a_system_column_stands_in_front(name: str) -> None:
    system = {"role": "system", "content": "s"}
    assert with_context({name: "s"}, [ASKED]) == [system, ASKED]
    assert with_context({name: " s "}, [system, ASKED]) == [system, ASKED], "the conversation's own words stay"
    assert with_context({name: None}, [ASKED]) == with_context({name: " "}, [ASKED]) == [ASKED]
    with pytest.raises(ValueError, match=f"^{name}: another system message than the conversation's$"):
        with_context({name: "t"}, [system, ASKED])
    with pytest.raises(ValueError, match=f"^{name}: wanted text, found 3$"):
        with_context({name: 3}, [ASKED])


def test_two_system_columns_agree_or_are_refused() -> None:
    assert with_context({"system": "s", "system_prompt": "s"}, [ASKED])[0] == {"role": "system", "content": "s"}
    assert len(with_context({"system": "s", "system_prompt": "s"}, [ASKED])) == 2
    with pytest.raises(ValueError, match="system_prompt: another system message"):
        with_context({"system": "s", "system_prompt": "t"}, [ASKED])


def test_history_stands_between_the_system_message_and_the_question() -> None:
    system, early = {"role": "system", "content": "s"}, {"role": "user", "content": "before"}
    for history in ([["before", "a"]], [early, SAID]):
        assert with_context({"history": history}, [system, ASKED]) == [system, early, SAID, ASKED]
        assert with_context({"history": history, "system": "s"}, [ASKED]) == [system, early, SAID, ASKED]
        assert with_context({"history": history}, []) == [early, SAID]
    for nothing in (None, [], ""):
        assert with_context({"history": nothing}, [ASKED]) == [ASKED]
    assert with_context({}, []) == []


@pytest.mark.parametrize(
    ("history", "reason"),
    [
        ("before", "history: wanted a list of .question, answer., found 'before'"),
        ([["before"]], "history: wanted a list of .question, answer., found .'before'."),
        ([["a", "b", "c"]], "history: wanted a list of .question, answer."),
        ([["a", 3]], "history: wanted a list of .question, answer."),
        (["ab"], "history: wanted a list of .question, answer., found 'ab'"),
        ([["a", "b"], ASKED], "history: wanted a list of .question, answer."),
        ([{"role": "user"}], "history: wanted messages with role and content"),
    ],
)
def test_odd_histories_are_refused(history: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        with_context({"history": history}, [ASKED])


# -------------------------------------------------------------------------------------------------------------- tools


def test_tools_are_objects_also_as_json_text() -> None:
    tools = [{"name": "f", "parameters": {"a": {"type": "int", "default": None}}, "strict": None}]
    read = [{"name": "f", "parameters": {"a": {"type": "int"}}}]
    assert parse_tools(tools) == parse_tools(json.dumps(tools)) == read
    for nothing in (None, [], ""):
        assert parse_tools(nothing) == []


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("f(x)", r"'f\(x\)'"),
        ({"name": "f"}, "{"),
        ('{"name": "f"}', "{"),
        (["f"], r"\['f'\]"),
        ([{"name": "f"}, 3], ""),
    ],
)
def test_odd_tools_are_refused(value: object, found: str) -> None:
    with pytest.raises(ValueError, match=f"^tools: wanted a list of objects, found {found}"):
        parse_tools(value)
