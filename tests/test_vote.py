"""Equal answers vote together and others don't, whatever way they are written and whatever order they
stand in. SPELLED=all tries a hundred thousand pairs of each and prints the figures; SPELLED_FAILURES=FILE
writes the pairs that fail."""

import json
import os
import random
import re
import unicodedata
from collections import Counter
from fractions import Fraction
from itertools import combinations
from math import pi, prod

import pytest
from answers_spelled import Pair, apart, equal_pair, group, unequal_pair

from answers import answer_classes, canonical
from bench.spellings import KINDS, VULGAR, Term, Value, draw, in_words, meaning, spell

ALL = os.environ.get("SPELLED") == "all"
PAIRS = 100_000 if ALL else 4_000
GROUPS = 5_000 if ALL else 300
JOINED = 0.97  # of equal pairs


def joined(a: str, b: str) -> bool:
    one, other = answer_classes([a, b])
    return one is not None and one == other


@pytest.mark.parametrize(
    ("answers", "classes"),
    [
        (["5", "5", "5 cm", "5 cm", "5 m"], "aaaab"),  # a bare one is of the commonest it may be
        (["5 cm", "5 cm", "5 cm", "5 m", "5 m", "5"], "aaabba"),
        (["5", "5 cm", "5 m"], "abc"),  # which of the two, nobody can say
        (["5", "5", "5 cm", "5 m"], "aabc"),
        (["5 cm", "0.05 m", "5"], "aaa"),
        (["50", "50%", "0.5"], "abb"),  # 50 is not 0.5, though 50% may be either
        (["50", "50", "50", "50%", "0.5"], "aaabb"),
        (["45°", "45", r"\pi/4"], "aba"),
        (["5 apples", "5 apples", "5", "5 oranges"], "aaab"),
        (["x+y=7", "7", "x-y=7"], "abc"),
        ([r"2\ln 2", r"\ln 4", r"\ln 4", None], "bbb-"),
        (["A, C", "AC", "(A) and (C)", "A or C"], "aaab"),
    ],
)
def test_what_is_left_out_is_forgiven_by_a_stated_rule(answers, classes):
    found = answer_classes(answers)
    pairs = list(combinations(range(len(answers)), 2))
    together = {(i, j) for i, j in pairs if found[i] is not None and found[i] == found[j]}
    assert together == {(i, j) for i, j in pairs if classes[i] == classes[j] != "-"}


def test_a_class_is_named_by_its_commonest_key_and_the_shortest_of_these():
    assert set(answer_classes([r"2\ln 2", r"\ln 4", r"\ln 4"])) == {canonical(r"\ln 4")}
    assert set(answer_classes(["0.05 m", "5 cm"])) == {"5 cm"}


def test_the_letter_of_an_option_is_compared_with_no_text():
    assert answer_classes(["A", "A - 7", "12"], ("12", "15")) == ["A", "A-7", "A"]


def report(title: str, pairs: list[Pair], failed: list[Pair]) -> str:
    """Failures by kind, the commonest first, with examples."""
    of, all_of = Counter(pair.kind for pair in failed), Counter(pair.kind for pair in pairs)
    lines = [f"{title}: {len(failed)} of {len(pairs)}"]
    for kind, n in of.most_common():
        examples = [f"{pair.a!r} {pair.b!r}" for pair in failed if pair.kind == kind][:3]
        lines.append(f"  {kind}: {n} of {all_of[kind]}: " + "; ".join(examples))
    if path := os.environ.get("SPELLED_FAILURES"):
        with open(path, "a") as out:
            out.writelines(json.dumps(pair._asdict(), ensure_ascii=False) + "\n" for pair in failed)
    return "\n".join(lines)


def test_no_two_answers_that_differ_share_a_key_or_vote_together():
    rng = random.Random(11)
    pairs = [unequal_pair(rng) for _ in range(PAIRS)]
    failed = [pair for pair in pairs if canonical(pair.a) == canonical(pair.b) or joined(pair.a, pair.b)]
    said = report("unequal, but joined", pairs, failed)
    print(said)
    assert not failed, said


