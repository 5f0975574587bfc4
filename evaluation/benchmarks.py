"""How each benchmark is graded and scored: a table of small objects, found by a data set's columns.

    recognise({"level": 3, "subject": "algebra"}).name  ->  "mathvision"

A benchmark says three things: the key of an answer (what is compared with the gold key; votes group by
the classes of a training vote where it is the plain one, else by key), the categories of a question,
and its own scores over graded records. Everything else is `plain`.

    mathvista   multi_choice by option; integer compares int(float(x)); float rounds to `precision`;
                list item by item
    mathverse   mean of the five versions with an image; Text Only stands in a row of its own
    mathvision  letter or value of the option; by level and subject
    wemath      plain accuracy of the rows, and the four-way score of each composite with its sub-questions
    chartqa     relaxed accuracy: numbers within 5 % of the gold one, other answers equal but for case
    plain       `equivalent` of answers/: Geometry3K, GeoQA, MMR1 and any file

Left out, where the official scripts do otherwise: a language model that extracts or judges answers
(MathVista, MathVerse); MathVista's nearest option by edit distance, which makes every text some
option; ChartQA's reading of 5% as 0.05 (the canonical form drops the sign); numbers with roots or
letters under MathVista's rounding, which compare by canonical form.
"""

import operator
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from answers import canonical, equivalent, option_key
from data import Example

# One value of a measure: (unit, stratum, value). A measure is the mean over strata of the mean of
# their values; a bootstrap draws whole units, whose questions hang together.
Cell = tuple[str, str, float]


def plain_key(example: Example, answer: str | None) -> str | None:
    return option_key(answer, example.choices)


@dataclass(frozen=True)
class Benchmark:
    name: str
    columns: frozenset[str] = frozenset()  # a data set that has all of these is this benchmark
    # categorisation -> where in the row; the first leads
    by: dict[str, tuple[str, ...]] = field(default_factory=dict)
    # for grading: finds choices that stand in the question
    prepare: Callable[[Example], Example] = lambda example: example
    key: Callable[[Example, str | None], str | None] = plain_key
    right: Callable[[str, str], bool] = operator.eq  # (an answer's key, the gold key)
    # the rule above is the benchmark's: no grader replaces it
    own_rule: Callable[[Example], bool] = lambda example: False
    # (what hangs together, which part of it), by row
    unit: Callable[[dict], tuple[str, str] | None] = lambda meta: None
    measures: Callable[[Sequence[dict]], dict[str, list[Cell]]] = lambda records: {}
    details: Callable[[Sequence[dict]], dict] = lambda records: {}  # counts beside the measures

    def categories(self, meta: dict) -> dict[str, list[str]]:
        """{categorisation: the question's values}: a question may need several skills."""
        found = {name: at(meta, path) for name, path in self.by.items()}
        return {
            name: [str(v) for v in value] if isinstance(value, (list, tuple)) else [str(value)]
            for name, value in found.items()
            if value is not None
        }


def at(meta: dict, path: Sequence[str]):
    """meta[a][b].., None where there is no such place."""
    found: Any = meta
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def number(key: str | None) -> Fraction | None:
    """The number that a canonical form is, if it is a plain one."""
    return Fraction(key) if key and re.fullmatch(r"-?[0-9]+(/[0-9]+)?", key) else None


def mean_of(cells: Sequence[Cell]) -> float | None:
    """Mean over strata of the means of their values; None where there is nothing."""
    strata = defaultdict(list)
    for _, stratum, value in cells:
        strata[stratum].append(value)
    return sum(sum(v) / len(v) for v in strata.values()) / len(strata) if strata else None


def share_right(record: dict) -> float:
    """pass@1 of one question."""
    return record["correct"] / len(record["answers"])


