"""A real sshd on loopback, for the account that runs the tests: scp, sftp and rsync as users have them.

Owns the server's life and its keys, made on the spot in a folder of the test's. Nothing of the account's own ~/.ssh is
read or written, on either side. No test lives here.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from running import eventually

_HOST = "box"  # what the clients call it; the address and the port are in their configuration

_SERVER = """
ListenAddress 127.0.0.1:{port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitUserRC no
Subsystem sftp internal-sftp
"""

_CLIENT = """
Host {host}
    HostName 127.0.0.1
    Port {port}
    User {user}
    IdentityFile {folder}/user_key
    IdentitiesOnly yes
    IdentityAgent none
    HostKeyAlias {host}
    UserKnownHostsFile {folder}/known_hosts
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    BatchMode yes
    LogLevel ERROR
"""


class Sshd:
    """Where the server is and how the clients reach it; made by `serving`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._clients: list[subprocess.Popen[bytes]] = []

    @staticmethod
    def at(path: Path) -> str:
        """Return the path as clients name it on the server."""
        return f"{_HOST}:{path}"

    def start(self, tool: str, *arguments: str | Path) -> subprocess.Popen[bytes]:
        """Start scp, sftp or rsync, told how to reach the server; it reads nothing from the terminal.

        It leads a process group, so that `cut` ends it with the ssh that it has started.
        """
        reach = [f"--rsh=ssh -F {self.config}"] if tool == "rsync" else ["-F", str(self.config)]
        command = [tool, *reach, *(str(argument) for argument in arguments)]
        pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
        client = subprocess.Popen(command, stdin=nothing, stdout=pipe, stderr=subprocess.STDOUT, start_new_session=True)
        self._clients.append(client)
        return client

    def run(self, tool: str, *arguments: str | Path) -> None:
        """Run it to its end; fails the test, with what it said, where it fails."""
        ended(self.start(tool, *arguments))

    def end_clients(self) -> None:
        """End those that a failed test has left."""
        for client in self._clients:
            if client.poll() is None:
                cut(client)

    @property
    def config(self) -> Path:
        return self._folder / "ssh_config"


def ended(client: subprocess.Popen[bytes]) -> None:
    """Wait for the client; fails the test, with what it said, where it fails."""
    said, _ = client.communicate(timeout=60)
    assert client.returncode == 0, f"{client.args!r}: status {client.returncode}: {said.decode(errors='replace')}"


def cut(client: subprocess.Popen[bytes]) -> None:
    """kill -9 the client and its ssh, as a laptop that is closed: the server only sees the connection end."""
    assert client.poll() is None, "the upload was over before it could be cut"
    os.killpg(client.pid, signal.SIGKILL)
    client.communicate(timeout=60)


@contextmanager
def serving(folder: Path) -> Iterator[Sshd]:
    """Serve on a free port until the end of the block; `folder` is where the keys and the log go."""
    for key in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd insists; the distribution's service makes it, too
    daemon, port = _start(folder)
    host_key = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text(f"{_HOST} {host_key}")
    user = pwd.getpwuid(os.getuid()).pw_name
    (folder / "ssh_config").write_text(_CLIENT.format(host=_HOST, port=port, user=user, folder=folder))
    sessions = psutil.Process(daemon.pid)
    server = Sshd(folder)
    try:
        yield server
    finally:
        server.end_clients()
        for process in [*sessions.children(recursive=True), sessions]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        daemon.wait()


def _start(folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start sshd; a port that somebody else took in the meantime costs another try."""
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert program, "no sshd here: install openssh-server"
    config, log = folder / "sshd_config", folder / "sshd.log"
    for _ in range(5):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = int(free.getsockname()[1])
        config.write_text(_SERVER.format(port=port, folder=folder))
        log.write_bytes(b"")
        daemon = subprocess.Popen([program, "-D", "-f", config, "-E", log])
        eventually(lambda: b"Server listening" in log.read_bytes() or daemon.poll() is not None, 20, "sshd listening")  # noqa: B023
        if daemon.poll() is None:
            return daemon, port
    raise AssertionError(f"sshd does not start: {log.read_text()}")
