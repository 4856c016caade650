"""Which models are configured, and under which names: the one place to ask. Pure.

`engine.model` is one, and each `[model."NAME"]` is one. Whoever wants to know what a name in a request means asks
`request/catalog`, which is made of this; who has which lane of a batch asks for `Model.lanes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from inbox_daemon.config import names
from inbox_daemon.config.arguments import DECIDED_ELSEWHERE
from inbox_daemon.config.sections import Config, EngineSettings, ModelTable
from inbox_daemon.errors import ConfigError
from inbox_daemon.text import toml_key

# What in [engine.args] is about `engine.model` alone, and no default of the others.
_OF_ONE_MODEL = ("served_model_name", "lora_modules", "enable_lora", "max_loras", "max_lora_rank")


@dataclass(frozen=True, slots=True)
class Model:
    """One model that this daemon may load.

    Attributes:
        name: by which batches and the history know it, as `engine.model` or the table's name has it; "": the engine
            has none, as one without a model.
        engine: all settings of its engine; `engine.model` is what vLLM is told to load.
        front: requests that name no model are for this one, and so is `engine.preload`.
        aliases: further names that requests may use for it, from its own table.
        gpus: numbers of those that it may use; (): all.
        table: its table's name as TOML writes it, for messages; "": it is `engine.model` and has none.
        listed: the settings have it; else a request has named it, and `models.allow_any`.
    """

    name: str
    engine: EngineSettings
    front: bool
    table: str = ""
    aliases: tuple[str, ...] = ()
    gpus: tuple[int, ...] = ()
    listed: bool = True

    @property
    def said(self) -> str:
        """How the settings say which model it is, for messages."""
        if not self.listed:
            return f"{self.name!r} (models.allow_any)"
        if not self.table:
            return f"engine.model = {self.engine.model!r}"
        return f"[{self.table}]" if self.engine.model == self.name else f"{self.table}.path = {self.engine.model!r}"

    @property
    def said_of_args(self) -> str:
        """Where the settings have its engine's arguments, for messages."""
        return f"[{self.table}.args]" if self.table and self.listed else "[engine.args]"

    @property
    def served(self) -> list[str]:
        """The names it is served by, the first of which its answers bear; [] where it has none."""
        return names.names(self.engine)

    @property
    def adapters(self) -> list[str]:
        """The names of the adapters (LoRA) that it is loaded with; each is a model of its own to who asks for it."""
        return names.adapters(self.engine)

    @property
    def lanes(self) -> frozenset[str]:
        """Which requests its engines answer: those accepted for it, for its adapters and, as `front`, for no model."""
        return frozenset((self.name, *self.adapters, *([""] if self.front else [])))


def configured(config: Config) -> tuple[Model, ...]:
    """Return every model of these settings, the front one first, then in the settings' order; always one at least."""
    engine, tables = config.engine, config.model
    front = engine.model or next(iter(tables), "")
    rest = [_of_table(engine, name, table, front == name) for name, table in tables.items() if name != front]
    if front in tables:
        return (_of_table(engine, front, tables[front], True), *rest)
    return (Model(engine.model, engine, True), *rest)


def lanes_of(some: Iterable[Model]) -> frozenset[str]:
    """Return which requests the engines of some models answer (`Model.lanes`)."""
    return frozenset().union(*(model.lanes for model in some))


def unlisted(config: Config, name: str) -> Model:
    """Return the model of this name, which the settings do not have, with what they say of all (`models.allow_any`)."""
    return replace(_of_table(config.engine, name, ModelTable(), False), listed=False)


def sleeping(config: Config) -> bool:
    """Whether engines are loaded so that they can sleep: models take turns, and the one that gives way is to."""
    return config.models.sleep and several(config)


def several(config: Config) -> bool:
    """Whether there may be more models than one."""
    return len(configured(config)) > 1 or config.models.allow_any


def _of_table(engine: EngineSettings, name: str, table: ModelTable, front: bool) -> Model:
    """Return the model of one table; what only `engine.model` can mean in [engine.args] is not for another one."""
    shared = {key: value for key, value in engine.arguments.items() if engine.model == name or key not in _OF_ONE_MODEL}
    args: dict[str, Any] = shared | {key.replace("-", "_"): value for key, value in table.args.items()}
    if table.path:
        args.setdefault("served_model_name", name)
    if table.adapters:
        added = [{"name": adapter, "path": folder} for adapter, folder in table.adapters.items()]
        args["lora_modules"] = [*names.modules(args), *added]
    loaded = replace(engine, model=table.path or name, args=args)
    return Model(name, loaded, front, f"model.{toml_key(name)}", table.aliases, table.gpus)


def check(config: Config, source: str) -> None:
    """Raise ConfigError where a name means two things, an adapter could not be asked for, or an argument has no effect.

    Args:
        source: where the settings are from, for the message.
    """
    given = {"engine.args": config.engine.args}
    given |= {f"model.{toml_key(name)}.args": table.args for name, table in config.model.items()}
    for where, arguments in given.items():
        for name, value in arguments.items():
            if instead := DECIDED_ELSEWHERE.get(name.replace("-", "_")):
                raise ConfigError(f"{source}: {where}.{name} = {value!r} is not taken there: {instead}")
    for model in configured(config):
        _check_adapters(model, f"{source}: {model.said_of_args.strip('[]')}")
        if hidden := sorted(set(config.models.aliases) & set(model.adapters)):
            instead = "requests that name it are for the adapter; remove the alias"
            said = f"models.aliases: {hidden[0]!r} is an adapter's name in lora_modules"
            raise ConfigError(f"{source}: {said}; {instead}")
    if config.model:
        _check_names(config, source)


def _check_adapters(model: Model, where: str) -> None:
    arguments, extra, own = model.engine.arguments, model.adapters, {*model.served, model.name}
    if len(extra) < len(names.modules(arguments)):
        forms = 'each is "name=/folder", or {name = "…", path = "/folder"}'
        raise ConfigError(f"{where}.lora_modules is not right: {forms}")
    if arguments.get("enable_lora") and not extra:
        instead = 'name the adapters, lora_modules = ["name=/folder"], or leave it out'
        raise ConfigError(f"{where}.enable_lora has no effect without adapters: {instead}")
    if twice := sorted({name for name in extra if extra.count(name) > 1 or name in own}):
        what = "the model's name too" if twice[0] in own else "there twice"
        raise ConfigError(f"{where}.lora_modules: {twice[0]!r} is {what}; give each a name of its own")


def _check_names(config: Config, source: str) -> None:
    """Raise ConfigError where two models, or what stands for them, have one name: a request could mean either."""
    found: dict[str, str] = {}
    for name, meaning in _meanings(config):
        if found.setdefault(name, meaning) != meaning:
            twice = f"{name!r} is there twice, as {found[name]} and as {meaning}"
            raise ConfigError(f"{source}: {twice}; a request that names it could mean either. Give each its own name")


def _meanings(config: Config) -> Iterator[tuple[str, str]]:
    """Yield each name that a request may use, and what it is."""
    for model in configured(config):
        for name in dict.fromkeys([model.name, *model.served]):
            yield name, f"the model {model.name!r}"
        for name in model.adapters:
            yield name, f"an adapter of {model.name!r}"
        for name in model.aliases:
            yield name, f"an alias of {model.name!r}"
    for name, meant in config.models.aliases.items():
        yield name, f"an alias of {meant!r}"