def is_right(
    benchmark: Benchmark,
    example: Example,
    answer: str | None,
    key: str | None,
    gold: str | None,
    grader: Callable | None = None,
) -> bool | None:
    """Whether an answer is right by its key and the gold one; None: the grader ran out of time.

    The grader (gold text, answer text), by default `equivalent`, judges free-form answers: a letter
    is a letter, and a benchmark's own rule (rounding, tolerance) stands, beside which `3 people` is
    3. It may accept more than equal keys.
    """
    if key is None:
        return False
    if benchmark.own_rule(example):
        by_rule = gold is not None and benchmark.right(key, gold)
        return by_rule or equivalent(example.answer, answer)
    options: dict[str | None, str] = {chr(65 + i): choice for i, choice in enumerate(example.choices)}
    if key in options:
        return key == gold
    return (grader or equivalent)(options.get(gold, example.answer), answer)


# --- MathVista ------------------------------------------------------------------------------------


MOST = 10**300  # what a float can hold, about


def mathvista_key(example: Example, answer: str | None) -> str | None:
    """The answer in the question's type: a letter, a truncated integer, a rounded float, a list."""
    if example.choices or example.meta.get("question_type") == "multi_choice":
        return option_key(answer, example.choices)
    key, kind = canonical(answer), example.meta.get("answer_type")
    # of a .csv file it is a text
    value, precision = number(key), number(canonical(str(example.meta.get("precision"))))
    if value is not None and abs(value) > MOST:
        return key
    if kind == "integer" and value is not None:
        return str(int(float(value)))
    if kind == "float" and value is not None and precision is not None:
        return str(round(float(value), int(precision)) + 0.0)  # + 0.0 turns -0.0 into 0.0
    if kind == "list" and key is not None:
        return ", ".join(item.strip() for item in re.split(",| and ", key.strip("()[]")))
    return key


# --- MathVerse ------------------------------------------------------------------------------------


def mathverse_choices(example: Example) -> Example:
    """Options stand in the question's text: `Choices:`, then `A:145°`, a line each.
    `question_for_eval` never lacks them."""
    text = example.meta.get("question_for_eval") or example.question
    _, found, options = text.rpartition("Choices:")
    lines = re.findall(r"^\s*\(?([A-Z])\s*[:.)]\s*(.+?)\s*$", options, re.MULTILINE) if found else []
    lettered = [letter for letter, _ in lines] == [chr(65 + i) for i in range(len(lines))]
    return replace(example, choices=tuple(text for _, text in lines)) if lines and lettered else example


def mathverse_unit(meta: dict) -> tuple[str, str] | None:
    """A problem stands in up to six versions."""
    problem = meta.get("problem_index")
    return None if problem is None else (f"problem {problem}", str(meta.get("problem_version")))


def mathverse_measures(records: Sequence[dict]) -> dict[str, list[Cell]]:
    versions = [(r, version) for r in records for version in r["by"].get("problem_version", ())]
    shown = [
        (r, version) for r, version in versions if not re.fullmatch(r"text[ _-]only", version, re.IGNORECASE)
    ]
    return {"mean_of_versions": [(r.get("unit", r["id"]), version, share_right(r)) for r, version in shown]}


# --- We-Math --------------------------------------------------------------------------------------


def wemath_unit(meta: dict) -> tuple[str, str] | None:
    """`ID` counts 2-step and 3-step composites apart: 2steps_multi 7 belongs to 2steps_1 7."""
    match = re.fullmatch(r"([23])steps_(1|2|3|multi)", str(meta.get("key")))
    return (f"{match[1]}steps {meta.get('ID')}", match[2]) if match else None


def composites(records: Sequence[dict]) -> tuple[dict[str, dict[str, dict]], int]:
    """({unit: {"1": record, "2": .., "multi": ..}}, how many lack a member and are left out)."""
    units: defaultdict[str, dict[str, dict]] = defaultdict(dict)
    for r in records:
        if "unit" in r:
            units[r["unit"]][r["part"]] = r
    whole = {
        unit: parts
        for unit, parts in units.items()
        if parts.keys() == {"multi", *map(str, range(1, int(unit[0]) + 1))}
    }
    return whole, len(units) - len(whole)


def four_way(subs: Sequence[bool], multi: bool, loose: bool) -> str:
    """IK insufficient knowledge, IG inadequate generalisation, CM complete mastery, RM rote
    memorisation (arXiv 2407.01284)."""
    if not multi:
        return "IG" if all(subs) else "IK"
    return "CM" if (any(subs) if loose else all(subs)) else "RM"


