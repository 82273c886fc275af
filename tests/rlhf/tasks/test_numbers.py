"""Numbers are read as the number that was said, or not at all."""

from fractions import Fraction
from random import Random

import pytest

from rlhf.tasks.extraction import extract_answer
from rlhf.tasks.matching import MATCHES
from rlhf.tasks.numbers import last_number, read_number, write_number
from rlhf.tasks.problem import Problem
from rlhf.tasks.prompts import Prompts


def fraction(number: int | str | None) -> Fraction | None:
    return None if number is None else Fraction(number)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("42", 42),
        ("\\sqrt 9", None),
        ("√ 9", None),
        ("log 100", None),
        ("5 squared", None),
        ("2 thirds", None),
        ("4 dozen", 48),
        ("5 hundred thousand", 500000),
        ("5 bn", None),
        ("5b", None),
        ("0.333...", None),
        ("0.3…", None),
        ("5...", 5),
        ("1/2", "1/2"),
        (".5", "1/2"),
        ("-.5", "-1/2"),
        ("−3", -3),
        ("15 dollars", 15),
        ("42%", 42),
        ("$1,000.50", "2001/2"),
        ("1,234", 1234),
        ("1,2", None),
        ("1, 2", None),
        ("1e3", 1000),
        ("\\frac{1}{2}", "1/2"),
        ("$\\frac{1}{2}$", "1/2"),
        ("-\\frac{1}{2}", "-1/2"),
        ("\\boxed{-\\frac{1}{2}}", "-1/2"),
        ("\\boxed{42}", 42),
        ("12{,}500", 12500),
        ("\\boxed{12{,}500}", 12500),
        ("\\$42", 42),
        ("42.", 42),
        ("1 1/2", "3/2"),
        ("-1 1/2", "-3/2"),
        ("2020-01-02", None),
        ("1/2/2020", None),
        ("3-4", None),
        ("3 - 4", None),
        ("3–4", None),
        ("€5", 5),
        ("5€", 5),
        ("-$5", -5),
        ("$-5", -5),
        ("5kg", 5),
        ("5 kg", 5),
        ("42km/h", 42),
        ("5 m^2", 5),
        ("½", "1/2"),
        ("1½", "3/2"),
        ("5²", None),
        ("10^3", None),
        ("1.5 × 10^3", 1500),
        ("1.5\\times 10^{3}", 1500),
        ("3 million", 3000000),
        ("3 to 4", None),
        ("1 000", None),
        ("1\u202f000", 1000),
        ("1\\,000", 1000),
        ("10:30", None),
        ("1.2.3", None),
        ("1.234,56", None),
        ("x2", None),
        ("2x", None),
        ("3rd", None),
        ("5k", None),
        ("0x10", None),
        ("nan", None),
        ("inf", None),
        ("", None),
        ("junk", None),
        ("1e999999", None),
        ("1/0", None),
        ("minus 3", -3),
        ("negative 3", -3),
        ("**42**", 42),
        ("**42**.", 42),
        ("(42).", 42),
        ('"42".', 42),
        ("(42)", 42),
        ("42!", 42),
        ("+5", 5),
        ("--5", None),
        ("1_000", None),
        ("３", 3),
        ("٣", 3),
        ("1 / 2", "1/2"),
        ("3 and 1/2", "7/2"),
        ("3 and a half", "7/2"),
        ("1,000,000", 1000000),
        ("12,34", None),
        ("0,5", None),
        ("1,2345", None),
        ("#### 18", 18),
        ("42 or 43", None),
        ("<b>42</b>", 42),
        ("42°", 42),
        ("42^\\circ", 42),
        ("\\text{42 cm}", 42),
        ("42\\text{ cm}", 42),
        ("4 2/4", "9/2"),
        ("US$5", 5),
        ("2\\pi", None),
        ("\\sqrt{2}", None),
        ("3/4 cup", "3/4"),
        ("1\\frac{1}{2}", "3/2"),
        ("-1\\frac{1}{2}", "-3/2"),
        ("\\frac12", "1/2"),
        ("18.0", 18),
        ("1e-05", "1/100000"),
        ("1.0e3", 1000),
        ("$42$", 42),
        ("\\(42\\)", 42),
        ("\\dfrac{3}{4}", "3/4"),
        ("5 - 3", None),
        ("- 3", None),
        ("≥5", None),
        ("5!", 5),
        ("9" * 500, None),
    ],
)
def test_a_text_is_the_number_it_says_or_none(text: str, number: int | str | None) -> None:
    assert read_number(text) == fraction(number)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 1/2", "1/2"),
        ("The answer is .5", "1/2"),
        ("2+3=5", 5),
        ("2 + 3 = 5", 5),
        ("so 2+3", None),
        ("It is 7, 0", None),
        ("It is 6000, no: $7000.00", 7000),
        ("On day 3, 42 apples", 42),
        ("x = 5.", 5),
        ("48+24 = <<48+24=72>>72 clips.\n#### 72", 72),
        ("Answer:42", 42),
        ("<think>3</think><answer>42</answer>", 42),
        ("**Answer: 42**", 42),
        ("it is—42", 42),
        ("He pays $5/hour", 5),
        ("from 3 to 4", None),
        ("I got 12.\nFinal: 1,2", None),
        ("1. two\n2. answer 7", 7),
        ("is 3 < 5", None),
        ("7 - 3 = 4 dollars", 4),
        ("no number", None),
        ("COVID-19", None),
        ("It is **42**.", 42),
        ("It is (42).", 42),
        ("It is 0.333...**", None),
        ("= - 3", None),
        ("The answer is 18\n", 18),
        ("5 apples - as shown", 5),
        ("42 - as shown", 42),
        ("3 + x", None),
        ("10 * 5 = 50%", 50),
        ("so 1018", 1018),
        ("$1,018.", 1018),
        ("1018.0", 1018),
        ("-2 and -3", -3),
    ],
)
def test_the_last_number_of_a_text(text: str, number: int | str | None) -> None:
    assert last_number(text) == fraction(number)


