"""A run directory that somebody else wrote: whatever stands in it, in place of whatever, the page shows it as text."""

import copy
import json
import os
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

import rlhf.report.__main__ as command
from rlhf.report import charts
from rlhf.report.comparison_page import write_comparison
from rlhf.report.html import Html, cell, markup, together
from rlhf.report.run_page import write_report

ATTACK = '</script><script>xss()</script><xss-tag onload=xss()>"\' onmouseover="xss()" <!-- {0} $body \ud83d'


class Elements(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]


def assert_harmless(html: str) -> None:
    found = Elements(html)
    assert "xss-tag" not in found.tags
    assert found.tags.count("script") == 3, "the data, the libraries, the page's own"
    assert not [name for name in found.attributes if name.startswith("on")]
    assert "<xss" not in html
    assert "<script>xss" not in html


RUN: dict[str, Any] = {
    "config.yaml": {"algorithm": "grpo", "lr": 1e-5, "seed": 0, "data": {"path": "x", "tags": ["a", "b"]}},
    "provenance.json": {
        "title": "GRPO on words",
        "command": "uv run train",
        "git_commit": "abc",
        "profile": "laptop",
        "processes": 2,
        "started": "2026-01-01",
        "host": {"cpus": 2},
        "versions": {"torch": "2"},
        "metrics": {"loss": {"description": "The loss", "unit": "nats"}},
        "headline": ["loss"],
    },
    "metrics.jsonl": [{"step": s, "wall_s": 2.0 * s, "loss": 1 / s, "speed/tokens_per_s": 9.0} for s in (1, 2, 3)],
    "eval.jsonl": [
        {"step": s, "data": "words", "metric": "accuracy", "value": v, "n": 10, "low": 0.1, "high": 0.9}
        for s, v in ((0, 0.2), (3, 0.8))
    ],
    "samples.jsonl": [
        {"step": 3, "prompt": "p", "completion": "c", "answer": "a", "reward": {"exact": 1.0}, "total": 1.0}
    ],
    "advice.jsonl": [{"step": 1, "level": "warning", "text": "look"}],
}


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Every value, and every key, of nested dicts and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def replaced(files: dict[str, Any], path: tuple, value: Any, *, as_key: bool = False) -> dict[str, Any]:
    files = copy.deepcopy(files)
    inside: Any = files
    for key in path[:-1]:
        inside = inside[key]
    if as_key:
        inside[value] = inside.pop(path[-1])
    else:
        inside[path[-1]] = value
    return files


def write(folder: Path, files: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        if name.endswith(".jsonl"):
            rows = content if isinstance(content, list) else [content]
            text = "".join(json.dumps(row) + "\n" for row in rows)
        else:
            text = yaml.safe_dump(content) if name.endswith(".yaml") else json.dumps(content)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def no_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte of scripts on each of hundreds of pages is not what is looked at here."""
    monkeypatch.setattr("rlhf.report.charts.javascript", str)


# Of rows that are alike, the first.
INSIDE = [path for path in places(RUN) if len(path) > 1 and (not path[0].endswith("jsonl") or path[1] == 0)]
KEYS = [path for path in INSIDE if isinstance(path[-1], str)]


def pages(folder: Path) -> Iterator[str]:
    yield write_report(folder).read_text()
    other = write(folder.parent / "other", replaced(RUN, ("config.yaml", "lr"), 2.0))
    yield write_comparison([folder, other], folder.parent / "both.html").read_text()


def test_an_attack_in_place_of_any_value_or_key_stays_text(no_libraries: None, tmp_path: Path) -> None:
    for path in INSIDE:
        for html in pages(write(tmp_path / "run", replaced(RUN, path, ATTACK))):
            assert_harmless(html)
    for path in KEYS:
        html = write_report(write(tmp_path / "run", replaced(RUN, path, ATTACK, as_key=True))).read_text()
        assert_harmless(html)


def test_attacks_everywhere_at_once_and_in_the_name_of_the_run(tmp_path: Path) -> None:
    """Keys too, but for those that the report looks for; labels of groups, and the folder's own name."""
    files = {name: json.loads(json.dumps(content)) for name, content in RUN.items()}
    for path in INSIDE:
        inner: Any = files
        for key in path:
            inner = inner[key]
        if isinstance(inner, str):
            files = replaced(files, path, ATTACK)
    files["config.yaml"][ATTACK] = {ATTACK: [ATTACK]}
    for row in files["metrics.jsonl"]:
        row[ATTACK] = 1.0
    name = ATTACK.replace("/", "").replace("\ud83d", "")
    for html in pages(write(tmp_path / name, files)):
        assert_harmless(html)
        assert "xss()" in html, "shown, and not left out"
    html = write_comparison([tmp_path / name, tmp_path / "other"], tmp_path / "both.html", ["algorithm"]).read_text()
    assert_harmless(html)


ODD: list[Any] = [None, [[1]], {"a": [1]}, float("nan"), -1e308, 10**400, "5"]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: str(odd)[:12])
def test_no_odd_value_in_any_place_breaks_the_page(odd: Any, no_libraries: None, tmp_path: Path) -> None:
    for path in INSIDE:
        folder = write(tmp_path / "run", replaced(RUN, path, odd))
        compared = path[0] in ("config.yaml", "eval.jsonl")
        for html in pages(folder) if compared else [write_report(folder).read_text()]:
            assert_harmless(html)
            json.loads(html.split('id="data">')[1].split("</script>")[0])


