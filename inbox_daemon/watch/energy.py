"""What of the GPUs' energy each batch has cost: what they spent since the last sample, by the work done since. Pure.

Counted are GPUs that hold something; what somebody else computes on one of them counts as ours. Nothing counts
while no engine has a request, and nothing of a batch after its last sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

from inbox_daemon.records import Gpus

_IN_USE = 0.1  # of a GPU's memory: somebody has a model there


class Energy:
    """What has been spent, and not shared out yet."""

    def __init__(self) -> None:
        self._at = 0.0  # Unix seconds of the last sample
        self._read: dict[str, float] = {}  # joules that each GPU had spent by then
        self._done: dict[int, int] = {}  # work that each batch had done by then
        self._spent = 0.0  # joules since work was done last

    @property
    def known(self) -> Set[int]:
        """The batches of which it knows what they had done by some time."""
        return self._done.keys()

    def look(self, gpus: Gpus, done: Mapping[int, int], at_work: bool) -> dict[int, float]:
        """Return the joules that batches have cost since the last look, by their numbers.

        Args:
            done: work that each has done by now, in any unit that all share.
            at_work: whether engines have requests.
        """
        for number, work in done.items():
            self._done.setdefault(number, work)  # what was done before is not of this daemon's GPUs
        if gpus.at == self._at:
            return {}
        self._at = gpus.at
        read = {
            one.uuid: one.energy_joules
            for one in gpus.devices
            if one.energy_joules is not None and (one.memory_used_bytes or 0) >= _IN_USE * (one.memory_total_bytes or 1)
        }
        self._spent += sum(max(0.0, joules - self._read.get(uuid, joules)) for uuid, joules in read.items())
        more = {number: work - self._done[number] for number, work in done.items()}
        self._read, self._done = read, dict(done)
        total = sum(more.values())
        if not total:
            self._spent = self._spent if at_work else 0.0
            return {}
        shares = {number: self._spent * work / total for number, work in more.items() if work}
        self._spent = 0.0
        return shares if read else {}
