"""From what a model wrote to a question, its choices, and whether it is worth training on.

    parse_question(text)        the question and its lettered choices, without chatter and without an answer
    Filter(...).reason(...)     why a written question is dropped, or None: the first of FILTERS that applies

    empty          no word in it
    truncated      the model did not come to an end
    no_question    neither a question mark, nor a sentence that starts with a question word, nor a
                   clause that starts with an imperative ("Find x.", "In triangle ABC, calculate
                   ..."); the lists are below, English alone
    copy           the question that came with the image, exactly or nearly
    duplicate      the same words as an earlier question about the same image
    near           nearly an earlier question about the same image; with `near_across` also about any image

"The same words" ignores spacing, punctuation and the case of words, but not of names: side a is not
angle A. "Nearly" is a Jaccard similarity of at least `near` between the sets of 2-token shingles,
articles left out, where numbers, names and signs are the same: "AB = 5" and "AC = 5" and "AB = 6"
ask for different things. The search is exact and looks at few pairs: of two sets so similar, the
rarest shingles of each share at least one (prefix filtering, Chaudhuri et al. 2006), so only these
are indexed, and only of kept questions.

Left out: meaning. A paraphrase in other words passes, so does a question that the image doesn't
answer, and two long questions about one image that differ in "longer" and "shorter" alone count as
one.
"""

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from data.prompts import with_choices

FILTERS = ("empty", "truncated", "no_question", "copy", "duplicate", "near")

# --- Reading what was written ---------------------------------------------------------------------


class Written(NamedTuple):
    question: str
    choices: tuple[str, ...] = ()
    answered: bool = False  # an answer stood there and was cut off


# "Here is a new question:"
PREAMBLE = re.compile(r"\A[^\n?]{0,120}\bquestion\b[^\n?]{0,60}:[ \t*]*\n+(?=\s*\S)", re.I)
LABEL = re.compile(
    r"\A[*#_ ]*(?:(?:new|different|my|multiple.choice)\s+)*question(?:\s*\d+)?[ *_]*(?:[:：]|\n)[*_]*\s*",
    re.I,
)
SENTENCE = r"(?:^|(?<=[.?!:\n]))"
ECHO = re.compile(
    r"(?:please reason step by step[^.\\]{0,40})?put your final answer (?:with)?in \\boxed\{\}\.?", re.I
)
KEYED = r"(?:correct|right|final)\s+(?:answer|option|choice)|answer(?:\s+key)?|ans\.?"
ANSWER = re.compile(  # it and all after it; of a text with a box, what was not asked by then
    rf"{SENTENCE}[ \t(\[*#_]*(?:the\s+)?(?:its\s+)?(?:"
    rf"(?:{KEYED}|(?:correct\s+|final\s+)?(?:solution|explanation|hint|rationale))[ \t*_]*(?:[:：]|\n)"
    r"|correct[ \t*_]*[:：]"
    rf"|(?:{KEYED})[ \t*_]*(?:[-–—=][ \t]|is\b)|ans\.[ \t]).*"
    rf"|[*(\[]*(?-i:\bAnswer[ *_]*[:：]).*|(?:^|(?<=\?))[^?]*\\boxed.*|</?(?:answer|think)>.*",
    re.I | re.S,
)
EXPLAINED = re.compile(  # a paragraph behind one that asks
    r"(?<=[?？])[*_)\"”]*[ \t]*\n[ \t]*\n[\s*_(]*"
    r"(?:to\s+(?:find|solve|answer|determine|calculate|compute|get)"
    r"|let's|let\s+us|we\s+(?:can|know|need|have)"
    r"|step\s+1|first|since|because|therefore|thus|by\s+\w+ing"
    r"|(?:this|the)(?:\s+new)?\s+question)\b(?!.*[?？]).*",
    re.I | re.S,
)
MARKER = re.compile(r"(?:^|(?<=[\s?:]))(?:\(([A-J])\)|([A-J])[.)]|(?<=\n)([A-J]):)[*_]*(?=\s)\s*")
CHOSEN = re.compile(r"\s*(?:\((?:correct|right)(?: answer)?\)|[✓✔✅]\ufe0f?|<-+.*|\*+)\s*$", re.I)


