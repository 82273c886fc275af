"""The pieces of a report as HTML: every function returns markup, and every text that enters is escaped here."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from rlhf import charts
from rlhf.report_data import Estimate, is_number

MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'Liberation Mono', monospace"

PALETTE = {
    "light": {"page": "#f8f8f7", "panel": "#ffffff", "line": "#e0e1e2", "faint": "#b9bec6"}
    | {"good": "#00704f", "warn": "#a86400", "bad": "#b3382c"},
    "dark": {"page": "#121418", "panel": "#191c21", "line": "#2e333b", "faint": "#565e6a"}
    | {"good": "#4cc79c", "warn": "#e0a83c", "bad": "#ff8a7a"},
}

NOTHING = '<span class="interval">(nothing)</span>'
LONGEST_TEXT = 4000  # characters of a prompt or completion that are shown


class Page:
    """A page in the making. It collects the charts, which the template's script draws once the page is there."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.body: list[str] = []
        self.specs: dict[str, charts.Spec] = {}

    def add(self, *markup: str) -> None:
        self.body.extend(markup)

    def figure(self, title: str, spec: charts.Spec, *, alt: str, note: str = "", unit: str = "", last: str = "") -> str:
        """A chart in a frame: a heading, the last value, what is measured, and `alt` for those who cannot see it."""
        place = f"chart-{len(self.specs)}"
        self.specs[place] = spec
        unit = f' <span class="unit">{escape(unit)}</span>' if unit else ""
        last = f'<span class="last">{escape(last)}</span>' if last else ""
        note = f"<p>{escape(note)}</p>" if note else ""
        size = f"min-height: {spec['height'] + 30}px"  # so that nothing jumps when the chart is drawn
        return (
            f"<figure><figcaption><h4>{escape(title)}{unit}</h4>{last}{note}</figcaption>"
            f'<div class="chart" id="{place}" role="img" aria-label="{escape(alt)}" style="{size}"></div></figure>'
        )

    def html(self) -> str:
        template = Template(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
        themes = {scheme: charts.theme(scheme) for scheme in ("light", "dark")}
        return template.substitute(
            title=escape(self.title),
            colours=_colours(),
            sans=charts.SANS,
            mono=MONO,
            body="\n".join(self.body),
            data=script_json({"charts": self.specs, "themes": themes}),
            bundle=charts.javascript().replace("</script", "<\\/script") if self.specs else "",
        )


def script_json(value: Any) -> str:
    """JSON that can stand inside a script element: nothing in it can end the element or open a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _colours() -> str:
    def variables(scheme: str) -> str:
        named = PALETTE[scheme] | {"ink": charts.INK[scheme], "muted": charts.MUTED[scheme]}
        named |= {"accent": charts.SERIES[scheme][0]}
        named |= {f"series-{i}": colour for i, colour in enumerate(charts.SERIES[scheme])}
        return " ".join(f"--{name}: {colour};" for name, colour in named.items())

    light, dark = variables("light"), variables("dark")
    return (
        f":root {{ color-scheme: light dark; {light} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
        f"@media print {{ :root {{ color-scheme: light; --page: #ffffff; }} }}"
    )


# ---------------------------------------------------------------------------------------------------------- numbers


def number(value: object) -> str:
    """Three significant digits, without an exponent where a reader would not want one."""
    if isinstance(value, bool) or not is_number(value):
        return "–" if value is None else str(value)
    assert isinstance(value, int | float)
    size = abs(value)
    if value == int(value) and size < 1e15:
        return f"{int(value):,}".replace("-", "−")
    if size >= 1000:
        return f"{value:,.0f}".replace("-", "−")
    text = f"{value:.3g}" if size >= 1e-3 else f"{value:.1e}".replace("e-0", "e-")
    return text.replace("-", "−", 1) if text.startswith("-") else text


def decimals(estimates: Iterable[Estimate | None]) -> int:
    """Digits after the point that a set of estimates deserves: two, or three where the intervals are that narrow."""
    known = [e for e in estimates if e is not None]
    largest = max((abs(e.value) for e in known), default=0)
    if largest >= 100:
        return 1
    widths = [e.high - e.low for e in known if e.low is not None and e.high is not None]
    return 3 if largest < 0.1 or (widths and min(widths) < 0.02 and largest < 10) else 2


def fixed(value: float | None, digits: int, *, sign: bool = False) -> str:
    return "–" if value is None else f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def interval(estimate: Estimate, digits: int) -> str:
    """`[0.85, 0.91]`, or nothing where no interval is known."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"[{fixed(estimate.low, digits)}, {fixed(estimate.high, digits)}]"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{minutes:.0f} min" if minutes < 120 else f"{int(hours)} h {int(minutes % 60)} min"


def magnitude(value: float | None) -> str:
    """12.3k, 4.5M: for counts such as tokens."""
    if value is None:
        return "–"
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.0f}"


