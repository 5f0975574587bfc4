"""Which column of a source is what, by its name. How its cells are read: data/cells.py; labels:
data/labels.py.

Names count in any case:

    images      images, decoded_image, image, image_path      encoded pictures, or paths beside the file;
                or a column each: image_1, image_2, ...
    question    problem, question, query, query_cot, query_wo      a blank one gives way to the next;
                messages, conversations, prompt      a chat, a list of turns {role, content} (its last user
                turn) or {from, value} (its first), with pictures in their places
    answer      answer, solution, ground_truth, label, answerkey      text, number or a list of them; out
                of its <answer>...</answer> or \\boxed{}; of a chat, the reply
    choices     choices, options, option      a list, one text "A. 3; B. 4" or "['3', '4']", {"A": "3"},
                {"label": ["A"], "text": ["3"]}
    id          id, pid, sample_index, question_id, idx; id and key together where both are there

Of several with one meaning a row's first is taken, so rows of a .jsonl file may differ in their
names; encoded pictures go before paths. `<image>` in a question stands where a picture belongs, one
per picture in order; pictures without a tag come first. `<image 2>` is the second picture.

Left out: pictures inside choices, base64 text, URLs.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

IMAGES = ("images", "decoded_image", "image", "image_path")
ONE_IMAGE = re.compile(r"image_?(\d{1,2})", re.IGNORECASE)
QUESTIONS = ("problem", "question", "query", "query_cot", "query_wo")
CHATS = ("messages", "conversations", "prompt")
ANSWERS = ("answer", "solution", "ground_truth", "label", "answerkey")
CHOICES = ("choices", "options", "option")
IDS = ("id", "pid", "sample_index", "question_id", "idx")
CATEGORY = "category"


@dataclass(frozen=True)
class Columns:
    """The columns that make an example."""

    images: tuple[str, ...]  # in order of preference, as all tuples but numbered and ids
    numbered: dict[int, str]  # a picture each
    questions: tuple[str, ...]
    chats: tuple[str, ...]  # where there is no question
    answers: tuple[str, ...]
    choices: tuple[str, ...]
    ids: tuple[str, ...]  # joined by "-"
    category: str | None

    def unlabelled(self) -> list[str]:
        """All that may be read where no label may be seen. Of a chat nothing behind its last user
        turn is."""
        pictures = (*self.images, *self.numbered.values())
        found = (*pictures, *self.questions, *self.chats, *self.choices, *self.ids, self.category)
        return list(dict.fromkeys(name for name in found if name))

    def role(self, name: str, kind: str | None = None) -> str:
        """What a column has become, in words."""
        if name in self.questions:
            before = self.questions[: self.questions.index(name)]
            return f"question, where {' and '.join(before)} is blank" if before else "question"
        if name in self.chats:
            chat = "question (a user turn), pictures; its reply is not read without labels"
            return f"{chat}; where {' and '.join(self.questions)} is blank" if self.questions else chat
        if name in self.ids:
            return "id"
        told = "answer; not read without labels"
        roles = {
            "images": self.images,
            "choices": self.choices,
            told: self.answers,
            "category": (self.category,),
        }
        for role, names in roles.items():
            if name in names:
                return role if name == names[0] else f"{role}, where {names[0]} is missing"
        for number, column in self.numbered.items():
            if name == column:
                return f"image {number}"
        return "not read" if kind in ("image", "binary") else "meta; not read without labels"


def find_columns(kinds: dict[str, str | None]) -> Columns:
    """Column names with their kinds (image, text, number, other; None: any) -> which is what."""
    names = {name.lower(): name for name in reversed(kinds)}

    def called(wanted: Iterable[str], *allowed: str | None) -> tuple[str, ...]:
        found = (names[w] for w in wanted if w in names)
        return tuple(name for name in found if not allowed or kinds[name] in allowed)

    numbered = {int(m[1]): m[0] for m in map(ONE_IMAGE.fullmatch, reversed(kinds)) if m}
    answers, questions, ids = called(ANSWERS), called(QUESTIONS, "text", None), called(IDS)[:1]
    if answers and {"id", "key"} <= names.keys():  # where nothing else is the answer, `key` may be
        ids = (names["id"], names["key"])
    return Columns(
        # a picture before the path of a picture
        images=called(IMAGES, "image") or called(IMAGES, "text", None),
        numbered={n: numbered[n] for n in sorted(numbered) if kinds[numbered[n]] in ("image", "text", None)},
        questions=questions,
        # a reply is a label: where every row has a question, chats stay unread
        chats=called(CHATS, None) if questions else called(CHATS, "other", None),
        answers=answers,
        choices=called(CHOICES),
        ids=ids,
        category=names.get(CATEGORY),
    )


def is_picture_column(name: str) -> bool:
    """Whether a column would be read for pictures, were it of the right kind."""
    return name.lower() in IMAGES or bool(ONE_IMAGE.fullmatch(name))


def first_of(names: tuple[str, ...], row: dict) -> str | None:
    """The first of these columns that holds something."""
    return next((name for name in names if row.get(name) is not None), None)


def join_id(parts) -> str | None:
    """The cells of the id columns -> one id; None where one is missing."""
    return "-".join(map(str, parts)) if parts and None not in parts else None
