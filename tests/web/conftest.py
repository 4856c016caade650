"""What the tests of the web process share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import IN_MEMORY
from served import Served


@pytest.fixture
def served() -> Iterator[Served]:
    """An application on an empty spool, in this process; nothing of it need outlive the test."""
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder:
        yield Served(Path(folder))
