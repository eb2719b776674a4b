"""Run as a script by ``harness.engine.adapters.patterns``: match regular expressions, in a process that can be killed.

Reads ``{"names": [...], "asked": [[how, expression], ...]}`` from its input, ``how`` a function of ``re``.  Writes a
line of JSON for each expression: the places of the names that match, or a text that says why it can't be matched.
"""

import json
import re
import sys


def main() -> None:
    task = json.load(sys.stdin)
    for how, expression in task["asked"]:
        try:
            match = getattr(re.compile(expression), how)
            answer = [place for place, name in enumerate(task["names"]) if match(name)]
        except (re.error, ArithmeticError, RecursionError, MemoryError) as error:
            answer = str(error) or type(error).__name__
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
