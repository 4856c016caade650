"""The child that speaks with the hub, by Hugging Face's own library: `python -m inbox_daemon.hub.child`.

Beside `engine/placement` the only importer of huggingface_hub. Reads a question from stdin, writes the answer as one
line of JSON, ends; and dies with who asked. Nothing of a model that it reads is a program that it runs.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import orjson

from inbox_daemon.hub import contents
from inbox_daemon.hub.answers import Had, Seen, needed
from inbox_daemon.hub.asking import Asked
from inbox_daemon.machine.parent import tie_to_parent

_WITHIN = 10.0  # seconds for an answer of the hub's


def main() -> None:
    tie_to_parent()
    question = orjson.loads(sys.stdin.buffer.read())
    asked = [Asked(**one) for one in question["asked"]]
    # Read once, when it is imported. Nobody reads what it prints but for its last line.
    os.environ |= {
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_VERBOSITY": "error",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    try:
        import huggingface_hub  # noqa: F401
    except ImportError:
        answers = [Seen(Had.NO_LIBRARY, f"in {sys.prefix}")] * len(asked)
    else:
        do = {"look": _look, "look here": _here, "pull": _pull}[question["do"]]
        answers = [do(one) for one in asked]
    sys.stdout.buffer.write(orjson.dumps(answers) + b"\n")


def _look(asked: Asked) -> Seen:
    here = _here(asked)
    if here.good:
        return here
    try:
        return _offered(asked)
    except Exception as error:  # the library's own kinds, and those of whatever it speaks HTTP by
        said = _refusal(error)
        if here.folder and said.had in (Had.SHUT_OFF, Had.UNREACHABLE):
            return replace(said, why=f"{here.why} of it is lacking; {said.why}".rstrip("; "), folder=here.folder)
        return said


def _here(asked: Asked) -> Seen:
    """Return what the cache has: whole, or in part."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = [try_to_load_from_cache(asked.model, name, revision=asked.revision) for name in contents.DESCRIBE]
    except HFValidationError as error:
        return Seen(Had.NOT_FOUND, _words(error))
    for path in found:
        if isinstance(path, str):
            here = contents.seen(Path(path).parent, Had.CACHED)
            return replace(here, had=Had.NOT_HERE) if here.why else here
    return Seen(Had.NOT_HERE)


def _offered(asked: Asked) -> Seen:
    """Return what the hub has of a model. Raises what the library raises where it may not be had."""
    from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    try:  # who may not have a gated model may see what it has, but none of it
        url = hf_hub_url(asked.model, contents.MODELS[0], revision=asked.revision)
        get_hf_file_metadata(url, timeout=_WITHIN)
    except EntryNotFoundError:
        pass  # known by other files
    about = HfApi().model_info(asked.model, revision=asked.revision, files_metadata=True, timeout=_WITHIN)
    files = {one.rfilename: one.size or 0 for one in about.siblings or ()}
    wanted = dict(_wanted(files))
    licence = about.card_data.get("license") if about.card_data else None
    with tempfile.TemporaryDirectory() as folder:
        for name in (*contents.DESCRIBE, contents.TOKENIZER):
            if name in files:
                hf_hub_download(asked.model, name, revision=about.sha, local_dir=folder, etag_timeout=_WITHIN)
        described = contents.seen(Path(folder))
        template = contents.has_template(files, Path(folder))
    return Seen(
        Had.OFFERED,
        store=_store(asked.model),
        files=wanted,
        to_fetch=sum(size for name, size in wanted.items() if not _in_cache(asked.model, name, about.sha)),
        config=described.config,
        adapter=described.adapter,
        template=template,
        licence=licence if isinstance(licence, str) else "",
    )


def _wanted(files: dict[str, int]) -> Iterator[tuple[str, int]]:
    from huggingface_hub.utils import filter_repo_objects

    yield from ((name, files[name]) for name in filter_repo_objects(files, **needed(files)))


def _in_cache(model: str, name: str, commit: str | None) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(model, name, revision=commit), str)


def _store(model: str) -> str:
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    return str(Path(HF_HUB_CACHE) / repo_folder_name(repo_id=model, repo_type="model"))


def _pull(asked: Asked) -> Seen:
    from huggingface_hub import HfApi, snapshot_download

    try:
        about = HfApi().model_info(asked.model, revision=asked.revision, timeout=_WITHIN)
        names = {one.rfilename: 0 for one in about.siblings or ()}
        folder = snapshot_download(asked.model, revision=asked.revision, **needed(names))
    except Exception as error:
        return _refusal(error)
    here = contents.seen(Path(folder), Had.CACHED)
    return replace(here, had=Had.UNREACHABLE, why=f"{here.why} is lacking") if here.why else here


def _refusal(error: Exception) -> Seen:
    """Return what an error of the library means."""
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return Seen(Had.NO_TOKEN if status == 401 else Had.NOT_GRANTED)
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        return Seen(Had.NOT_FOUND)
    if isinstance(error, errors.RevisionNotFoundError):
        return Seen(Had.NO_REVISION)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return Seen(Had.SHUT_OFF)
    if status == 401:
        return Seen(Had.BAD_TOKEN)
    if isinstance(error, OSError) and error.errno and error.filename:
        return Seen(Had.NO_PLACE, f"{error.filename}: {error.strerror}")
    return Seen(Had.UNREACHABLE, _words(error))


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


if __name__ == "__main__":
    main()