# ----------------------------------------------------------------------------------------------------------- pieces


class Html(str):
    """Markup made here, as opposed to text that still has to be escaped."""

    __slots__ = ()


def cell(value: object) -> str:
    return value if isinstance(value, Html) else escape(str(value))


def estimate_cell(estimate: Estimate | None, digits: int) -> Html:
    if estimate is None:
        return Html("–")
    return Html(f'{fixed(estimate.value, digits)} <span class="interval">{interval(estimate, digits)}</span>')


def header(title: str, eyebrow: str, result: Html, facts: Mapping[str, object], links: Mapping[str, str]) -> str:
    known = {name: value for name, value in facts.items() if value not in (None, "")}
    shown = "".join(f"<div><dt>{escape(name)}</dt><dd>{cell(value)}</dd></div>" for name, value in known.items())
    jumps = "".join(f'<a href="#{place}">{escape(name)}</a>' for place, name in links.items())
    return (
        f'<header class="top"><p class="eyebrow">{escape(eyebrow)}</p><h1>{escape(title)}</h1>'
        f'<p class="result">{result}</p><dl class="facts">{shown}</dl>'
        f'<nav aria-label="Sections">{jumps}</nav></header>'
    )


def section(place: str, title: str, content: str, *, lead: str = "") -> str:
    lead = f'<p class="lead">{escape(lead)}</p>' if lead else ""
    heading = f'<h2 id="{place}-title">{escape(title)}</h2>'
    return f'<section id="{place}" aria-labelledby="{place}-title">{heading}{lead}{content}</section>'


def block(title: str, figures: Sequence[str]) -> str:
    """Figures under a small heading, as wide as they need: several short blocks share a line."""
    figures = [figure for figure in figures if figure]
    if not figures:
        return ""
    width = min(len(figures), 3)
    return f'<div class="block n{width}"><h3>{escape(title)}</h3>{"".join(figures)}</div>'


def blocks(content: Iterable[str]) -> str:
    joined = "".join(content)
    return f'<div class="blocks">{joined}</div>' if joined else ""


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, text_columns: int = 1) -> str:
    """The first column names the row; columns from `text_columns` on hold numbers and are aligned right."""

    def kind(i: int) -> str:
        return ' class="num"' if i >= text_columns else ""

    def line(first: object, *others: object) -> str:
        cells = "".join(f"<td{kind(i)}>{cell(value)}</td>" for i, value in enumerate(others, start=1))
        return f'<tr><th scope="row">{cell(first)}</th>{cells}</tr>'

    top = "".join(f'<th scope="col"{kind(i)}>{escape(name)}</th>' for i, name in enumerate(head))
    body = "".join(line(*row) for row in rows)
    scroll = '<div class="scroll" tabindex="0" role="region" aria-label="Table">'
    return f"{scroll}<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"


def keys(values: Mapping[str, object]) -> str:
    rows = "".join(f'<tr><th scope="row">{escape(k)}</th><td>{cell(plain(v))}</td></tr>' for k, v in values.items())
    return f'<div class="scroll"><table class="keys"><tbody>{rows}</tbody></table></div>'


