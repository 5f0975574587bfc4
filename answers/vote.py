"""Which answers of a group vote together.

    answer_classes(["1/2", "2^{-1}", "50%", "7", None])  ->  ["1/2", "1/2", "1/2", "7", None]

1. Answers with one key are one class: fast, and most of what there is.
2. The few distinct keys are compared pair by pair. Those that mean the same join, where all of them agree
   with each other; a chain whose ends differ stays apart.
3. An answer that leaves something out (5 beside `5 cm`) joins the class that says it, where each is the
   other's commonest partner: of `5, 5, 5 cm, 5 cm, 5 m` the bare ones are 5 cm. Where two are equally common
   it stays alone, and what two bare answers say must not differ: 50% takes in 0.5 or 50, never both.

So classes depend on which answers there are and how often, not on their order. n distinct keys cost
n (n - 1) / 2 comparisons: 28 for a group of 8. Beyond MAX_KEYS the commonest are compared.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations, product

from answers.choices import option_key
from answers.keys import compare
from answers.same import Compare, Same
from answers.units import split_unit

MAX_KEYS = 64


def answer_classes(
    answers: Sequence[str | None], choices: tuple[str, ...] = (), compare: Compare = compare
) -> list[str | None]:
    """For each answer the commonest key of its class; None where nothing parsed."""
    keys = [option_key(answer, choices) for answer in answers]
    counts = Counter(key for key in keys if key is not None)
    if len(counts) < 2:
        return list(keys)
    letters = {chr(65 + i) for i in range(len(choices))}
    spelled: dict[str, str] = {}  # the shortest writing of each key that is no option
    for key, answer in zip(keys, answers, strict=True):
        if key is not None and answer is not None and key not in letters:
            spelled[key] = min(spelled.get(key, answer), answer, key=lambda text: (len(text), text))
    commonest = sorted(spelled, key=lambda key: (-counts[key], key))[:MAX_KEYS]
    found = {frozenset((a, b)): compare(spelled[a], spelled[b]) for a, b in combinations(commonest, 2)}
    classes = _forgiving(_cliques([[key] for key in commonest], found), counts, found)
    name = {
        key: min(members, key=lambda k: (-counts[k], len(k), k)) for members in classes for key in members
    }
    return [key if key is None else name.get(key, key) for key in keys]


def _cliques(classes: list[list[str]], found: dict[frozenset, Same]) -> list[list[str]]:
    """Joins keys that mean the same; keys that hang together but don't all agree stay as they are."""
    joined, seen = [], set()
    for [start] in classes:
        if start in seen:
            continue
        reached = [start]
        for key in reached:
            reached += [k for [k] in classes if k not in reached and found[frozenset((key, k))] == Same.YES]
        seen.update(reached)
        whole = all(found[frozenset(pair)] == Same.YES for pair in combinations(reached, 2))
        joined += [reached] if whole else [[key] for key in reached]
    return joined


def _forgiving(classes: list[list[str]], counts: Counter, found: dict[frozenset, Same]) -> list[list[str]]:
    """Joins each class that leaves something out to its commonest partner, where that is mutual."""

    def agree(ours: list[str], theirs: list[str]) -> bool:
        pairs = list(product(ours, theirs))
        differ = (pair for pair in pairs if found[frozenset(pair)] == Same.NO)
        bare_differ = any(split_unit(a) is None and split_unit(b) is None for a, b in differ)
        return not bare_differ and any(found[frozenset(pair)] == Same.FORGIVEN for pair in pairs)

    def chosen(i: int) -> int | None:
        partners = {j: size[j] for j in range(len(classes)) if j != i and agree(classes[i], classes[j])}
        best = [j for j, n in partners.items() if n == max(partners.values())]
        return best[0] if len(best) == 1 else None

    size = [sum(counts[key] for key in members) for members in classes]
    choice = [chosen(i) for i in range(len(classes))]
    pairs = [(i, j) for i, j in enumerate(choice) if j is not None and i < j and choice[j] == i]
    alone = set(range(len(classes))) - {i for pair in pairs for i in pair}
    return [classes[i] + classes[j] for i, j in pairs] + [classes[i] for i in sorted(alone)]
