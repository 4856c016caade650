"""A real systemd in a container, for tests: an overlay of this host's `/`, thrown away with everything in it.

Owns the container's life. Never writes to the host: mounts live in a mount namespace and processes in a PID namespace
that both end with one process, which in turn dies with the test run.
"""

from __future__ import annotations

import errno
import os
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import psutil

T = TypeVar("T")

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_HOLD = """
set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=0755 tmpfs "$1"
cd "$1"
mkdir upper work root
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" root
echo held
exec sleep infinity
"""


class Machine:
    """A container: prepared with `build` and `root` before `boot`, driven with `run` and `wait` after it."""

    def __init__(self, holder: int, base: Path, cgroups: Sequence[Path]) -> None:
        self._holder = holder
        self._base = base
        self._cgroups = cgroups
        self._console = base / "console"
        self._init = 0
        self._booted: subprocess.Popen[bytes] | None = None

    @property
    def root(self) -> Path:
        """The container's `/` as this process sees it. /tmp, /run and /dev are the container's own once it booted."""
        if self._init:
            return Path(f"/proc/{self._init}/root")
        return Path(f"/proc/{self._holder}/root{self._base}/root")

    def build(self, command: str) -> None:
        """Run a shell command inside, before `boot`, with the host's network: what has to be downloaded.

        Raises:
            AssertionError: with the output, where the command fails.
        """
        passed = [f"--setenv={key}={value}" for key, value in os.environ.items() if key.startswith(("PIP_", "SSL_"))]
        container = [*self._nspawn(), "--console=pipe", *passed, "/bin/bash", "-euc", command]
        done = subprocess.run(container, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\nended with {done.returncode}:\n{done.stdout}{done.stderr}"

    def show(self, folder: Path, place: str) -> None:
        """Have a folder of the host at `place` inside, before `boot`, wherever it lies on the host."""
        inside = f"{self._base}/root{place}"
        enter = ["nsenter", "-t", str(self._holder), "-m", "--"]
        subprocess.run([*enter, "mkdir", "-p", inside], check=True)
        subprocess.run([*enter, "mount", "--bind", "-o", "ro", str(folder), inside], check=True)

    def boot(self, deadline: float = 90) -> None:
        """Start systemd, to basic.target: none of the host's own services come up.

        Raises:
            AssertionError: with the console, where it is not up within `deadline` seconds.
        """
        command = [*self._nspawn(), "--boot", "--private-network", "--console=pipe", "systemd.unit=basic.target"]
        with self._console.open("wb") as console:
            self._booted = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT)
        self._init = self.wait(self._find_init, deadline, self._console_text)
        up = "systemctl is-system-running"
        self.wait(lambda: self.run(up).stdout.strip() in {"running", "degraded"}, deadline, self._console_text)

    def run(self, command: str, *, user: str = "root", check: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a shell command in the booted container, as `user` with that user's groups.

        Raises:
            AssertionError: with the output, where `check` is set and the command fails.
        """
        enter = ["nsenter", "-t", str(self._init), "-m", "-u", "-i", "-n", "-p", "-C", "--"]
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if user != "root" else []
        clean = ["env", "-i", "--chdir=/", f"PATH={_PATH}", "LANG=C.UTF-8", "SYSTEMD_COLORS=0", "SYSTEMD_PAGER="]
        argv = [*enter, *become, *clean, "bash", "-c", command]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if check:
            assert done.returncode == 0, f"{command}\nended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done

    def wait(self, predicate: Callable[[], T], deadline: float, evidence: Callable[[], str] = str) -> T:
        """Return the first true value of `predicate`, asked again and again for `deadline` seconds.

        Raises:
            AssertionError: with `evidence()`, where none came.
        """
        until = time.monotonic() + deadline
        while not (found := predicate()):
            assert time.monotonic() < until, f"not within {deadline:g} s\n{evidence()}"
            time.sleep(0.1)
        return found

    def ended(self) -> None:
        """Wait until nothing of it runs any more: its cgroups can be removed then."""
        if self._booted is not None:
            self._booted.wait(30)

    def _nspawn(self) -> list[str]:
        """The common start of both containers: in the holder's namespaces and in cgroups of this machine alone."""
        join = "".join(f"echo $$ > {shlex.quote(str(group))}/cgroup.procs; " for group in self._cgroups)
        enter = ["nsenter", "-t", str(self._holder), "-m", "-p", "--"]
        spawn = ["systemd-nspawn", "--quiet", "-D", f"{self._base}/root", "--link-journal=no"]
        alone = ["--register=no", "--keep-unit"]  # no systemd-machined, nor any systemd, is asked on the host
        return ["bash", "-euc", f'{join}exec "$@"', "bash", *enter, *spawn, *alone]

    def _find_init(self) -> int:
        """The host's PID of the container's PID 1: the systemd one PID namespace below the holder's."""
        for process in psutil.Process().children(recursive=True):
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            levels = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[1:]
            if status.startswith("Name:\tsystemd\n") and len(levels) > 2 and levels[-1] == "1":
                return process.pid
        return 0

    def _console_text(self) -> str:
        return self._console.read_text(errors="replace")


@contextmanager
def machine() -> Iterator[Machine]:
    """Yield a container that is not booted yet; whatever becomes of the test, nothing of it is left."""
    with tempfile.TemporaryDirectory(prefix="nspawn-") as scratch, _own_cgroups() as cgroups:
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        hold = ["setpriv", "--pdeathsig", "KILL", *unshare, "bash", "-c", _HOLD, "hold", scratch]
        keeper = subprocess.Popen(hold, stdout=subprocess.PIPE, text=True)
        container = None
        try:
            assert keeper.stdout is not None
            assert keeper.stdout.readline() == "held\n", "no overlay of / here: this needs root and overlayfs"
            (holder,) = psutil.Process(keeper.pid).children()
            container = Machine(holder.pid, Path(scratch), cgroups)
            yield container
        finally:
            # The holder, PID 1 of its namespace, dies with its parent; the kernel kills all else in there, and the
            # last process takes the mounts along.
            keeper.kill()
            keeper.communicate()
            if container is not None:
                container.ended()


@contextmanager
def _own_cgroups() -> Iterator[list[Path]]:
    """Yield cgroups made for one machine: nspawn's fixed names below the caller's would collide with a second one."""
    made = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in {"", "name=systemd"} and (mount := _mount_point(controllers)):
            made.append(mount / path.lstrip("/") / f"inbox-daemon-test-{os.getpid()}")
            made[-1].mkdir(exist_ok=True)
    try:
        yield made
    finally:
        for top in made:
            _remove_cgroups(top, deadline=30)


def _remove_cgroups(top: Path, deadline: float) -> None:
    """Remove a tree of cgroups, once the processes that were killed in them have left."""
    until = time.monotonic() + deadline
    for folder in [*sorted((p for p in top.rglob("*") if p.is_dir()), reverse=True), top]:
        while folder.exists():
            try:
                folder.rmdir()
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > until:
                    raise
                time.sleep(0.05)


def _mount_point(controllers: str) -> Path | None:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        if kind == ("cgroup" if controllers else "cgroup2") and (not controllers or controllers in options.split(",")):
            return Path(place)
    return None
