"""What the parts of a batch's log are called, in its work and in the outbox. Pure."""

from __future__ import annotations

import re

_PART = re.compile(r"part-\d{6,}\.jsonl")


def is_part(filename: str) -> bool:
    return bool(_PART.fullmatch(filename))


def part_name(number: int) -> str:
    return f"part-{number:06d}.jsonl"


def number_of_part(name: str) -> int:
    return int(name.removeprefix("part-").removesuffix(".jsonl"))
