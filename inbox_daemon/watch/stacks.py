"""What a hung process and its children are doing, printed: a child of the daemon, since any of these reads may hang.

`python -m inbox_daemon.watch.stacks PID FOLDER`: the kernel's view (/proc), Python's stacks (faulthandler's, where the
process has said so in FOLDER, and py-spy's where that is installed). Files, lines and functions; never values.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil

from inbox_daemon.engine import stacks_file
from inbox_daemon.engine.worker.lifeline import SHOW_STACKS
from inbox_daemon.machine.parent import tie_to_parent

_OF_STATUS = ("Name", "State", "PPid", "Threads", "VmRSS", "SigPnd", "ShdPnd", "SigBlk")
_ANSWERS_WITHIN = 1.0  # seconds for faulthandler; a stopped process never answers
_PY_SPY_WITHIN = 4.0
_MOST = 12000  # characters of one dump


def main() -> None:
    tie_to_parent()
    worker, folder = psutil.Process(int(sys.argv[1])), Path(sys.argv[2])
    family = [worker, *worker.children(recursive=True)]
    asked = {one.pid: _ask(one, folder) for one in family}
    for one in family:
        print(f"\n## process {one.pid}", flush=True)
        print(_kernel(Path("/proc") / str(one.pid)), flush=True)
    time.sleep(_ANSWERS_WITHIN if any(asked.values()) else 0)
    for one in family:
        print(f"\n## Python stacks of process {one.pid}", flush=True)
        print(
            _faulthandler(stacks_file(folder, one.pid)) if asked[one.pid] else "faulthandler: not registered",
            flush=True,
        )
        print(_py_spy(one.pid), flush=True)


def _ask(process: psutil.Process, folder: Path) -> bool:
    """Ask for stacks only who has said that it knows the signal: it would end any other."""
    if not stacks_file(folder, process.pid).exists():
        return False
    with suppress(psutil.Error):
        process.send_signal(SHOW_STACKS)
        return True
    return False


def _kernel(proc: Path) -> str:
    status = dict(line.split(":", 1) for line in _read(proc / "status").splitlines() if ":" in line)
    lines = [f"{key}: {status[key].strip()}" for key in _OF_STATUS if key in status]
    for name in ("wchan", "syscall", "stack"):
        lines.append(f"{name}: {_read(proc / name).strip() or '(not readable)'}")
    threads = Counter(map(_thread, proc.glob("task/*")))
    lines.append("threads (how many, name, state, where in the kernel):")
    lines += [f"  {count:4d}  {thread}" for thread, count in threads.most_common(30)]
    return "\n".join(lines)


def _thread(task: Path) -> str:
    state = _read(task / "stat").rpartition(")")[2].split()
    return f"{_read(task / 'comm').strip()}  {state[0] if state else '?'}  {_read(task / 'wchan').strip()}"


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _faulthandler(path: Path) -> str:
    text = _read(path)
    return text[-_MOST:] if text else "faulthandler: no answer (a stopped process gives none)"


def _py_spy(pid: int) -> str:
    beside = Path(sys.executable).with_name("py-spy")
    program = str(beside) if beside.exists() else shutil.which("py-spy")
    if program is None:
        return "py-spy: not installed"
    try:
        command = [program, "dump", "--nonblocking", "--pid", str(pid)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PY_SPY_WITHIN, check=False)
    except subprocess.TimeoutExpired:
        return f"py-spy: no answer within {_PY_SPY_WITHIN:.0f} s"
    said = (done.stdout or done.stderr).splitlines()
    kept = [line for line in said if not line.startswith("Process ")]  # a command may hold a token
    return f"py-spy:\n{chr(10).join(kept).strip()[:_MOST]}"


if __name__ == "__main__":
    main()
