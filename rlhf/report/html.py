"""The pieces of a report as HTML. Every value enters through `markup`, which escapes whatever is not `Html`.

So whatever a run directory holds stays text, and a value that was not marked as HTML is shown, never executed.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from rlhf.atomic import write_whole
from rlhf.config.paths import refuse_strangers
from rlhf.report import charts
from rlhf.report.numbers import fixed, interval, number
from rlhf.report.runs import is_number
from rlhf.statistics import Estimate

MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'Liberation Mono', monospace"

PALETTE = {
    "light": {"page": "#f8f8f7", "panel": "#ffffff", "line": "#e0e1e2", "faint": "#b9bec6"}
    | {"good": "#00704f", "warn": "#a86400", "bad": "#b3382c"},
    "dark": {"page": "#121418", "panel": "#191c21", "line": "#2e333b", "faint": "#565e6a"}
    | {"good": "#4cc79c", "warn": "#e0a83c", "bad": "#ff8a7a"},
}

LONGEST_TEXT = 4000  # characters of a prompt or completion that are shown

TEMPLATE = Path(__file__).with_name("page.html")
BEGINNING = TEMPLATE.read_text("utf-8").partition("<title>")[0]  # every page of ours begins so


class Html(str):
    """Markup made by this module; any other text still has to be escaped."""

    __slots__ = ()


def cell(value: object) -> Html:
    """A value escaped for use between tags and in quoted attributes."""
    return value if isinstance(value, Html) else Html(escape(str(value)))


def markup(template: str, **values: object) -> Html:
    """The template with its {names} filled in. Values are escaped unless they are `Html`."""
    return Html(template.format(**{name: cell(value) for name, value in values.items()}))


def together(parts: Iterable[object], between: str = "") -> Html:
    return Html(between.join(map(cell, parts)))


NOTHING = Html('<span class="interval">(nothing)</span>')


class Page:
    """A page under construction. It collects chart specs, which the script in the template draws in the browser."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.body: list[Html] = []
        self.specs: dict[str, charts.Spec] = {}

    def add(self, *parts: Html) -> None:
        self.body.extend(map(cell, parts))

    def figure(
        self, title: str, spec: charts.Spec, *, alt: str, note: str = "", unit: str = "", last: str = ""
    ) -> Html:
        """A chart with a heading, the last value, a note on what is measured, and `alt` text for screen readers."""
        place = f"chart-{len(self.specs)}"
        self.specs[place] = spec
        return markup(
            "<figure><figcaption><h4>{title}{unit}</h4>{last}{note}</figcaption>"
            '<div class="chart" id="{place}" role="img" aria-label="{alt}" style="min-height: {height}px"></div>'
            "</figure>",
            title=title,
            unit=markup(' <span class="unit">{unit}</span>', unit=unit) if unit else "",
            last=markup('<span class="last">{last}</span>', last=last) if last else "",
            note=markup("<p>{note}</p>", note=note) if note else "",
            place=place,
            alt=alt,
            height=spec["height"] + 30,  # so that nothing jumps when the chart is drawn
        )

    def html(self) -> str:
        template = Template(TEMPLATE.read_text(encoding="utf-8"))
        themes = {scheme: charts.theme(scheme) for scheme in ("light", "dark")}
        return template.substitute(
            title=escape(self.title),
            colours=_colours(),
            sans=charts.SANS,
            mono=MONO,
            body=together(self.body, "\n"),
            data=script_json({"charts": self.specs, "themes": themes}),
            bundle=charts.javascript().replace("</script", "<\\/script") if self.specs else "",
        )

    def write(self, output: Path) -> Path:
        """Write the page, or leave `output` as it was.

        Raises:
            UserError: `output` exists and is no page of ours.
        """
        refuse_strangers(output, BEGINNING.encode(), "page of this project")
        write_whole(output, self.html().encode("utf-8", "replace"), shared=True)  # half an emoji has no UTF-8
        return output


