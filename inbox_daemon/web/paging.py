"""Lists as OpenAI gives them, a page at a time. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from inbox_daemon.web.wrong import Wrong, quoted

T = TypeVar("T")


class Page(Generic[T]):
    """One page of a list.

    Attributes:
        items: what is on it.
        has_more: whether there is more after it; without a no here, OpenAI's Python client asks for ever.
    """

    def __init__(self, items: Sequence[T], has_more: bool) -> None:
        self.items, self.has_more = items, has_more

    def told(self, objects: Sequence[Any]) -> dict[str, Any]:
        """Return the list object with these on it, which are the items as they are told."""
        first, last = (objects[0]["id"], objects[-1]["id"]) if objects else (None, None)
        return {"object": "list", "data": objects, "first_id": first, "last_id": last, "has_more": self.has_more}


def page(items: Sequence[T], id_of: Callable[[T], str], after: str | None, limit: int) -> Page[T]:
    """Return the items that follow the one with the id `after`, at most `limit` of them.

    Raises:
        Wrong: no item has that id.
    """
    begin = 0
    if after:
        begin = next((place for place, item in enumerate(items, 1) if id_of(item) == after), 0)
        if not begin:
            raise Wrong(400, f"No object with id {quoted(after)} is in this list.", "invalid_value", "after")
    return Page(items[begin : begin + limit], len(items) > begin + limit)
