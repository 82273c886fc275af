"""Numbers as people and models write them. A reader returns the number that is meant, or None, never another one.

Numbers: `$1,000.50`, `15 dollars`, `42%`, `.5`, `1/2`, `1 1/2`, `−3` (a typographic minus), `1e3`, `\\frac{1}{2}`,
`\\boxed{12{,}500}`. Not a number: `1,2` (a list), `3-4` (a range or a difference), `10:30`, `2020-01-02`, `1.2.3`,
`2^5`, `3rd`, `5k`, `x2`. Each of these has several meanings, and a guess could call a wrong answer right. Numbers in
words are not read.
"""

import re
import unicodedata
from fractions import Fraction

# Longer numbers and larger exponents are no answers, and exact arithmetic with them never ends.
LONGEST = 400
# Characters, from its end, in which a text's last number is looked for; a longer text is not one number.
MOST = 50_000

_PLUS = "\u2064"  # Unicode's invisible plus: between the two parts of a mixed number, 1 1/2
_BORDER = "|"  # a word of its own, across which no two words make one number
_CALCULATION = re.compile(r"<<[^<>]*>>")  # GSM8K writes <<48+24=72>> into its solutions
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
_DIGITS = r"(?:[1-9]\d{0,2}(?:,\d{3})+|0(?:,000)+|\d+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.\d+)?|\.\d+)"
_MONEY = "$€£¥₹"
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?)(?:[A-Z]{{0,3}}[{_MONEY}])?(?P<inner>-?)(?:(?P<whole>\d+){_PLUS})?(?P<top>{_DECIMAL})"
    rf"(?:[eE](?P<exponent>[-+]?\d{{1,4}}))?(?:/(?P<bottom>{_DECIMAL}))?"
    rf"\.?(?P<unit>(?:[A-Za-zµ]+[²³]?|[%°{_MONEY}]+)?(?:/[A-Za-z]+[²³]?)?)",
    re.ASCII,
)
# Letters right behind a number that make another of it: ordinals, thousands, variables, bases.
_THOUSANDS = {*("k", "K", "M", "b", "B", "T", "mn", "bn", "tn", "lakh", "lakhs", "crore", "crores")}
_NO_UNIT = {*("st", "nd", "rd", "th"), *_THOUSANDS, *("x", "y", "z", "n", "i", "e", "E", "pi")}
_SCALES = {"dozen": 12, "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SCALES |= {f"{name}s": scale for name, scale in _SCALES.items()}
_OPERATORS = {*"+-*×·÷^±<>≤≥≠", "\\times", "\\cdot", "\\div", "\\pm", "–", "<=", ">=", "!=", "**"}
# Between two numbers: '3 x 4', '3 to 4', '3 divided by 4', '3 : 4'.
_JOINING = {"x", "to", "or", "by", "plus", "times", "over", "mod", "choose", "point", "%", "&", ":"}
_JOINING_TWO = {("divided", "by"), ("multiplied", "by"), ("out", "of")}
# Before a number, what makes another of it: '\\sqrt 9', 'log 100', 'twice 5', 'the power of 2'.
_FUNCTIONS = {*("√", "∛", "∜"), *("sqrt", "log", "ln", "exp", "sin", "cos", "tan", "abs", "lg")}
_FUNCTIONS |= {"twice", "thrice", "double", "triple", "half", "not"}
_OF = {"root", "power", "square", "cube", "logarithm", "half", "third", "quarter"}
# Behind it: '5 squared', '2 thirds', '2 pi'.
_POWERS = {"squared", "cubed", "factorial"}
_FEW = ("two", "three", "four", "five", "six", "seven", "eight", "nine")
_PARTS = {"halves", "thirds", "fourths", "fifths", "sixths", "sevenths", "eighths", "ninths", "tenths", "twelfths"}
_PARTS |= {"hundredths", "thousandths", "millionths"}  # quarters may be coins
_SYMBOLS = {*("x", "y", "z", "n", "i", "e"), *("pi", "π", "\\pi")}


def read_number(text: str) -> Fraction | None:
    """The only number of a text, with any words around it; None if there is none, several, or an ambiguous one.

    >>> read_number("15 dollars"), read_number("$1,000.50"), read_number("1,2"), read_number("-1 1/2")
    (Fraction(15, 1), Fraction(2001, 2), None, Fraction(-3, 2))
    """
    words = _words(text) if len(text) <= MOST else []
    places = [i for i, word in enumerate(words) if _has_digit(word)]
    return _at(words, places[0]) if len(places) == 1 else None


def last_number(text: str) -> Fraction | None:
    """The last number of a text; None if there is none or the last one is ambiguous.

    >>> last_number("2 + 3 = 5, so the answer is **5**."), last_number("The answer is 3-4")
    (Fraction(5, 1), None)
    """
    words = _words(text if len(text) <= MOST else re.sub(r"^\S*", "", text[-MOST:]))  # a cut word is not a word
    places = [i for i, word in enumerate(words) if _has_digit(word)]
    return _at(words, places[-1]) if places else None


def write_number(number: Fraction) -> str:
    """As short as it can be written exactly: 42, -0.5, 1/3."""
    rest = number.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if number.denominator == 1 or rest != 1:
        return str(number)
    places = number.denominator.bit_length()  # 2**a 5**b in lowest terms has max(a, b) decimals
    return f"{number:.{places}f}".rstrip("0")


def _words(text: str) -> list[str]:
    """Words between blanks, with LaTeX, tags and typography undone as far as they only dress a number."""
    text = _CALCULATION.sub(" ", text).replace("<sup>", "^")
    text = _TAG.sub("\n", text).replace("\n", f" {_BORDER} ")
    text = "".join(_plain(c) for c in text)
    text = re.sub(r"(?<=\w)(?=\\[dt]?frac)", " ", text)  # 1 and a fraction is a mixed number
    text = re.sub(r"\\[dt]?frac\s*\{\s*([\d.,]+)\s*\}\s*\{\s*([\d.,]+)\s*\}(?!\d)", r"\1/\2", text)
    text = re.sub(r"\\[dt]?frac\s*(\d)\s*(\d)(?!\d)", r"\1/\2", text)
    text = re.sub(r"(?<=\d)(?:\{,\}|\\[,;:! ]|[\u00a0\u2009\u202f])(?=\d{3}(?!\d))", ",", text)
    text = re.sub(
        r"\\(?:boxed|fbox|text|textbf|mathrm|mathbf|mathit)\s*\{|\\left|\\right|\\[()\[\],;:! ]|[—~]", " ", text
    )
    text = re.sub(r"\^\s*\{?\\circ\}?", "°", text)
    text = re.sub(r"\\([$%#&_{}])", r"\1", text)
    text = re.sub(r"(?<=\d)\s*(?:\\times|\\cdot|[×·*x])\s*10\s*\^\s*\{?([-+]?\d+)\}?(?!\d)", r"e\1", text)
    text = re.sub(r"(?<=\d)\s*/\s*(?=\d)", "/", text)
    for name, part in (("half", "1/2"), ("third", "1/3"), ("quarter", "1/4")):
        text = re.sub(rf"(?<![\d.,/])(\d+) and (?:a|one) {name}\b", rf"\1{_PLUS}{part}", text)
    text = re.sub(r"(?<![\d.,/])(\d+)(?: and)? +(\d+)/(\d+)(?![\d/])", _mixed, text)
    return text.split()


def _plain(character: str) -> str:
    """A character as ASCII where it is a digit, a minus, or a fraction such as ½."""
    if character in "−﹣－":
        return "-"
    if not character.isascii():
        if unicodedata.category(character) == "Nd":
            return str(unicodedata.digit(character))
        if unicodedata.decomposition(character).startswith("<fraction>"):
            return " " + unicodedata.normalize("NFKC", character).replace("⁄", "/")
        if character == "⁄":
            return "/"
    return character


def _mixed(found: re.Match[str]) -> str:
    whole, top, bottom = found.groups()
    return f"{whole}{_PLUS}{top}/{bottom}" if int(top[:LONGEST]) < int(bottom[:LONGEST]) else found.group()


def _has_digit(word: str) -> bool:
    """Whether a word holds a digit, other than a unit's exponent (m^2)."""
    return any(c.isdigit() for c in word) and not re.fullmatch(r"[A-Za-z]+\^\{?[23]\}?[.,;:!?]*", word)


def _at(words: list[str], place: int) -> Fraction | None:
    """The number that the word at `place` is, given its neighbours."""
    word = words[place]
    before, after = words[max(0, place - 2) : place], words[place + 1 : place + 3]
    if _BORDER in before:
        before = before[len(before) - before[::-1].index(_BORDER) :]
    if _BORDER in after:
        after = after[: after.index(_BORDER)]
    if "=" in word:  # '2+3=5', 'x=5', but not '3<=5'
        if re.search(r"[<>!]=", word):
            return None
        parts = [part for part in word.split("=") if any(c.isdigit() for c in part)]
        word, before = parts[-1], before if word.startswith(parts[-1]) else []
    value = _parse(word)
    if value is None or (before and not _may_follow(before, word, at_end=not after)):
        return None
    if after:
        scale = _bare(after[0]).lower()
        if scale in _SCALES:
            value *= _SCALES[scale]
            value *= _SCALES.get(_bare(after[1]).lower(), 1) if len(after) > 1 else 1  # '2 hundred thousand'
        elif _is_changed_by(after):
            return None
    if before and before[-1].lower() in {"minus", "negative"}:
        value = -value
    return value


def _bare(word: str) -> str:
    """Without what stands behind a word in a sentence."""
    return word.rstrip(".,;:!?)*}]$")


def _is_changed_by(after: list[str]) -> bool:
    """Whether these words make another number of the one before them: '5 squared', '2 thirds', '5 bn', '3 + x'."""
    if _bare(after[0]).lower() in _POWERS | _PARTS or _bare(after[0]) in _SYMBOLS | _THOUSANDS - {*"KMBT"}:
        return True
    if after[0] == "and" and after[1:] and after[1].lower() in _FEW:  # '5 and three quarters'
        return True
    return after[0] in _OPERATORS - {"-", "–", "<", ">"} and len(after) > 1  # a dash may end a sentence


def _may_follow(before: list[str], word: str, *, at_end: bool) -> bool:
    """Whether a number may stand behind these words and be a number of its own, not the end of an expression."""
    last, earlier = before[-1], before[0] if len(before) > 1 else ""
    if last in _OPERATORS or last.lstrip("\\$({").lower() in _FUNCTIONS:
        return False
    if last.lower() in _JOINING | {"minus"} and _parse(earlier) is not None:
        return False
    if (earlier.lower(), last.lower()) in _JOINING_TWO or (last.lower() == "of" and earlier.lower() in _OF):
        return False
    if last.lower() in _SCALES or (last.lower() == "and" and earlier.lower() in _SCALES):  # '2 hundred and 5'
        return False
    if _has_digit(last):
        if last[-1].isdigit():  # '1 000', '12 34': one number or two
            return False
        if last[-1] in ",;" and at_end and _parse(last) is not None:  # the list '1, 2'
            return False
    return True


def _parse(word: str) -> Fraction | None:
    if re.search(r"\.\d+(\.\.+|…)", word):  # 0.333...: it goes on
        return None
    word = re.sub(r"^[A-Za-z]+:", "", word)
    word = word.lstrip("([{\"'*_`≈:#“‘«").rstrip(")]}\"'*_`.,;:!?”’»")
    word = re.sub(r"^–(?=[\d.$])", "-", word)
    found = _NUMBER.fullmatch(word)
    if found is None or len(word) > LONGEST or found["unit"].split("/")[0] in _NO_UNIT:
        return None
    if found["sign"] and found["inner"]:
        return None
    if abs(int(found["exponent"] or 0)) > LONGEST:
        return None
    value = Fraction(found["top"].replace(",", "")) * Fraction(10) ** int(found["exponent"] or 0)
    if found["bottom"] is not None:
        bottom = Fraction(found["bottom"].replace(",", ""))
        if bottom == 0:
            return None
        value /= bottom
    if found["whole"] is not None:
        value += int(found["whole"])
    return -value if "-" in (found["sign"], found["inner"]) else value