DRESSES = [
    *(
        "{}",
        "{}.",
        "**{}**",
        "${}$",
        "\\boxed{{{}}}",
        "The answer is {}",
        "x = {}",
        "2 + 3 = {}",
        "#### {}",
        "<b>{}</b>",
    ),
    *("Answer:{}", "({})", "{} apples", "{}%", "\u201c{}\u201d", "\\text{{{} cm}}", "\\({}\\)", "so it is\n{}\n"),
]


def test_every_way_of_writing_a_number_gives_that_number() -> None:
    """Drawn numbers, written in different ways and put into different sentences: the same number comes back."""
    rng = Random(0)
    for _ in range(1500):
        whole, cents = rng.randrange(10 ** rng.randint(1, 7)), rng.randrange(100)
        sign = rng.choice(["", "-", "\u2212"])
        top, bottom = rng.randint(1, 99), rng.randint(2, 99)
        written, value = rng.choice(
            [
                (f"{whole}", Fraction(whole)),
                (f"{whole:,}", Fraction(whole)),
                (f"{whole:,}".replace(",", "{,}"), Fraction(whole)),
                (f"{whole:,}.{cents:02d}", Fraction(f"{whole}.{cents:02d}")),
                (f".{cents:02d}", Fraction(cents, 100)),
                (f"{top}/{bottom}", Fraction(top, bottom)),
                (f"\\frac{{{top}}}{{{bottom}}}", Fraction(top, bottom)),
                (f"{whole}e2", Fraction(whole * 100)),
            ]
        )
        text = rng.choice(DRESSES).format(sign + written)
        assert last_number(text) == (-value if sign else value), text


BETWEEN = [
    ",",
    ", ",
    "-",
    " - ",
    "\u2013",
    ":",
    "^",
    "**",
    "*",
    " x ",
    " to ",
    " or ",
    ";",
    "..",
    " ",
    "+",
    "x",
    "\u00d7",
]


