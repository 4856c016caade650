"""How fast a batch goes, and how long it will take: what was measured in, seconds out.

Pure. Reckons in work, not in lines: a line may be ten tokens or ten thousand. INTERNALS.md says why work is counted so.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

_WINDOW = 60.0  # seconds over which speed is measured
_OUTPUT_WEIGHT = 5  # prompt tokens that an engine reads in the time in which it writes one
_ENOUGH = 0.5  # of what is in flight: so many answers are as many as are computed at a time, short ones and long
_COMPUTED = 0.5  # of what is in flight: what the engine has begun; the rest is its queue
_HALF_DONE = 1 / 3  # of what has begun is done already: less than half, since the last ones run with few beside them


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
class Busy:
    """For how many `seconds` engines have had something of a batch: neither loads nor other models' turns are in it."""

    seconds: float = 0.0
    _since: float | None = None

    def mark(self, now: float, at_work: bool) -> None:
        """Take note of whether engines have something from now on. `now` is monotonic seconds."""
        if self._since is not None:
            self.seconds += now - self._since
        self._since = now if at_work else None


@dataclass(slots=True)
class Pace:
    """The speed over the last minute of work. Times are monotonic seconds.

    Attributes:
        at_once: the most requests that were in flight at a time.
    """

    _marks: deque[tuple[float, Done]] = field(default_factory=deque)
    at_once: int = 0

    def mark(self, now: float, done: Done, in_flight: int, owed: bool = False) -> None:
        """Take note of what is done by now.

        Measuring begins with the first answer, and anew after a time in which nothing was with the engine: neither
        compiling nor a pause is slowness.

        Args:
            in_flight: requests that are with the engine.
            owed: some of what it has answered is not counted yet.
        """
        self.at_once = max(self.at_once, in_flight)
        nothing_came = bool(self._marks) and self._marks[0][1].requests == done.requests
        idle = not in_flight and not owed and bool(self._marks) and self._marks[-1][1].requests == done.requests
        if nothing_came or idle:
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


def seconds_left(done: Done, left: int, left_bytes: int, speed: Speed, at_once: int = 0) -> float | None:
    """Return the expected seconds until a batch is done; None where nothing says, or too little.

    The first to be answered are the short ones, so as many must be as are computed at a time.

    Args:
        left: requests without an outcome, those with the engine included; `left_bytes` is the length of their lines.
        at_once: the most that were in flight at a time.
    """
    if not left:
        return 0.0
    to_do = left - _HALF_DONE * min(left, _COMPUTED * at_once)
    if done.work and done.answers and speed.work > 0:
        if done.answers < _ENOUGH * at_once:
            return None
        ahead = to_do / left * left_bytes / done.answer_bytes if done.answer_bytes else to_do / done.answers
        uncached = speed.uncached if speed.uncached is not None else 1.0
        writing = _OUTPUT_WEIGHT * done.output_tokens * to_do / done.answers
        return (done.input_tokens * ahead * uncached + writing) / speed.work
    if done.requests < _ENOUGH * at_once:
        return None
    return to_do / speed.requests if speed.requests > 0 else None
