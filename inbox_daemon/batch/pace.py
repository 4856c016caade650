"""How fast a batch goes, and how long it will take: what was measured in, seconds out.

Pure. Reckons in work, not in lines: a line may be ten tokens or ten thousand. INTERNALS.md says why work is counted so.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

_WINDOW = 60.0  # seconds over which speed is measured
_OUTPUT_WEIGHT = 5  # prompt tokens that an engine reads in the time in which it writes one


@dataclass(frozen=True, slots=True)
class Done:
    """What of a batch is done, at one moment.

    Attributes:
        requests: with any outcome; `answers` of them with an answer, from lines of `answer_bytes` together.
        input_tokens: of the answers; `cached_tokens` of them were in the prefix cache and cost next to nothing.
    """

    requests: int = 0
    answers: int = 0
    answer_bytes: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0

    @property
    def read(self) -> int:
        """Prompt tokens that had to be computed."""
        return max(0, self.input_tokens - self.cached_tokens)

    @property
    def work(self) -> int:
        """All tokens that had to be computed, in prompt tokens' worth."""
        return self.read + _OUTPUT_WEIGHT * self.output_tokens


@dataclass(frozen=True, slots=True)
class Speed:
    """What was done a second, and `uncached`: the share of prompt tokens that had to be computed, if there were any."""

    requests: float = 0.0
    output_tokens: float = 0.0
    work: float = 0.0
    uncached: float | None = None


@dataclass(slots=True)
class Pace:
    """The speed over the last minute of work. Times are monotonic seconds."""

    _marks: deque[tuple[float, Done]] = field(default_factory=deque)

    def mark(self, now: float, done: Done, working: bool) -> None:
        """Take note of what is done by now.

        Args:
            working: requests are with the engine. Time without is not slowness: measuring begins anew after it.
        """
        if not working and self._marks and self._marks[-1][1].requests == done.requests:
            self._marks.clear()
        self._marks.append((now, done))
        while len(self._marks) > 2 and now - self._marks[1][0] >= _WINDOW:
            self._marks.popleft()

    @property
    def speed(self) -> Speed:
        if len(self._marks) < 2:
            return Speed()
        (since, before), (now, done) = self._marks[0], self._marks[-1]
        seconds = now - since
        if seconds <= 0:
            return Speed()
        prompts = done.input_tokens - before.input_tokens
        return Speed(
            (done.requests - before.requests) / seconds,
            (done.output_tokens - before.output_tokens) / seconds,
            (done.work - before.work) / seconds,
            (done.read - before.read) / prompts if prompts else None,
        )


def seconds_left(done: Done, left: int, left_bytes: int, speed: Speed) -> float | None:
    """Return the expected seconds until a batch is done; None where nothing says.

    Args:
        left: requests without an outcome, those with the engine included; `left_bytes` is the length of their lines.
    """
    if not left:
        return 0.0
    if done.work and done.answers and speed.work > 0:
        prompts = done.input_tokens * (left_bytes / done.answer_bytes if done.answer_bytes else left / done.answers)
        uncached = speed.uncached if speed.uncached is not None else 1.0
        writing = _OUTPUT_WEIGHT * done.output_tokens * left / done.answers
        return (prompts * uncached + writing) / speed.work
    return left / speed.requests if speed.requests > 0 else None
