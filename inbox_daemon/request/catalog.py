"""Which model a request asks for, and whether a model that is served may answer it.

Pure, but for reading its own packaged table. Owns `ollama_models.toml`: Ollama names and the Hugging Face names behind
them. Never asks a network or the disk whether a model exists: a name in Hugging Face's form counts as one.
"""

from __future__ import annotations

import functools
import json
import re
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from difflib import get_close_matches
from importlib import resources
from typing import Any

from inbox_daemon.config.names import ANY_NAME, is_on_hugging_face
from inbox_daemon.request.named import slugs

TOOL = "tools/fix_batch_model_names.py"

_SHOWN = 200  # characters of a name in a message; a request can name anything
_REMEMBERED = 1024  # answers that `Models` keeps; a file with a new name in every line must not fill the memory

# What Ollama appends to a tag for a quantization: q4_K_M, q8_0, iq4_xs, fp16, bf16, mxfp4, it-qat, mlx-bf16.
_QUANTIZATION = re.compile(r"(?:(?:^|-)(?:i?q\d\w*|b?fp?(?:8|16|32)|mxfp[48]|nvfp4|int[48]|qat|mlx))+$")
_HUGGING_FACE = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_PATH = ("/", "./", "../", "~")


class UnknownModel(ValueError):
    """A name that is neither in the table nor in the form of a Hugging Face name or a path.

    Its text names the model and what comes close to it, or why the table will not decide.
    """


@dataclass(frozen=True, slots=True)
class Entry:
    """What a name stands for.

    Attributes:
        name: the Hugging Face name; None where the table refuses to choose, and the note says why.
        note: what to know of an ambiguous tag, else empty.
    """

    name: str | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Family:
    """The tags of one Ollama family, in lower case; `same` are the words in a tag that change nothing."""

    tags: Mapping[str, Entry]
    same: tuple[str, ...]

    def find(self, tag: str) -> Entry | None:
        if tag in self.tags:
            return self.tags[tag]
        plain = _QUANTIZATION.sub("", tag)
        spellings = [plain, *(f"-{plain}".removesuffix(f"-{word}").removeprefix("-") for word in self.same)]
        for spelling in spellings:
            known = spelling or "latest"
            if plain != tag and f"{known}-*" in self.tags:
                return self.tags[f"{known}-*"]
            if known in self.tags:
                return self.tags[known]
        return None


@dataclass(frozen=True, slots=True)
class Table:
    verified_on: date
    families: Mapping[str, Family]


@functools.cache
def table() -> Table:
    """Return the packaged table, read once."""
    text = resources.files("inbox_daemon.request").joinpath("ollama_models.toml").read_text(encoding="utf-8")
    content = tomllib.loads(text)
    verified_on: date = content.pop("verified_on")
    return Table(verified_on, {family: _family(rows) for family, rows in content.items()})


def _family(rows: dict[str, Any]) -> Family:
    same = tuple(rows.pop("same", ()))
    tags: dict[str, Entry] = {}
    pointers: dict[str, str] = {}
    for tag, row in rows.items():
        if isinstance(row, dict):
            tags[tag] = Entry(row.get("name"), row["note"])
        elif "/" in row:
            tags[tag] = Entry(row)
        else:
            pointers[tag] = row
    for tag, target in pointers.items():
        tags[tag] = tags[target]
    if f"{pointers.get('latest')}-*" in tags:
        tags["latest-*"] = tags[f"{pointers['latest']}-*"]
    return Family(tags, same)


def look_up(name: str) -> Entry | None:
    """Return what `name` stands for; None when it is unknown. A name that needs no translation stands for itself."""
    for host in ("hf.co/", "huggingface.co/"):
        if name.startswith(host):
            repository = name.removeprefix(host).partition(":")[0]
            return Entry(repository) if _HUGGING_FACE.fullmatch(repository) else None
    if name.startswith(_PATH):
        return Entry(name)
    bare = name.removeprefix("registry.ollama.ai/").removeprefix("ollama.com/").removeprefix("library/")
    if "/" in bare:
        users_own = bare != name or re.search(r"[:\s]", name)  # what a user of Ollama made, and only Ollama has
        return None if users_own else Entry(name)
    family, _, tag = bare.lower().partition(":")
    known = table().families.get(family)
    return known.find(tag or "latest") if known else None


def translate_ollama(name: str) -> str:
    """Return the Hugging Face name behind an Ollama name.

    A missing tag or ``:latest`` means the family's default, and a tag's quantization (``-q4_K_M``, ``-fp16``) is
    dropped: vLLM loads the weights as they were published. ``hf.co/org/repo:quant`` gives ``org/repo``, which is often
    a repository of GGUF files. ``org/repo`` and paths (with a slash, or from ``/``, ``./``, ``../`` or ``~``) pass
    through as they are.

    Raises:
        UnknownModel: nothing is known by that name, or the table refuses to choose between several.
    """
    entry = look_up(name)
    if entry is None:
        raise UnknownModel(f"{_quoted(name)} is not a model name known here{_close_to(name)}")
    if entry.name is None:
        raise UnknownModel(f"{_quoted(name)} may mean several models: {entry.note}")
    return entry.name