def parse_question(text: str) -> Written:
    """Cuts off a preamble, a label ("**Question:**"), quotes, image placeholders and an answer.

    Takes lettered choices (A. B. ..., two or more, at the end) out of the text.
    """
    text = text.rsplit("</think>", 1)[-1].replace("\r\n", "\n").replace("<image>", " ").strip()
    text = PREAMBLE.sub("", text, count=1).strip()
    text = LABEL.sub("", text, count=1)
    text = ECHO.sub("", text).strip()
    kept = EXPLAINED.sub("", ANSWER.sub("", text)).strip()
    answered = kept != text
    question, choices = split_choices(kept.replace("**", ""))
    return Written(tidy(question), choices, answered)


def tidy(text: str) -> str:
    text = re.sub(r"\s+", " ", text).strip()
    if (
        len(text) > 1
        and (text[0], text[-1]) in (('"', '"'), ("“", "”"), ("'", "'"))
        and text[0] not in text[1:-1]
    ):
        text = text[1:-1].strip()
    return text


def split_choices(text: str) -> tuple[str, tuple[str, ...]]:
    """Lettered choices at the end of a text. They follow a line break or a sentence's end, and run
    A, B, C without a gap."""
    markers = list(MARKER.finditer(text))
    letters = [next(filter(None, m.groups())) for m in markers]
    for first in (i for i, letter in enumerate(letters) if letter == "A"):
        run = markers[first:]
        before = text[: run[0].start()]
        in_order = letters[first:] == [chr(65 + i) for i in range(len(run))]
        ended = before.rstrip(" *")[-1:] in tuple("?:.!？：\n")
        if len(run) < 2 or not in_order or not ended:
            continue
        ends = [m.start() for m in run[1:]] + [len(text)]
        texts = (
            re.split(r"\n\s*\n", text[m.end() : end], maxsplit=1)[0] for m, end in zip(run, ends, strict=True)
        )
        choices = tuple(CHOSEN.sub("", tidy(t)).strip(" ;,") for t in texts)
        if all(choices) and len(set(choices)) == len(choices):
            return before, choices
    return text, ()


# --- Comparing ------------------------------------------------------------------------------------

CJK = "\u3040-\u30ff\u3400-\u9fff"
TOKEN = re.compile(rf"\d+(?:\.\d+)?|[{CJK}]|[^\W\d_{CJK}]+|[-+*/=<>^%°√π∠]")
ARTICLES = {"the", "a", "an"}
# a word; other tokens are numbers, names such as AB, x or A, and signs
ORDINARY = re.compile(rf"[^\W\d_A-Z]{{2,}}|a|[{CJK}]")


def tokens_of(text: str) -> tuple[str, ...]:
    """Lower-case words, numbers, names and signs in one notation; CJK by character."""
    found = TOKEN.findall(unicodedata.normalize("NFKC", text))
    return tuple(t if len(t) == 1 or (t.isupper() and len(t) <= 4) else t.lower() for t in found)


def shingles(tokens: tuple[str, ...]) -> frozenset:
    words = [t for t in tokens if t not in ARTICLES]
    return frozenset(zip(words, words[1:], strict=False)) if len(words) > 1 else frozenset([tuple(words)])


def particulars(tokens: tuple[str, ...]) -> tuple[str, ...]:
    """What makes two questions of the same words different: numbers, names, signs."""
    return tuple(sorted(t for t in tokens if not ORDINARY.fullmatch(t)))


def jaccard(a: frozenset, b: frozenset) -> float:
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared)