@pytest.mark.parametrize("name", list(RUN))
def test_contents_of_another_kind_are_named(name: str, no_libraries: None, tmp_path: Path) -> None:
    folder = write(tmp_path / "run", RUN)
    for text in ("[" * 100_000, "\x00", "1", "[1, 2]", '{"a": ' + "9" * 5000 + "}", "null"):
        (folder / name).write_text(text)
        html = write_report(folder).read_text()
        assert_harmless(html)
        assert f"{name}" in html.split("<footer>")[1]


def test_what_yaml_can_say_and_json_cannot(no_libraries: None, tmp_path: Path) -> None:
    """A list in itself, keys that are lists, dates, sets, bytes."""
    folder = write(tmp_path / "run", RUN)
    odd = (
        "a: &a [*a]\n? [1, 2]\n: x\nb: 2026-01-01\nc: !!set {x, y}\nd: !!binary aGk=\ne: [{1: a, b: 2}, {? [1] : 2}]\n"
    )
    (folder / "config.yaml").write_text(odd)
    for html in pages(folder):
        assert_harmless(html)


def test_markup_escapes_whatever_is_not_markup() -> None:
    made: Callable[..., Html] = markup
    assert made("<p>{a}{b}</p>", a="<i>", b=Html("<b>")) == "<p>&lt;i&gt;<b></p>"
    assert made('<p title="{a}">', a="\"'{b}") == '<p title="&quot;&#x27;{b}">'
    assert cell(1.5) == "1.5"
    assert together(["<", Html("<br>"), 2], "&") == "&lt;&<br>&2"
    assert isinstance(together([]), Html)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
@pytest.mark.parametrize("name", ["metrics.jsonl", "config.yaml"])
def test_what_is_no_file_is_not_read(make: Any, name: str, no_libraries: None, tmp_path: Path) -> None:
    folder = write(tmp_path / "run", RUN)
    (folder / name).unlink()
    make(folder / name)
    assert f"{name} could not be read" in write_report(folder).read_text()


def test_a_config_that_grows_without_end_is_not_read(no_libraries: None, tmp_path: Path) -> None:
    folder = write(tmp_path / "run", RUN)
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    (folder / "config.yaml").write_text("\n".join(lines))
    assert "config.yaml could not be read" in write_report(folder).read_text()


def test_a_page_replaces_no_other_file(no_libraries: None, tmp_path: Path) -> None:
    folder = write(tmp_path / "run", RUN)
    before = (folder / "metrics.jsonl").read_text()
    assert command.main([str(folder), "--output", str(folder / "metrics.jsonl")]) == 2
    assert (folder / "metrics.jsonl").read_text() == before
    for _ in range(2):
        assert command.main([str(folder), "--output", str(tmp_path / "page.html")]) == 0


def test_whole_numbers_larger_than_any_float_are_no_numbers_of_a_chart() -> None:
    assert charts.finite([10**400, -(10**400), 2**60, True, 3]) == [None, None, float(2**60), True, 3]
