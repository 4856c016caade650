"""The settings in force: one holder, made at the start and handed to all who read a setting.

SIGHUP replaces what it holds. Whoever needs a setting asks `now` for it at the moment of its effect, and keeps no copy.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from operator import attrgetter

from inbox_daemon.config import Config, models
from inbox_daemon.config.models import Model

# What SIGHUP may change in a running daemon. The rest decides files, processes or what is already accepted.
RELOADABLE = ("inbox", "results", "batches", "daemon", "models", "alerts")
AT_START = ("inbox.watch", "daemon.gpu_every")  # not these of them


@dataclass(slots=True)
class Settings:
    """A holder of the settings in force.

    Attributes:
        now: replaced whole, never changed.
        models: every model that they configure (`config.models`).
        lanes: what of a batch some engine of this daemon may answer: `Model.lanes` of all models.
    """

    now: Config
    models: tuple[Model, ...] = field(init=False)
    lanes: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        self.models = models.configured(self.now)
        self.lanes = frozenset().union(*(model.lanes for model in self.models))

    def take(self, fresh: Config) -> tuple[list[str], list[str]]:
        """Take over what may change in a running daemon; return what has, and what only the next start will change."""
        changed = {f.name for f in fields(Config) if getattr(fresh, f.name) != getattr(self.now, f.name)}
        waits = {name for name in AT_START if attrgetter(name)(fresh) != attrgetter(name)(self.now)}
        taken = {name: getattr(fresh, name) for name in changed & set(RELOADABLE)}
        for name in waits:
            section, key = name.split(".")
            taken[section] = replace(taken[section], **{key: attrgetter(name)(self.now)})
        self.now = replace(self.now, **taken)
        self.__post_init__()
        return sorted(taken), sorted((changed - taken.keys()) | waits)