def script_json(value: Any) -> str:
    """JSON for a script element, escaped so that it can neither end the element nor open a comment."""
    text = json.dumps(charts.finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
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


# ----------------------------------------------------------------------------------------------------------- pieces


def estimate_cell(estimate: Estimate | None, digits: int) -> Html:
    if estimate is None:
        return Html("–")
    value, between = fixed(estimate.value, digits), interval(estimate, digits)
    return markup('{value} <span class="interval">{between}</span>', value=value, between=between)


def header(title: str, eyebrow: str, result: Html, facts: Mapping[str, object], links: Mapping[str, str]) -> Html:
    known = {name: value for name, value in facts.items() if value not in (None, "")}
    return markup(
        '<header class="top"><p class="eyebrow">{eyebrow}</p><h1>{title}</h1><p class="result">{result}</p>'
        '<dl class="facts">{shown}</dl><nav aria-label="Sections">{jumps}</nav></header>',
        eyebrow=eyebrow,
        title=title,
        result=result,
        shown=together(markup("<div><dt>{n}</dt><dd>{v}</dd></div>", n=name, v=value) for name, value in known.items()),
        jumps=together(markup('<a href="#{place}">{name}</a>', place=place, name=n) for place, n in links.items()),
    )


def section(place: str, title: str, content: Html, *, lead: str = "") -> Html:
    return markup(
        '<section id="{place}" aria-labelledby="{place}-title"><h2 id="{place}-title">{title}</h2>{lead}{content}'
        "</section>",
        place=place,
        title=title,
        lead=markup('<p class="lead">{lead}</p>', lead=lead) if lead else "",
        content=content,
    )


def bracket(interval: str) -> Html:
    """An interval behind its value; nothing where there is none."""
    return markup(' <span class="interval">{interval}</span>', interval=interval) if interval else Html()


def heading(title: str) -> Html:
    return markup("<h3>{title}</h3>", title=title)


def wide(figures: Iterable[Html]) -> Html:
    return markup('<div class="wide">{figures}</div>', figures=together(figures))


def block(title: str, figures: Sequence[Html]) -> Html:
    """Figures under a small heading. Blocks are as wide as their figures, so several short ones share a line."""
    figures = [figure for figure in figures if figure]
    if not figures:
        return Html()
    inside = together([heading(title), *figures])
    return markup('<div class="block n{width}">{inside}</div>', width=min(len(figures), 3), inside=inside)


def blocks(content: Iterable[Html]) -> Html:
    joined = together(content)
    return markup('<div class="blocks">{joined}</div>', joined=joined) if joined else Html()


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, text_columns: int = 1) -> Html:
    """The first column names the row; columns from `text_columns` on hold numbers and are aligned right."""

    def kind(i: int) -> Html:
        return Html(' class="num"' if i >= text_columns else "")

    def line(first: object, *others: object) -> Html:
        cells = together(markup("<td{kind}>{v}</td>", kind=kind(i), v=v) for i, v in enumerate(others, start=1))
        return markup('<tr><th scope="row">{first}</th>{cells}</tr>', first=first, cells=cells)

    return markup(
        '<div class="scroll" tabindex="0" role="region" aria-label="Table"><table><thead><tr>{top}</tr></thead>'
        "<tbody>{body}</tbody></table></div>",
        top=together(markup('<th scope="col"{kind}>{v}</th>', kind=kind(i), v=v) for i, v in enumerate(head)),
        body=together(line(*row) for row in rows),
    )


def keys(values: Mapping[str, object]) -> Html:
    rows = together(
        markup('<tr><th scope="row">{name}</th><td>{v}</td></tr>', name=k, v=plain(v)) for k, v in values.items()
    )
    return markup('<div class="scroll"><table class="keys"><tbody>{rows}</tbody></table></div>', rows=rows)


def plain(value: object) -> str:
    """A config value as YAML writes it, on one line."""
    if value is None or isinstance(value, bool | list | dict):
        try:
            return json.dumps(value, ensure_ascii=False, default=str)
        except (ValueError, TypeError, RecursionError):  # contains itself, has a key that is no text, or is too deep
            return f"({type(value).__name__} that cannot be shown)"
    return value if isinstance(value, str) else str(value)


def folded(summary: str, content: Html) -> Html:
    return markup("<details><summary>{summary}</summary>{content}</details>", summary=summary, content=content)


def command(text: str) -> Html:
    return markup('<div class="command"><pre>{text}</pre><button type="button">Copy</button></div>', text=text)


def notes(lines: Iterable[str]) -> Html:
    items = together(markup("<li>{line}</li>", line=line) for line in lines)
    return markup('<ul class="notes">{items}</ul>', items=items) if items else Html()


def footer(lines: Iterable[str], said: Iterable[str]) -> Html:
    first = together(markup("<div>{line}</div>", line=line) for line in lines)
    return markup("<footer>{first}{notes}</footer>", first=first, notes=notes(said))


