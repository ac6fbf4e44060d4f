"""The queue of jobs: one live job per example, in a fixed order; a lost example's other jobs are
cancelled.
"""

from __future__ import annotations

from collections import deque

from torchproof.attack.cases import Jobs


class Queue:
    """Hands out job indices. An example whose job ended goes to the head of the line, so that
    examples finish soon.

    Which jobs an example gets, and in which order, depends on that example alone: neither the
    number of slots nor the company it is in changes what is done for it.
    """

    def __init__(self, jobs: Jobs) -> None:
        self._waiting = deque((problem, deque(of)) for problem, of in jobs.of_problem())
        self._flying: dict[int, deque[int]] = {}

    def pop(self, room: int) -> list[int]:
        """At most `room` jobs of examples that are not in flight."""
        picked: list[int] = []
        while self._waiting and len(picked) < room:
            problem, rest = self._waiting.popleft()
            picked.append(rest.popleft())
            self._flying[problem] = rest
        return picked

    def land(self, problems: list[int], lost: list[bool]) -> list[int]:
        """The jobs in flight of these problems have ended; returns the problems with nothing left
        to do.
        """
        finished = []
        for problem, gone in reversed(list(zip(problems, lost, strict=True))):
            rest = self._flying.pop(problem)
            if rest and not gone:
                self._waiting.appendleft((problem, rest))
            else:
                finished.append(problem)
        return finished[::-1]
