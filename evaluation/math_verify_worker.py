"""The process of math-verify: [gold, answer] as JSON comes in, true or false goes out.

Started by evaluation/grader.py, which kills it where it takes too long. It imports nothing of ours.
"""

import json
import logging
import resource
import sys

from math_verify import LatexExtractionConfig, parse, verify

MEMORY = 4 * 2**30  # bytes of address space


def work() -> None:
    logging.disable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    config = [LatexExtractionConfig(boxed_match_priority=0)]

    def read(answer: str) -> list:
        return parse(
            f"\\boxed{{{answer}}}", extraction_config=config, parsing_timeout=None, raise_on_error=False
        )

    print("ready", flush=True)
    for line in sys.stdin:
        gold, answer = json.loads(line)
        try:
            same = verify(read(gold), read(answer), timeout_seconds=None, raise_on_error=False)
        except (Exception, RecursionError):  # whatever it trips over, the answer isn't shown to be right
            same = False
        print(json.dumps(bool(same)), flush=True)


if __name__ == "__main__":
    work()
