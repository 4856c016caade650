"""A load that fails because Hugging Face does not give the model: asked for then, and not read from vLLM's words.

Those differ from release to release, name no next step, and are the same for many a cause. Imports no vllm.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from inbox_daemon.errors import ConfigError
from inbox_daemon.hub import asking, contents


@contextmanager
def told_apart(model: str, arguments: Mapping[str, Any]) -> Iterator[None]:
    """Where what is done in here fails, say so as the hub does, if it does not give the model or an adapter of it.

    Raises:
        ConfigError: the cause and the next step. All else is raised as it came.
    """
    try:
        yield
    except Exception as error:
        if why := _refused(model, arguments):
            raise ConfigError(why) from error
        raise


def _refused(model: str, arguments: Mapping[str, Any]) -> str | None:
    """Return why the hub does not give something that is to be loaded, and will not the next time; asks once for all.

    Blocks for so long: nothing is loaded that could wait for it.
    """
    asked = [one for one in asking.parts_of(model, arguments) if not contents.is_path(one.model)]
    seen = zip(asked, asking.look(asked), strict=True)
    return next((found.sentence(one.model) for one, found in seen if found.lasting), None)