def test_no_text_made_of_two_numbers_is_one() -> None:
    """Whatever stands between two numbers, the pair is not read as one of them; fractions and thousands are apart."""
    rng = Random(1)
    for _ in range(1000):
        left, right, between = rng.randint(0, 999), rng.randint(0, 99), rng.choice(BETWEEN)
        assert read_number(f"{left}{between}{right}") is None, (left, between, right)
        assert last_number(f"The answer is {left}{between}{right}") is None, (left, between, right)


@pytest.mark.parametrize(
    ("gold", "text", "answer_in", "right"),
    [
        ("2", "The answer is 1/2", "last_number", 0),
        ("5", "The answer is .5", "last_number", 0),
        ("0.5", "The answer is .5", "last_number", 1),
        ("-3", "The answer is \u22123", "last_number", 1),
        ("3", "The answer is \u22123", "last_number", 0),
        ("12500", "\\boxed{12{,}500}", "last_number", 1),
        ("12", "<answer>1,2</answer>", "answer_tag", 0),
        ("15", "<answer>15 dollars</answer>", "answer_tag", 1),
    ],
)
def test_word_problems_are_judged_by_the_number_said(gold: str, text: str, answer_in: str, right: int) -> None:
    verdict = Prompts([], [], match=MATCHES["number"], answer_in=answer_in).verify(Problem("q", gold, {}), text)
    assert verdict is not None
    assert verdict.exact == right


def test_numbers_are_handed_on_as_they_were_written_where_that_is_plain() -> None:
    assert extract_answer("it costs 0.50", "last_number") == ("0.50", True)
    assert extract_answer("it costs $1,000.50", "last_number") == ("1000.5", True)
    assert extract_answer("it is \\frac{2}{6}", "last_number") == ("1/3", True)
    assert extract_answer("it is 3-4", "last_number") == (None, False)
    written = [write_number(Fraction(n)) for n in ("1/3", "-1/2", "5", "1/1024", "7/5")]
    assert written == ["1/3", "-0.5", "5", "0.0009765625", "1.4"]


@pytest.mark.parametrize(
    "text",
    [
        *("3 times 4", "3 plus 4", "3 over 4", "3 divided by 4", "3 multiplied by 4", "3 out of 4", "5 mod 3", "5 % 3"),
        *("5 choose 2", "2 hundred and 5", "2 thousand 5", "1 million and 5"),
    ],
)
def test_the_end_of_an_expression_in_words_is_no_number(text: str) -> None:
    assert last_number(text) is None
    assert last_number(f"The answer is {text}.") is None


@pytest.mark.parametrize(
    "text",
    [
        *(
            "5 hundredths",
            "3 sixths",
            "7 thousandths",
            "5 and three quarters",
            "5 and two thirds",
            "3 point 5",
            "3 : 2",
        ),
        *(
            "2 pi",
            "2 π",
            "2 \\pi",
            "5 x",
            "half of 10",
            "square root of 16",
            "10 to the power of 2",
            "twice 5",
            "not 5",
        ),
        *("\\frac{1}{2}3", "5<sup>2</sup>", "5<sup>x</sup>"),
    ],
)
def test_a_number_that_its_neighbours_change_is_not_taken_for_itself(text: str) -> None:
    assert read_number(text) is None
    assert last_number(f"The answer is {text}") is None


def test_scales_may_be_several() -> None:
    assert [read_number(f"5 {scale}") for scale in ("hundreds", "thousands", "millions", "dozens")] == [
        *(500, 5000, 5_000_000, 60)
    ]
    assert last_number("in all, 3 hundreds thousands.") == 300_000


def test_of_a_text_of_any_length_the_last_number_is_read() -> None:
    """Of one too long to look at all of it, none is the only number."""
    long = "so it is 7 or more, " * 20_000
    assert last_number(f"{long}and the answer is **42**.") == 42
    assert read_number(f"{long}and the answer is **42**.") is None
    assert read_number("so " * 100_000 + "42") is None
    assert last_number("9" * 200_000) is None