def plain(value: object) -> str:
    """A config value as YAML writes it, on one line."""
    if isinstance(value, Html):
        return value
    if value is None or isinstance(value, bool | list | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def folded(summary: str, content: str, *, is_open: bool = False) -> str:
    return f"<details{' open' if is_open else ''}><summary>{escape(summary)}</summary>{content}</details>"


def command(text: str) -> str:
    return f'<div class="command"><pre>{escape(text)}</pre><button type="button">Copy</button></div>'


def notes(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="notes">{items}</ul>' if items else ""


def advice(rows: Iterable[Mapping[str, Any]]) -> str:
    items = []
    for row in rows:
        level = str(row.get("level") or "info").lower()
        where = f'<span class="where">step {escape(str(row["step"]))}</span>' if row.get("step") is not None else ""
        tone = level if level in ("info", "warning", "error") else "info"
        text = escape(str(row.get("text") or ""))
        items.append(f'<li class="{tone}"><b>{escape(level.capitalize())}</b> {where}{text}</li>')
    return f'<ul class="advice">{"".join(items)}</ul>'


def swatch(index: int) -> Html:
    """A short line as the chart draws it: colour and dashes."""
    colour = f"var(--series-{index % len(charts.SERIES['light'])})"
    dash = " ".join(map(str, charts.DASHES[charts.dash_of(index)]))
    line = f'<line x1="1" x2="23" y1="5" y2="5" style="stroke: {colour}" stroke-width="3" stroke-dasharray="{dash}"/>'
    return Html(f'<svg class="swatch" width="24" height="10" aria-hidden="true">{line}</svg>')


def legend(labels: Sequence[str]) -> str:
    """Buttons that bring out one series in all charts of the page."""
    button = '<button type="button" aria-pressed="false" data-series="{name}">{swatch}{name}</button>'
    items = "".join(f"<li>{button.format(name=escape(label), swatch=swatch(i))}</li>" for i, label in enumerate(labels))
    return f'<ul class="legend" aria-label="Series: press one to bring it out">{items}</ul>'


# ---------------------------------------------------------------------------------------------------------- samples

TAG = re.compile(r"&lt;/?[A-Za-z_|][\w|:.-]*/?&gt;")
SPACES = re.compile(r" +(?=\n|$)|^ +|(?<=\n) +| {2,}")


def written(text: str) -> str:
    """Text as the model wrote it: markup escaped, tags brought out, white space that would not be seen drawn."""
    cut = len(text) - LONGEST_TEXT
    text = text[:LONGEST_TEXT]
    spaced = SPACES.sub(lambda m: "\x00" * len(m[0]), text.replace("\x00", "\ufffd"))
    markup = TAG.sub(lambda m: f'<span class="tag">{m[0]}</span>', escape(spaced))
    markup = markup.replace("\x00", '<span class="sp"> </span>').replace("\t", '<span class="tab">\t</span>')
    markup = markup.replace("\n", '<span class="nl"></span>\n')
    return markup + (f'<span class="interval"> … {cut:,} characters more in samples.jsonl</span>' if cut > 0 else "")


def samples(columns: Mapping[int, Sequence[Mapping[str, Any]]]) -> str:
    """Samples of each step, a column a step."""
    shown = "".join(
        f'<div class="column"><h3>Step {step}</h3>{"".join(map(_sample, rows))}</div>' for step, rows in columns.items()
    )
    return f'<div class="samples">{shown}</div>'


def _sample(row: Mapping[str, Any]) -> str:
    prompt, completion = (written(str(row.get(key) or "")) for key in ("prompt", "completion"))
    return (
        f'<article><h4>Prompt</h4><pre class="prompt" tabindex="0">{prompt}</pre>'
        f'<h4>Completion</h4><pre tabindex="0">{completion or NOTHING}</pre>{_chips(row)}</article>'
    )


def _chips(row: Mapping[str, Any]) -> str:
    rewards = row.get("reward")
    rewards = rewards if isinstance(rewards, dict) else {"reward": rewards} if is_number(rewards) else {}
    chips = []
    if row.get("answer") not in (None, ""):
        chips.append(f'<li class="answer">answer: {escape(str(row["answer"])[:200])}</li>')
    for name, value in rewards.items():
        tone = "" if not is_number(value) or value == 0 else "up" if value > 0 else "down"
        chips.append(f'<li class="{tone}">{escape(str(name))} {number(value)}</li>')
    if row.get("total") is not None:
        chips.append(f'<li class="total">total {number(row["total"])}</li>')
    return f'<ul class="chips" aria-label="Rewards">{"".join(chips)}</ul>' if chips else ""
