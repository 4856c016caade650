"""What every process of vLLM gets from us: it dies with its parent, and shows where its threads are when asked.

Where it is spawned, its loggers are watched over as well (`words`); where it is forked, it inherits that.

Called first thing in the worker, and in every process that vLLM starts there: EngineCore and its workers survive the
SIGKILL of their host otherwise (vllm#55510). Where vLLM forks, as it does on a GPU, Python calls; where it spawns, as
on a CPU or once CUDA is in use, vLLM's plugin entry point does, which a fork never reaches: its plugins are loaded.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import tempfile
import threading
from pathlib import Path

from inbox_daemon.engine import stacks_file
from inbox_daemon.engine.worker.words import watch_over_loggers
from inbox_daemon.machine.parent import tie_to_parent

MARK = "INBOX_DAEMON_WORKER"  # set in the worker's environment, inherited by what vLLM starts there
SHOW_STACKS = signal.SIGUSR2  # nothing in vLLM or torch uses it


def begin() -> None:
    """Do the worker's part, and have Python do that of all it forks.

    To the kernel the parent is the thread that forks. Other threads than the main one may end long before their
    process, so what they fork is not tied.
    """
    by_main_thread = True

    def look_who_forks() -> None:
        nonlocal by_main_thread
        by_main_thread = threading.current_thread() is threading.main_thread()

    def take_part() -> None:
        if by_main_thread:
            tie_to_parent()
        show_stacks_when_asked()

    take_part()
    os.environ[MARK] = str(os.getpid())
    os.register_at_fork(before=look_who_forks, after_in_child=take_part)


def take_part_where_spawned() -> None:
    """vLLM's plugin entry point: does nothing in any vLLM that is not ours."""
    if MARK in os.environ and os.environ[MARK] != str(os.getpid()):
        tie_to_parent()
        show_stacks_when_asked()
        watch_over_loggers()


def show_stacks_when_asked() -> None:
    """Have SHOW_STACKS append all threads' Python stacks to a file of this process in TMPDIR, which the daemon made.

    The handler is C and needs no lock of Python's: it answers for a process that hangs inside a call, though not for
    one that is stopped. Stacks are files, lines and functions, never values.
    """
    path = stacks_file(Path(tempfile.gettempdir()), os.getpid())
    faulthandler.register(SHOW_STACKS, file=path.open("w"), all_threads=True, chain=False)
