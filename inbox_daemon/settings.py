"""The settings in force: one holder, made at the start and handed to all who read a setting.

SIGHUP replaces what it holds. Whoever needs a setting asks `now` for it at the moment of its effect, and keeps no copy.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from operator import attrgetter

from inbox_daemon.config import Config, models
from inbox_daemon.config.models import Model
from inbox_daemon.config.names import is_on_hugging_face
from inbox_daemon.errors import ConfigError

# What SIGHUP may change in a running daemon. The rest decides files, processes or what is already accepted.
RELOADABLE = ("inbox", "results", "batches", "daemon", "models", "model", "alerts")
AT_START = ("inbox.watch", "daemon.gpu_every")  # not these of them


@dataclass(slots=True)
class Settings:
    """A holder of the settings in force.

    Attributes:
        now: replaced whole, never changed.
        models: every model that they configure (`config.models`).
        beside: further models that the daemon has still, or has taken on (`dispatch/roster`, which alone says so).
    """

    now: Config
    models: tuple[Model, ...] = field(init=False)
    beside: tuple[Model, ...] = field(init=False, default=())
    _lanes: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        self.models = models.configured(self.now)
        self.keep_beside(self.beside)

    def keep_beside(self, others: tuple[Model, ...]) -> None:
        """Take note which models there are beside those that are configured."""
        self.beside = others
        self._lanes = models.lanes_of((*self.models, *others))

    @property
    def several(self) -> bool:
        """Whether the daemon may have more models than one."""
        return len({model.name for model in (*self.models, *self.beside)}) > 1 or self.now.models.allow_any

    def serves(self, lane: str) -> bool:
        """Whether some engine of this daemon may answer what of a batch is for this model; "": for none by name."""
        return lane in self._lanes or (self.now.models.allow_any and is_on_hugging_face(lane))

    def take(self, fresh: Config) -> tuple[list[str], list[str]]:
        """Take over what may change in a running daemon; return what has, and what only the next start will change.

        Raises:
            ConfigError: what is taken over and what stays as it was do not fit together; then nothing is.
        """
        changed = {f.name for f in fields(Config) if getattr(fresh, f.name) != getattr(self.now, f.name)}
        waits = {name for name in AT_START if attrgetter(name)(fresh) != attrgetter(name)(self.now)}
        taken = {name: getattr(fresh, name) for name in changed & set(RELOADABLE)}
        for name in waits:
            section, key = name.split(".")
            taken[section] = replace(taken[section], **{key: attrgetter(name)(self.now)})
        together = replace(self.now, **taken)
        models.check(together, "with [engine] as it was at the start")
        if "model" in taken and not models.configured(together)[0].name:
            raise ConfigError("no model is left: engine.model is not set, and there is no [model] table")
        self.now = together
        self.__post_init__()
        return sorted(taken), sorted((changed - taken.keys()) | waits)