def _close_to(name: str) -> str:
    bare = name.rpartition("/")[2].lower()[:_SHOWN]
    family = bare.partition(":")[0]
    names = {
        f"{other}:{tag}" if tag != "latest" else other: other
        for other, known in table().families.items()
        for tag in known.tags
        if not tag.endswith("*")
    }
    siblings = [full for full, other in names.items() if other == family]
    close = get_close_matches(bare, siblings, n=3, cutoff=0.0) or get_close_matches(bare, names, n=3)
    return f"; close to it: {', '.join(close)}" if close else ""


def _quoted(name: str) -> str:
    return json.dumps(name if len(name) <= _SHOWN else name[:_SHOWN] + "…", ensure_ascii=False)


@dataclass(frozen=True)
class Models:
    """The models that are served, and the names under which requests may ask for them.

    Attributes:
        served: the name that the first of them is served by.
        aliases: further names and the model that each stands for (`[models.aliases]`, and those of models' tables).
        translate_ollama: whether Ollama names are understood too (`[models] translate_ollama`).
        adapters: the names of those that a model is served with (LoRA).
        others: the names that the other models are served by.
        any: a name on Hugging Face that is none of these stands for the model of that name (`[models] allow_any`).
    """

    served: str
    aliases: Mapping[str, str]
    translate_ollama: bool
    adapters: frozenset[str] = frozenset()
    others: tuple[str, ...] = ()
    any: bool = False
    _known: dict[str | None, str | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    def accepts(self, name: str | None) -> str | None:
        """Return None when a request naming `name` may run here, else a sentence with the reason and the next step.

        None as the name is a request that names no model; it runs on whatever is served.
        """
        try:
            return self._known[name]
        except KeyError:
            sentence = None if name is None else self._judge(name)
            if len(self._known) < _REMEMBERED and (name is None or len(name) <= _SHOWN):
                self._known[name] = sentence
            return sentence

    def _judge(self, name: str) -> str | None:
        if self.answering(name) is not None:
            return None
        asked = self._meant_by(name)
        return self._refusal(name, asked, look_up(asked) or Entry(None))

    def answering(self, name: str) -> str | None:
        """Return which of `served`, `others` and `adapters` answers a request that names `name`; None: none does.

        With `any`, it may be a model that is none of these.
        """
        asked = self._meant_by(name)
        if self._is_here(asked):
            return asked
        behind = self._behind(look_up(asked)) if self.translate_ollama else None
        if behind and self._is_here(behind):
            return behind
        unlisted = behind or asked
        return unlisted if self.any and is_on_hugging_face(unlisted) else None

    def lists(self, name: str) -> bool:
        """Whether a request that names `name` is answered by one of `served`, `others` and `adapters`."""
        answering = self.answering(name)
        return answering is not None and self._is_here(answering)

    def translated(self, name: str) -> str | None:
        """Return which of them answers a request that names `name` because that is Ollama's name for it; else None."""
        return None if self._is_here(self._meant_by(name)) or self.answering(name) == name else self.answering(name)

    @property
    def meant(self) -> dict[str, str]:
        """What answers, by each name that somebody has given it here."""
        names = [self.served, *self.others, *self.adapters, *(name for name in self.aliases if name != ANY_NAME)]
        return {name: answering for name in names if (answering := self.answering(name)) is not None}

    @functools.cached_property
    def slugs(self) -> dict[str, str]:
        """What answers, by what a file's name may say of a model (`named`)."""
        return slugs(self.meant)

    def _behind(self, entry: Entry | None) -> str | None:
        """Return under which name a model of Ollama's is served, or would be."""
        return self.aliases.get(entry.name, entry.name) if entry and entry.name else None

    def _meant_by(self, name: str) -> str:
        """Return what a name stands for; one that is unknown stands for what the alias "*" says, if there is one."""
        if self._is_here(name):
            return name
        return self.aliases.get(name) or self.aliases.get(ANY_NAME, name)

    def _is_here(self, name: str) -> bool:
        return name == self.served or name in self.others or name in self.adapters

    @property
    def _names(self) -> str:
        models = [_quoted(name) for name in (self.served, *self.others)]
        said = models[0] if len(models) == 1 else f"{', '.join(models[:-1])} and {models[-1]}"
        adapters = ", ".join(map(_quoted, sorted(self.adapters)))
        return f"{said} with the adapters {adapters}" if adapters else said

    def _refusal(self, name: str, asked: str, entry: Entry) -> str:
        # An alias may stand for an Ollama name, which stands for something again.
        meant = dict.fromkeys(_quoted(other) for other in (asked, entry.name) if other and other != name)
        behind = f" (which stands for {', '.join(meant)})" if meant else ""
        steps = [f"rewrite the file with {TOOL} IN OUT {shlex.quote(self.served)}"]
        if (here := self._behind(entry)) and self._is_here(here):
            steps.append("set translate_ollama = true under [models] in the configuration")
        steps.append(f"add {_quoted(name)} = {_quoted(self.served)} to [models.aliases] in the configuration")
        if self.others:
            steps.append(f"give that model a table of its own there, [model.{_quoted(name)}]")
        note, are = f"; note: {entry.note}" if entry.note else "", "are" if self.others else "is"
        said = f"the request asks for {_quoted(name)}{behind}, but {self._names} {are} served"
        return f"{said}; {', or '.join(steps)}{note}"
