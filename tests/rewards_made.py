"""Rewards of a user's own file, as `--reward tests/rewards_made.py:letters` takes them. Imports nothing."""


def letters(group, **_):
    return [text.count("e") / 10 for text in group.texts]


def nosy(group, **context):
    """Whatever it can see, as a number: a label in it would change what is paid."""
    seen = sum(map(ord, repr((group.question, group.raw, group.keys, group.vote, sorted(context.items())))))
    return [seen % (7 + i) for i in range(len(group.texts))]


def short(group, **_):
    return [1.0]


def endless(group, **_):
    return [float("nan")] * len(group.keys)


def wordy(group, **_):
    return ["much"] * len(group.keys)


def fails(group, **_):
    return [1 / 0 for _ in group.keys]


number = 3