def advice(rows: Iterable[Mapping[str, Any]]) -> Html:
    items = []
    for row in rows:
        level = str(row.get("level") or "info").lower()
        step = row.get("step")
        item = markup(
            '<li class="{tone}"><b>{level}</b> {where}{text}</li>',
            tone=level if level in ("info", "warning", "error") else "info",
            level=level.capitalize(),
            where="" if step is None else markup('<span class="where">step {step}</span>', step=step),
            text=row.get("text") or "",
        )
        items.append(item)
    return markup('<ul class="advice">{items}</ul>', items=together(items))


def swatch(index: int) -> Html:
    """A short line in the colour and dashes of the chart."""
    return markup(
        '<svg class="swatch" width="24" height="10" aria-hidden="true"><line x1="1" x2="23" y1="5" y2="5" '
        'style="stroke: var(--series-{colour})" stroke-width="3" stroke-dasharray="{dash}"/></svg>',
        colour=index % len(charts.SERIES["light"]),
        dash=" ".join(map(str, charts.DASHES[charts.dash_of(index)])),
    )


def legend(labels: Sequence[str]) -> Html:
    """Buttons that highlight one series in all charts of the page."""
    button = '<li><button type="button" aria-pressed="false" data-series="{name}">{swatch}{name}</button></li>'
    items = together(markup(button, name=label, swatch=swatch(i)) for i, label in enumerate(labels))
    return markup('<ul class="legend" aria-label="Series: press one to bring it out">{items}</ul>', items=items)


# ---------------------------------------------------------------------------------------------------------- samples

TAG = re.compile(r"&lt;/?[A-Za-z_|][\w|:.-]*/?&gt;")
SPACES = re.compile(r" +(?=\n|$)|^ +|(?<=\n) +| {2,}")


def written(text: str) -> Html:
    """Text as the model wrote it: markup escaped, tags highlighted, invisible white space made visible."""
    cut = len(text) - LONGEST_TEXT
    spaced = SPACES.sub(lambda m: "\x00" * len(m[0]), text[:LONGEST_TEXT].replace("\x00", "\ufffd"))
    shown = TAG.sub(lambda m: f'<span class="tag">{m[0]}</span>', cell(spaced))
    shown = shown.replace("\x00", '<span class="sp"> </span>').replace("\t", '<span class="tab">\t</span>')
    shown = Html(shown.replace("\n", '<span class="nl"></span>\n'))
    more = '<span class="interval"> … {cut} characters more in samples.jsonl</span>'
    return together([shown, markup(more, cut=f"{cut:,}")]) if cut > 0 else shown


def samples(columns: Mapping[int, Sequence[Mapping[str, Any]]]) -> Html:
    """Samples, one column a step."""
    shown = together(
        markup('<div class="column"><h3>Step {step}</h3>{rows}</div>', step=step, rows=together(map(_sample, rows)))
        for step, rows in columns.items()
    )
    return markup('<div class="samples">{shown}</div>', shown=shown)


def _sample(row: Mapping[str, Any]) -> Html:
    prompt, completion = (written(str(row.get(key) or "")) for key in ("prompt", "completion"))
    return markup(
        '<article><h4>Prompt</h4><pre class="prompt" tabindex="0">{prompt}</pre>'
        '<h4>Completion</h4><pre tabindex="0">{completion}</pre>{chips}</article>',
        prompt=prompt,
        completion=completion or NOTHING,
        chips=_chips(row),
    )


def _chips(row: Mapping[str, Any]) -> Html:
    rewards = row.get("reward")
    rewards = rewards if isinstance(rewards, dict) else {} if rewards is None else {"reward": rewards}
    chips = []
    if row.get("answer") not in (None, ""):
        chips.append(markup('<li class="answer">answer: {answer}</li>', answer=str(row["answer"])[:200]))
    for name, value in rewards.items():
        tone = "" if not is_number(value) or value == 0 else "up" if value > 0 else "down"
        chips.append(markup('<li class="{tone}">{name} {value}</li>', tone=tone, name=name, value=number(value)))
    if row.get("total") is not None:
        chips.append(markup('<li class="total">total {total}</li>', total=number(row["total"])))
    return markup('<ul class="chips" aria-label="Rewards">{chips}</ul>', chips=together(chips)) if chips else Html()