class NearIndex:
    """Earlier token sequences by scope; `find`: is one at least `threshold` similar?"""

    def __init__(self, threshold: float, rarity: Counter):
        # rarity: any counts do, as long as they don't change
        self.threshold, self.rarity = threshold, rarity
        # (scope, particulars, shingle) -> [shingles of an earlier question]
        self.postings: defaultdict[tuple, list[frozenset]] = defaultdict(list)

    def prefix(self, found: frozenset) -> list:
        """The rarest shingles: two sets of similarity t share at least ceil(t n), so one of these."""
        count = len(found) - math.ceil(self.threshold * len(found) - 1e-9) + 1
        return sorted(found, key=lambda s: (self.rarity[s], s))[:count]

    def find(self, scope: Hashable, tokens: tuple[str, ...]) -> bool:
        found, same = shingles(tokens), particulars(tokens)
        for shingle in self.prefix(found):
            for other in self.postings.get((scope, same, shingle), ()):
                if jaccard(found, other) >= self.threshold:
                    return True
        return False

    def add(self, scope: Hashable, tokens: tuple[str, ...]) -> None:
        found, same = shingles(tokens), particulars(tokens)
        for shingle in self.prefix(found):
            self.postings[scope, same, shingle].append(found)


# --- Dropping -------------------------------------------------------------------------------------

ASKING = (
    "what what's which who whose whom when where why how "
    "is are was were do does did can could will would should has"
)
TASKS = (  # "what" and "how" also follow a comma; "which" does so in other sentences too
    "what how find calculate compute determine evaluate solve express give state name identify count "
    "estimate measure simplify choose select pick tell prove show describe explain compare complete fill "
    "work list write draw convert"
)
LINK = r"(?:(?:then|so|and|please|now)[ \t]+)*"
ASKS = re.compile(
    rf"[?？]|(?:^|[.?!:;\n])[ \t]*{LINK}(?:{'|'.join(ASKING.split())})\b"
    rf"|(?:^|[.?!:;,\n])[ \t]*{LINK}(?:{'|'.join(TASKS.split())})\b",
    re.I,
)


def asks(text: str) -> bool:
    return bool(ASKS.search(text))


@dataclass
class Filter:
    """Goes through the written questions once, in order; a kept one counts for those after it."""

    names: Iterable[str] = FILTERS
    near: float = 0.8  # Jaccard similarity from which a question is a near duplicate
    near_across: float = 0.0  # the same over all images; 0 is off
    corpus: Iterable[str] = ()  # all texts, for which shingles are rare: fewer pairs are looked at
    kept: set = field(default_factory=set)

    def __post_init__(self):
        self.names = set(self.names)
        rarity = Counter(s for text in self.corpus for s in shingles(tokens_of(text)))
        self.within, self.across = NearIndex(self.near, rarity), NearIndex(self.near_across or 1.0, rarity)

    def reason(self, written: Written, finished: bool, images: Hashable, seed: Written) -> str | None:
        """Why it is dropped, or None: then it is remembered. `images` tells the same images from
        others; `seed` is the question that came with them."""
        tokens = tokens_of(with_choices(written.question, written.choices))
        checks = {
            "empty": lambda: not tokens_of(written.question),
            "truncated": lambda: not finished,
            "no_question": lambda: not asks(written.question),
            "copy": lambda: self.is_copy(written, seed),
            "duplicate": lambda: (images, tokens) in self.kept,
            "near": lambda: (
                self.within.find(images, tokens) or bool(self.near_across) and self.across.find(None, tokens)
            ),
        }
        reason = next((name for name in FILTERS if name in self.names and checks[name]()), None)
        if reason is None:
            self.kept.add((images, tokens))
            self.within.add(images, tokens)
            if self.near_across:
                self.across.add(None, tokens)
        return reason

    def is_copy(self, written: Written, seed: Written) -> bool:
        """The same words, and choices where both have some; or nearly the same, with choices."""
        same_words = tokens_of(written.question) == tokens_of(seed.question)
        if same_words and not (written.choices and seed.choices):
            return True
        a, b = (tokens_of(with_choices(w.question, w.choices)) for w in (written, seed))
        return a == b or particulars(a) == particulars(b) and jaccard(shingles(a), shingles(b)) >= self.near
