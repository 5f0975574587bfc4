"""Groups that teach nothing give their place to further questions.

DAPO (arXiv 2503.14476, section 3.2, dynamic sampling): a group of equal rewards has no advantages, so that a
step with many of them is small and noisy. There a step is sampled until it is full, here --refill times at
most.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from common.distributed import World
from data.stream import Questions
from model_utils import Rollout
from rewards.group import Group

Step = tuple[Rollout, list[str], list[Group], Tensor]  # of this process; the last is [P, G]


def without_spread(rewards: Tensor) -> list[int]:
    """Of rewards [P, G] the groups whose rewards are equal."""
    return [q for q, own in enumerate(rewards) if bool((own == own[0]).all())]


def fill(step: Step, ask: Callable, earn: Callable, stream: Questions, config, world: World) -> Step:
    """The step, in which groups without spread have given way to those of further questions.

    Each of at most --refill tries asks one question for every such group, on the process that holds it; one
    with spread takes its place. So the same do at any number of processes. What is left stays; a question is
    asked once in a step. Collective. `ask`: responses to questions, with texts; `earn`: groups, rewards.
    """
    rollout, texts, groups, rewards = step
    (P, G), known = rewards.shape, set(world.gather_json([group.question.id for group in groups]))
    for _ in range(config.refill):
        here = without_spread(rewards)
        places = sorted(world.gather_json([q * world.size + world.rank for q in here]))
        mine = [j for j, place in enumerate(places) if place % world.size == world.rank]
        questions = stream.next(len(places), mine, known) if places else []
        if not places or not stream.taken:
            break
        known |= set(stream.taken)
        if questions:
            more, said = ask(questions)
            new, earned = earn(said, questions)
            at = {q: q for q in range(P)}  # where each group is now; new ones stand behind
            at |= {here[k]: P + k for k in range(len(new)) if k not in without_spread(earned)}
            order, views = list(at.values()), G // rollout.num_samples
            groups, rewards = [(groups + new)[i] for i in order], torch.cat([rewards, earned])[order]
            rollout = rollout.joined(more).select([i * views + v for i in order for v in range(views)])
            texts = [text for group in groups for text in group.texts]
    return rollout, texts, groups, rewards