def four_ways(parts: dict[str, dict], loose: bool) -> dict[str, float]:
    """Share of the samples that are of each kind: sample j of every member makes composite j."""
    *subs, multi = (parts[name]["right"] for name in sorted(parts))  # "1" < "2" < "3" < "multi"
    kinds = Counter(four_way(s, m, loose) for *s, m in zip(*subs, multi, strict=True))
    return {kind: kinds[kind] / len(multi) for kind in ("IK", "IG", "CM", "RM")}


def wemath_measures(records: Sequence[dict]) -> dict[str, list[Cell]]:
    """score = (CM + IG / 2) / composites, strict and loose, with the rates of the four kinds."""
    cells = defaultdict(list)
    for unit, parts in composites(records)[0].items():
        for name, loose in (("strict", False), ("loose", True)):
            kinds = four_ways(parts, loose)
            cells[f"score_{name}"].append((unit, "", kinds["CM"] + 0.5 * kinds["IG"]))
            for kind, share in kinds.items():
                cells[f"{kind}_{name}"].append((unit, "", share))
    return dict(cells)


def wemath_details(records: Sequence[dict]) -> dict:
    """Counts (means over samples), and RM's share of composites whose last step is right."""
    whole, incomplete = composites(records)
    out: dict[str, Any] = {"composites": len(whole), "incomplete": incomplete}
    for name, loose in (("strict", False), ("loose", True)):
        kinds = [four_ways(parts, loose) for parts in whole.values()]
        counts = {kind: sum(k[kind] for k in kinds) for kind in ("IK", "IG", "CM", "RM")}
        solved = counts["CM"] + counts["RM"]
        out[name] = counts | {"RM_of_solved": counts["RM"] / solved if solved else None}
    return out


# --- ChartQA --------------------------------------------------------------------------------------


def relaxed(key: str, gold: str) -> bool:
    """Numbers within 5 % of the gold one (0 only with 0); all else equal but for case."""
    x, y = number(key), number(gold)
    if x is None or y is None:
        return key.casefold() == gold.casefold()
    return abs(x - y) <= abs(y) / 20


def chartqa_writer(example: Example) -> Example:
    """Who wrote the question stands as a number in the hub's copy."""
    writer = {0: "human", 1: "machine"}
    return replace(
        example, meta={k: writer.get(v, v) if k == "human_or_machine" else v for k, v in example.meta.items()}
    )


# --- The table ------------------------------------------------------------------------------------

PLAIN = Benchmark("plain", by={"category": ("category",)})
BENCHMARKS = {
    b.name: b
    for b in (
        Benchmark(
            "mathvista",
            frozenset({"question_type", "answer_type", "precision"}),
            {
                "question_type": ("question_type",),
                "answer_type": ("answer_type",),
                "task": ("metadata", "task"),
                "skills": ("metadata", "skills"),
            },
            key=mathvista_key,
            own_rule=lambda e: not e.choices and e.meta.get("answer_type") in ("integer", "float", "list"),
        ),
        Benchmark(
            "mathverse",
            frozenset({"problem_version"}),
            {
                "problem_version": ("problem_version",),
                "question_type": ("question_type",),
                "subject": ("metadata", "subject"),
                "subfield": ("metadata", "subfield"),
            },
            prepare=mathverse_choices,
            unit=mathverse_unit,
            measures=mathverse_measures,
        ),
        Benchmark(
            "mathvision", frozenset({"level", "subject"}), {"level": ("level",), "subject": ("subject",)}
        ),
        Benchmark(
            "wemath",
            frozenset({"ID", "key"}),
            {"key": ("key",)},
            unit=wemath_unit,
            measures=wemath_measures,
            details=wemath_details,
        ),
        Benchmark(
            "chartqa",
            frozenset({"human_or_machine"}),
            {"human_or_machine": ("human_or_machine",)},
            prepare=chartqa_writer,
            right=relaxed,
            own_rule=lambda e: True,
        ),
        PLAIN,
    )
}


def recognise(meta: dict) -> Benchmark:
    """The first benchmark whose columns the row has."""
    return next(b for b in BENCHMARKS.values() if b.columns <= meta.keys())