def test_equal_answers_vote_together_however_they_are_written():
    rng = random.Random(12)
    pairs = [equal_pair(rng) for _ in range(PAIRS)]
    failed = [pair for pair in pairs if not joined(pair.a, pair.b)]
    said = report("equal, but not joined", pairs, failed)
    print(said)
    assert len(failed) <= (1 - JOINED) * len(pairs), said


def test_classes_are_a_partition_that_forgets_the_order_of_the_answers():
    rng = random.Random(13)
    for _ in range(GROUPS):
        answers = group(rng).answers
        classes = dict(zip(answers, answer_classes(answers), strict=True))
        assert len(set(classes.values())) <= len(set(answers))
        assert [a for a, name in classes.items() if (name is None) != (canonical(a) is None)] == []
        keys = {name: {canonical(a) for a in classes if classes[a] == name} for name in classes.values()}
        assert all(name in members for name, members in keys.items()), classes
        assert sum(map(len, keys.values())) == len(set.union(*keys.values())), classes
        shuffled = rng.sample(answers, len(answers))
        assert dict(zip(shuffled, answer_classes(shuffled), strict=True)) == classes


def test_no_class_of_a_group_holds_two_values():
    rng = random.Random(14)
    for _ in range(GROUPS):
        drawn = group(rng)
        classes = answer_classes(drawn.answers)
        for (i, a), (j, b) in combinations(enumerate(drawn.values), 2):
            if a and b and apart(a, b) and classes[i] == classes[j]:
                pytest.fail(f"{drawn.answers[i]!r} and {drawn.answers[j]!r} of {drawn.answers}")


def test_the_key_of_a_spelled_answer_is_its_own_key():
    rng = random.Random(15)
    texts = [spell(draw(rng), rng) for _ in range(PAIRS)]
    assert [text for text in texts if canonical(canonical(text)) != canonical(text)] == []


# --- the generator that judges the others is judged as well


@pytest.mark.parametrize(
    ("number", "unit", "same", "its"),
    [
        (5, "cm", "1/20", "m"),
        (90, "km/h", 25, "m/s"),
        (1, "L", 1000, "cm^3"),
        (36, "inches", 3, "ft"),
        (90, "min", "3/2", "h"),
        (5, "m^2", 50_000, "cm^2"),
        (50, "%", "1/2", ""),
        (2, "kPa", 2000, "Pa"),
        (5, "books", 5, "books"),
    ],
)
def test_units_are_converted_as_in_a_table(number, unit, same, its):
    one, other = Value((Term(Fraction(number)),), unit), Value((Term(Fraction(same)),), its)
    assert meaning(one) == meaning(other)
    assert meaning(one) != meaning(other._replace(unit="J")) and not apart(one, one._replace(unit=""))


