"""Reports: the statistics by hand, runs grouped by config, pages that hold hostile text and need no network."""

import itertools
import json
import re
import subprocess
import sys
import zlib
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import cpu_seconds_below

import rlhf.report.__main__ as command
from rlhf.errors import UserError
from rlhf.report import charts, numbers, run_page
from rlhf.report.comparison_page import write_comparison
from rlhf.report.over_seeds import group_runs, held_out_over_seeds
from rlhf.report.picture import write_png
from rlhf.report.run_page import write_report
from rlhf.report.runs import Point, Target, read_run
from rlhf.statistics import Estimate, t_interval

HOSTILE = (
    "<think>\n  two  spaces\n</think>\n</script><script>alert(1)</script><!-- <img src=https://x.test/a.png> & \u2028"
)


def jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """A run that gets better; `final` is its last held-out accuracy, other keys go into its config."""

    def make(name: str = "run", *, final: float = 0.8, steps: int = 20, **config: Any) -> Path:
        run = tmp_path / name
        run.mkdir()
        settings = {"algorithm": "grpo", "lr": 1e-5, "seed": 0, "output_dir": str(run)} | config
        (run / "config.yaml").write_text(yaml.safe_dump(settings))
        documented = {"reward/mean": {"description": "Mean reward <b>", "unit": "points"}}
        provenance = {"command": "uv run train --x '<a>'", "git_commit": "abc", "title": "GRPO on words", "seed": 0}
        (run / "provenance.json").write_text(json.dumps(provenance | {"metrics": documented, "headline": ["loss"]}))
        rows: list[dict[str, Any]] = [
            {"step": s, "wall_s": 2.0 * s, "loss": 1 / s, "reward/mean": s / steps} for s in range(1, steps + 1)
        ]
        for row in rows:
            row.update({"speed/tokens_per_s": 100.0, "policy/kl": None})
        jsonl(run / "metrics.jsonl", rows)
        curve = {0: 0.2, steps // 2: (0.2 + final) / 2, steps: final}
        base = {"data": "words", "metric": "accuracy", "n": 100}
        jsonl(
            run / "eval.jsonl",
            [base | {"step": s, "value": v, "low": v - 0.1, "high": v + 0.1} for s, v in curve.items()],
        )
        sample = {"prompt": "Spell it", "completion": HOSTILE, "answer": "<b>", "reward": {"exact": 1.0}, "total": 1.0}
        jsonl(run / "samples.jsonl", [sample | {"step": 0}, sample | {"step": steps}])
        return run

    return make


# ---------------------------------------------------------------------------------------------------------- reading


def test_tokens_are_speed_times_time(make_run: Callable[..., Path]) -> None:
    """100 tokens a second for 2 s a step, 20 steps."""
    run = read_run(make_run())
    assert run.tokens == pytest.approx(4000)
    assert run.seconds == 40


# --------------------------------------------------------------------------------------------------------- grouping


def test_runs_that_differ_only_in_seed_are_one_group(make_run: Callable[..., Path]) -> None:
    finals = {"a0": 0.7, "a1": 0.8, "a2": 0.9}
    paths = [make_run(name, final=v, seed=i, wandb_run_name=name) for i, (name, v) in enumerate(finals.items())]
    paths.append(make_run("b0", algorithm="rloo", clip=0.2))
    groups = group_runs([read_run(path) for path in paths])
    assert [(group.label, len(group.runs)) for group in groups] == [("grpo", 3), ("rloo", 1)]
    last = held_out_over_seeds(groups[0], Target("words", "accuracy"))[-1]
    assert last.step == 20
    assert last.estimate == t_interval([0.7, 0.8, 0.9])
    # A single run keeps the interval over its problems.
    alone = held_out_over_seeds(groups[1], Target("words", "accuracy"))[-1]
    assert alone == Point(20, Estimate(0.8, 0.8 - 0.1, 0.8 + 0.1, 100))


def test_unknown_label_key(make_run: Callable[..., Path]) -> None:
    with pytest.raises(UserError) as error:
        write_comparison([make_run()], Path("unused.html"), "algoritm")
    assert "algorithm" in str(error.value.hint)


# ------------------------------------------------------------------------------------------------------------ pages


class Outline(HTMLParser):
    """Every element with its attributes, and the text inside each script and pre, as a browser would split them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "pre", "style"):
            self._open.append(tag)
            self.text.append((tag, ""))

    def handle_endtag(self, tag: str) -> None:
        if self._open and self._open[-1] == tag:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open:
            tag, before = self.text[-1]
            self.text[-1] = (tag, before + data)


@pytest.fixture
def one_page(make_run: Callable[..., Path]) -> str:
    written = write_report(make_run())
    assert written.name == "report.html"
    return written.read_text()


@pytest.fixture
def two_pages(one_page: str, make_run: Callable[..., Path], tmp_path: Path) -> list[str]:
    runs = [make_run("<b>&", algorithm="</script><script>alert(1)</script>", seed=1), make_run("c", seed=2)]
    return [one_page, write_comparison(runs, tmp_path / "comparison.html").read_text()]


def test_hostile_samples_stay_text(one_page: str) -> None:
    outline = Outline(one_page)
    shown = [text for tag, text in outline.text if tag == "pre"]
    assert shown.count(HOSTILE) == 2, "escaped, and with its white space as it was"
    assert "<think>" not in one_page
    assert "&lt;think&gt;" in one_page
    assert not any(tag == "img" for tag, _ in outline.elements)


def test_nothing_breaks_out_of_the_scripts(two_pages: list[str]) -> None:
    for html in two_pages:
        scripts = [text for tag, text in Outline(html).text if tag == "script"]
        assert len(scripts) == 3, "the data, the libraries, the page's own"
        data = json.loads(scripts[0])
        assert data["charts"]
        assert set(data["themes"]) == {"light", "dark"}
        assert "<" not in scripts[0]
        assert "alert(1)" not in scripts[1] + scripts[2]


def test_no_requests(two_pages: list[str]) -> None:
    for html in two_pages:
        outline = Outline(html)
        for tag, attributes in outline.elements:
            assert tag not in ("link", "img", "iframe", "object", "embed", "base")
            assert "src" not in attributes
            assert (attributes.get("href") or "#").startswith("#")
        styles = "".join(text for tag, text in outline.text if tag == "style")
        assert "@import" not in styles
        assert not re.search(r"url\(|https?://", styles)
        policy = next(a["content"] for _, a in outline.elements if a.get("http-equiv") == "Content-Security-Policy")
        assert (policy or "").startswith("default-src 'none'")
        assert len(html) < 1_500_000


def test_every_chart_has_a_place_and_a_description(two_pages: list[str]) -> None:
    for html in two_pages:
        outline = Outline(html)
        specs = json.loads(next(text for tag, text in outline.text if tag == "script"))["charts"]
        places = {a["id"]: a for _, a in outline.elements if (a.get("id") or "").startswith("chart-")}
        assert set(places) == set(specs)
        assert all(a.get("aria-label") for a in places.values())
        levels = [int(tag[1]) for tag, _ in outline.elements if re.fullmatch(r"h[1-4]", tag)]
        assert levels[0] == 1
        assert all(after - before <= 2 for before, after in itertools.pairwise(levels))


def test_result_sentence_and_what_is_documented(one_page: str) -> None:
    assert "Held-out accuracy on words <b>0.20 → 0.80</b>" not in one_page, "the title already says on what"
    assert "Held-out accuracy <b>0.20 → 0.80</b>" in one_page
    assert "[0.70, 0.90]" in one_page
    assert "after 20 steps in 40 s" in one_page
    assert "Mean reward &lt;b&gt;" in one_page
    assert "Logged without a value: policy/kl." in one_page
    assert "uv run train --x &#x27;&lt;a&gt;&#x27;" in one_page


def test_vega_lite_accepts_every_spec(make_run: Callable[..., Path]) -> None:
    """vl-convert compiles with the same Vega-Lite that the page uses."""
    import vl_convert

    page = run_page._report(read_run(make_run()))
    page.specs["many"] = charts.curves(
        [{"g": str(i), "s": 1, "v": 0.5, "l": -1, "h": 1} for i in range(13)], list("ab")
    )
    for spec in page.specs.values():
        assert vl_convert.vegalite_to_vega(spec, config=charts.theme("dark"))["marks"]


def test_tooltips_find_the_row_inside_the_nearest_marker() -> None:
    """Vega-Lite's own tooltips show `undefined` for text fields there."""
    import vl_convert

    rows = [{"g": g, "s": s, "v": 0.5, "l": 0.4, "h": 0.6, "n": "3 seeds"} for g in "ab" for s in (0, 1)]
    for spec in (charts.curves(rows, ["a", "b"]), charts.training([{"s": 1, "v": 2, "m": 3}], unit="nats")):
        compiled = json.dumps(vl_convert.vegalite_to_vega(spec))
        tooltips = re.findall(r'"tooltip": {"signal": "({.*?})"}', compiled)
        assert len(tooltips) == 2, "one of the marker, one of the area in which it is the nearest"
        assert all("datum" not in text.replace("(datum.datum || datum).", "") for text in tooltips)


def test_comparison_table(make_run: Callable[..., Path], tmp_path: Path) -> None:
    """0.7, 0.8, 0.9 over three seeds of 100 problems each: 0.80 [0.55, 1.05], pooled n 300. Mean height of the curve
    0.2, (0.2+f)/2, f is (0.2+f)/2: 0.45, 0.5, 0.55, so 0.50 with half the interval, [0.38, 0.62].
    """
    runs = [make_run(f"r{i}", final=final, seed=i) for i, final in enumerate((0.7, 0.8, 0.9))]
    html = write_comparison(runs, tmp_path / "deep" / "c.html").read_text()
    text = re.sub(r"<[^>]+>", "|", html)
    row = re.sub(r"[|\s]+", " ", text[text.index("grpo", text.index("pooled")) :])
    assert row.startswith("grpo 3 0.80 [0.55, 1.05] 300 20 0.50 [0.38, 0.62] – 40 s 4k")


# ------------------------------------------------------------------------------------------------------ broken runs


def test_a_cut_off_last_line_is_left_out_and_said(make_run: Callable[..., Path]) -> None:
    run = make_run()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 21, "lo')
    read = read_run(run)
    assert read.last_step == 20
    assert read.notes == ["The last line of metrics.jsonl is cut off and was left out."]
    assert read.notes[0] in write_report(run).read_text()


@pytest.mark.parametrize("missing", ["config.yaml", "provenance.json", "metrics.jsonl", "samples.jsonl", "eval.jsonl"])
def test_missing_files(make_run: Callable[..., Path], tmp_path: Path, missing: str) -> None:
    run, whole = make_run(), make_run("whole")
    (run / missing).unlink()
    assert f"{missing} is missing." in write_report(run).read_text()
    assert write_comparison([run, whole], tmp_path / "c.html").stat().st_size > 10_000


@pytest.mark.parametrize("only", ["config.yaml", "provenance.json", "metrics.jsonl", "samples.jsonl", "eval.jsonl"])
def test_nearly_everything_missing(make_run: Callable[..., Path], tmp_path: Path, only: str) -> None:
    run = make_run()
    for path in run.iterdir():
        if path.name != only:
            path.unlink()
    assert "<h1>" in write_report(run).read_text()
    assert "<h1>" in write_comparison([run], tmp_path / "c.html").read_text()


@pytest.mark.parametrize(
    "text", ["", "null", "[1, 2]", '"x"', "{\x00", "a: [", '{"title": null, "metrics": 3, "host": 1}']
)
def test_odd_contents(make_run: Callable[..., Path], text: str) -> None:
    run = make_run()
    for path in run.iterdir():
        path.write_text(text)
    assert "<h1>" in write_report(run).read_text()


def test_odd_rows(make_run: Callable[..., Path]) -> None:
    """Values that JSON or the contract would not have: none may reach a chart or stop the report."""
    run = make_run()
    jsonl(
        run / "metrics.jsonl", [{"step": 1, "a": float("nan"), "b": "x", "c": True, "d": 1}, {"step": None}, {"x": 1}]
    )
    jsonl(run / "eval.jsonl", [{"step": 1, "value": float("inf")}, {"step": 1, "value": 3, "low": None}])
    jsonl(run / "samples.jsonl", [{"step": 1}, {"step": 2, "reward": 0.5, "prompt": None, "completion": 3}])
    jsonl(run / "advice.jsonl", [{"text": "<i>"}, {"level": "odd", "step": 3}])
    read = read_run(run)
    assert read.metric_names() == ["d"]
    assert read.unmeasured() == ["a", "b", "c"]
    assert "&lt;i&gt;" in write_report(run).read_text()


def test_a_step_logged_twice_counts_once(make_run: Callable[..., Path]) -> None:
    run = make_run()
    jsonl(run / "metrics.jsonl", [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 5.0}, {"step": 2, "loss": 2.0}])
    assert read_run(run).series("loss")[1].tolist() == [1.0, 2.0]


