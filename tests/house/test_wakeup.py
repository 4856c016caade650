"""The loop sleeps until there is something to do, however many files it has open."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Iterator

import pytest

from inbox_daemon.wakeup import Wakeup

LONG = 60.0  # seconds; whoever sleeps so long was not woken


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.timeout(30)
def test_an_engine_whose_descriptor_is_beyond_select_is_heard(many_files: None) -> None:
    read, write = os.pipe()
    engine = 3000
    os.dup2(read, engine)
    os.write(write, b"an answer")
    Wakeup().sleep(LONG, engine)
    for descriptor in (read, write, engine):
        os.close(descriptor)


@pytest.mark.timeout(30)
def test_word_from_another_thread_ends_the_sleep() -> None:
    wakeup = Wakeup()
    teller = threading.Thread(target=wakeup.wake)
    teller.start()
    wakeup.sleep(LONG, None)
    teller.join()
