"""Ties a process's life to its parent's, so that no vLLM process outlives the daemon and none keeps the GPU.

Linux only (prctl PR_SET_PDEATHSIG). Called first thing in the worker, and through vLLM's plugin entry point in every
process that vLLM starts there: EngineCore and its workers survive the SIGKILL of their host otherwise (vllm#55510).
"""

from __future__ import annotations

import ctypes
import os
import signal

MARK = "INBOX_DAEMON_WORKER"  # set in the worker's environment, inherited by what vLLM starts there
_PR_SET_PDEATHSIG = 1


def tie_to_parent() -> None:
    """Have the kernel kill this process when its parent dies; end it now if that has happened already."""
    parent = os.getppid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def tie_to_parent_in_worker() -> None:
    """vLLM's plugin entry point: does nothing in any vLLM that is not ours."""
    if MARK in os.environ and os.environ[MARK] != str(os.getpid()):
        tie_to_parent()