# -------------------------------------------------------------------------------------------------------------- CLI


def test_a_packed_png_has_the_same_pixels_in_fewer_bytes() -> None:
    """8 x 8 pixels of one grey byte each, with a filter byte before each row, in two chunks that were stored as is."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4) + name + content + zlib.crc32(name + content).to_bytes(4)

    stored = zlib.compress(bytes(72), 0)
    head = chunk(b"IHDR", bytes([0, 0, 0, 8, 0, 0, 0, 8, 8, 0, 0, 0, 0]))
    picture = (
        b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", stored[:40]) + chunk(b"IDAT", stored[40:]) + chunk(b"IEND", b"")
    )
    packed = charts.packed(picture)
    assert packed == b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(72), 6)) + chunk(b"IEND", b"")
    assert len(packed) < len(picture)


def test_png(make_run: Callable[..., Path], tmp_path: Path) -> None:
    runs = [make_run("a"), make_run("b", algorithm="rloo", final=0.6)]
    for chosen in (runs[:1], runs):
        picture = write_png(chosen, tmp_path / f"{len(chosen)}.png").read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert len(picture) > 10_000
        assert int.from_bytes(picture[16:20]) > 1200, "wide enough for a README on a sharp screen"


def test_cli(make_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, other = make_run(), make_run("other", algorithm="rloo")
    assert command.main([str(run)]) == 0
    assert (run / "report.html").exists()
    page, picture = tmp_path / "out" / "c.html", tmp_path / "out" / "c.png"
    assert (
        command.main([str(run), str(other), "--output", str(page), "--png", str(picture), "--label", "algorithm,lr"])
        == 0
    )
    assert capsys.readouterr().out.split() == [str(run / "report.html"), str(page), str(picture)]
    assert "algorithm=rloo, lr=1e-05" in page.read_text()
    assert [p.name for p in page.parent.iterdir() if p.name.startswith(".")] == []


def test_cli_says_what_is_wrong(
    make_run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run("grpo")
    for arguments, said in (
        ([str(tmp_path / "nowhere")], "no such run directory"),
        ([str(tmp_path)], "it contains runs: grpo"),
        ([str(run / "config.yaml")], "is a file"),
        ([str(run), str(tmp_path / "nowhere")], "no such run directory"),
        ([str(run), "--label", "lrr"], "did you mean 'lr'"),
    ):
        assert command.main(arguments) == 2
        error = capsys.readouterr().err
        assert said in error
        assert "Traceback" not in error


def test_help_is_quick_and_needs_no_torch() -> None:
    code = "import sys; import rlhf.report.__main__; print(sorted({'torch', 'vl_convert', 'scipy'} & set(sys.modules)))"
    with cpu_seconds_below(2):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.12345, "0.123"),
        (-2.5, "−2.5"),
        (12345.6, "12,346"),
        (1e-5, "1.0e-5"),
        (None, "–"),
        (True, "True"),
    ],
)
def test_numbers(value: object, text: str) -> None:
    assert numbers.number(value) == text


def test_durations() -> None:
    assert [numbers.duration(s) for s in (None, 1.23, 74, 600, 12_000)] == [
        "–",
        "1.2 s",
        "74 s",
        "10 min",
        "3 h 20 min",
    ]