LETTERS = {letter: 1.37 + 0.21 * i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyzALV")}
TOKEN = re.compile(r"[0-9]*\.?[0-9]+(?:\.(?![0-9])|e-?[0-9]+)?|\\?[a-z]{2,}|\*\*|[⁰¹²³⁴-⁹⁻]+|\\?\S", re.I)


class Reader:
    """The number that a formula comes to, in floats, names being LETTERS."""

    def __init__(self, text: str):
        self.tokens = [*TOKEN.findall(text), ""]

    def take(self, *wanted: str) -> bool:
        return self.tokens[0] in wanted and bool(self.tokens.pop(0))

    def sum(self) -> float:
        total = -self.product() if self.take("-") else (self.take("+"), self.product())[1]
        while self.tokens[0] in ("+", "-"):
            total += self.product() if self.take("+") else (self.take("-"), -self.product())[1]
        return total

    def product(self) -> float:
        whole, total = self.tokens[0].isdigit(), self.power()
        if whole and (
            self.tokens[0] == r"\frac" or unicodedata.normalize("NFKC", self.tokens[0])[1:2] == "⁄"
        ):
            total += self.power()  # a mixed number
        while self.tokens[0] not in ("", "+", "-", ")", "}"):
            if self.take("/"):
                total /= self.power()
            else:
                self.take("*", r"\cdot", r"\times", "·", "×")
                total *= self.power()
        return total

    def power(self) -> float:
        base, token = self.atom(), self.tokens[0]
        if self.take("^", "**"):
            return base ** (-self.atom() if self.take("-") else self.atom())
        if token and token[0] in "⁰¹²³⁴⁵⁶⁷⁸⁹⁻":
            self.tokens.pop(0)
            return base ** int(unicodedata.normalize("NFKC", token).replace("−", "-"))
        return base

    def atom(self) -> float:
        token = self.tokens.pop(0)
        if token in ("(", "{"):
            value = self.sum()
            assert self.take(")", "}")
            return value
        if token in (r"\frac", r"\dfrac", r"\tfrac"):
            if len(self.tokens[0]) > 1:  # \frac12
                self.tokens[0:1] = list(self.tokens[0])
            return self.atom() / self.atom()
        if token in ("√", "sqrt", r"\sqrt"):
            return self.atom() ** 0.5
        if token in ("π", "pi", r"\pi"):
            return pi
        above, slash, below = unicodedata.normalize("NFKC", token).partition("⁄")
        return LETTERS[token] if token in LETTERS else float(above) / float(below) if slash else float(token)


FRAMES = re.compile(
    r"The (?:answer|area|perimeter) is:?|(?:Final answer|Area|Perimeter):|^\*\*|\*\*$|</?b>|`|__|\$"
    r"|\\[()]|\\displaystyle"
)
GROUPED = re.compile(r"(?<=[0-9])(?:,\\!|,|\{,\}|\\,| )(?=[0-9]{3}(?![0-9/]))")


def worths(text: str) -> list[float]:
    """Of each side of a chain of equalities; the first may be a name."""
    text = re.sub(r"\\boxed\{(.*)\}", r"\1", text)
    text = GROUPED.sub("", FRAMES.sub("", text).split(r"\approx")[0].replace("−", "-"))
    text = re.sub(r"(?<![0-9/])([0-9]+) ([0-9]+/[0-9]+)", r"(\1+\2)", text)  # 1 1/2
    *first, last = [re.sub(r"(?<![a-z\\])(?!pi|sqrt)[a-z]{2,}", _apart, side) for side in text.split("=")]
    sides = [side for side in first if re.search("[0-9]", side.replace("f(2)", ""))]
    return [Reader(side.strip().rstrip(".")).sum() for side in [*sides, last]]


def _apart(letters: re.Match) -> str:
    return " ".join(letters[0])


WORDS = {in_words(Fraction(n)).split("-")[0] for n in range(100)} | {"half", "third", "quarter", "fifth"}


@pytest.mark.parametrize("kind", ["number", "root", "pi", "sum", "product", "polynomial"])
def test_a_value_is_what_it_is_written_as(kind):
    rng = random.Random(16)
    for _ in range(1500):
        value = KINDS[kind](rng)
        text = spell(value, rng)
        if any(word in text.split()[-1] for word in WORDS):
            continue
        exact = sum(
            float(t.factor) * t.root**0.5 * pi**t.pi * prod(LETTERS[name] ** n for name, n in t.symbols)
            for t in value.terms
        )
        for number in worths(text):
            assert number == pytest.approx(exact, rel=1e-9), text


def test_words_are_the_numbers_they_name():
    words = {in_words(Fraction(n)): n for n in range(-99, 100)}
    assert len(words) == 199 and words["negative five"] == -5 and words["forty-two"] == 42
    signs = {unicodedata.normalize("NFKC", sign).replace("⁄", "/"): q for q, sign in VULGAR.items()}
    assert len(signs) == 15 and all(Fraction(sign) == q for sign, q in signs.items())
    assert in_words(Fraction(11, 2)) == "five and a half" and in_words(Fraction(2, 3)) == "two thirds"
