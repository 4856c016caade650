"""The service as an operator gets it: tools/install, unit, modes of the spool and daemon, under a real systemd."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
import sysconfig
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from nspawn import Machine, machine
from running import ROOT, batch_of

from inbox_daemon.config import DaemonSettings
from inbox_daemon.journal import Message

pytestmark = [
    pytest.mark.systemd,
    pytest.mark.timeout(900),  # the first of them waits for pip and for the boot
    pytest.mark.skipif(os.geteuid() != 0, reason="booting a container needs root"),
    pytest.mark.skipif(shutil.which("systemd-nspawn") is None, reason="needs Debian's systemd-container"),
]

CHECKOUT = "/opt/checkout"
VENV = "/opt/venv"
BESIDE = "/opt/site-packages"  # of the Python that runs the tests, with vLLM; the venv sees it where a test says so
INSTALL = f"{CHECKOUT}/tools/install"
SPOOL = "/var/spool/inbox-daemon"
CONFIG = "/etc/inbox-daemon/config.toml"
SOON = 30  # seconds: for what takes one or two on an idle machine

SETTINGS = """
[inbox]
settle = 0.2
settle_unproven = 0.5
rescan = 1

[engine]
kind = "null"
in_flight = 50

[engine.null]
rate = {rate}

[results]
sync_after = 0.2
seal_every = 20
seal_after = 0.5

[daemon]
stop_grace = 1
"""
COMPLETION_AND_MANUAL = [
    "share/bash-completion/completions/inbox-daemon",
    "share/zsh/site-functions/_inbox-daemon",
    "share/fish/vendor_completions.d/inbox-daemon.fish",
    "share/man/man1/inbox-daemon.1",
]
SOONER = "[Service]\nRestartSec=100ms\n"  # shipped: 5 s
NOTICED_SOONER = f"{SOONER}WatchdogSec=10\nTimeoutAbortSec=1\n"  # shipped: 60 s, 15 s


class Service:
    """The installed service and what its users and its operator can see of it."""

    def __init__(self, host: Machine) -> None:
        self.host = host
        self.since = time.time()

    def configure(self, *, rate: float, more: str = "") -> None:
        path = self.host.root / CONFIG[1:]
        path.parent.mkdir(exist_ok=True)
        path.write_text(more + SETTINGS.format(rate=rate))

    def drop_in(self, text: str) -> None:
        """Change the unit as an operator does, and restart; until the next boot, which is longer than a test."""
        path = self.host.root / "run/systemd/system/inbox-daemon.service.d/test.conf"
        path.parent.mkdir(parents=True)
        path.write_text(text)
        self.host.run("systemctl daemon-reload && systemctl restart inbox-daemon", check=True)

    def install(self, *flags: str) -> str:
        return self.host.run(f"{INSTALL} --venv {VENV} {' '.join(flags)}", check=True).stdout

    def show(self, name: str) -> str:
        return self.host.run(f"systemctl show --property {name} --value inbox-daemon", check=True).stdout.strip()

    def journal(self) -> str:
        """Everything that was said by now."""
        asked = f"journalctl --sync && journalctl -u inbox-daemon -o cat --since @{self.since:.6f}"
        return self.host.run(asked, check=True).stdout

    def story(self, batch: str) -> list[str]:
        """What the journal has with this batch's field, without the batch's name before every line."""
        asked = f"journalctl -u inbox-daemon INBOX_BATCH={batch} -o cat --since @{self.since:.6f}"
        asked = f"journalctl --sync && {asked}"
        return [line.removeprefix(f"{batch}: ") for line in self.host.run(asked, check=True).stdout.splitlines()]

    def evidence(self) -> str:
        return self.host.run(f"systemctl status inbox-daemon; find {SPOOL} -ls").stdout + self.journal()

    def drop(self, name: str, ids: Sequence[str], user: str = "alice") -> None:
        """Copy a batch into the inbox the way a user's shell does, and under its final name at once."""
        body = {"model": "null", "messages": [{"role": "user", "content": "How many?"}]}
        lines = [{"custom_id": i, "method": "POST", "url": "/v1/chat/completions", "body": body} for i in ids]
        path = self.host.root / f"home/{user}/{name}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        path.chmod(0o644)
        self.host.run(f"cp /home/{user}/{name}.jsonl {SPOOL}/inbox/", user=user, check=True)

    def status(self, name: str) -> dict[str, Any]:
        try:
            status: dict[str, Any] = json.loads((self.host.root / f"{SPOOL[1:]}/outbox/{name}/status.json").read_text())
        except FileNotFoundError:
            return {}
        return status

    def waiting(self) -> dict[str, str]:
        """Why files that lie in the inbox are not taken, as the daemon publishes it."""
        pid = self.show("MainPID")
        (said,) = (self.host.root / SPOOL[1:] / "daemons").glob(f"*-{pid}-*.json")
        waiting: dict[str, str] = json.loads(said.read_text())["waiting"]
        return waiting

    def wait_until(self, name: str, status: str, deadline: float = SOON) -> None:
        self.host.wait(lambda: self.status(name).get("status") == status, deadline, self.evidence)

    def wait_for_answers(self, name: str, count: int) -> None:
        self.host.wait(lambda: self.answered(name) >= count, SOON, self.evidence)

    def answered(self, name: str) -> int:
        return int(self.status(name).get("request_counts", {}).get("completed", 0))

    def ids(self, name: str, user: str = "alice") -> list[str]:
        """The custom_ids of results.jsonl, read as one of the users."""
        text = self.host.run(f"cat {SPOOL}/outbox/{name}/results.jsonl", user=user, check=True).stdout
        return [json.loads(line)["custom_id"] for line in text.splitlines()]


@pytest.fixture(scope="module")
def host() -> Iterator[Machine]:
    """A booted host with a checkout, a venv without vLLM, and three people: alice and bob may submit, eve may not."""
    checkout = ROOT
    with machine() as container:
        target = container.root / CHECKOUT[1:]
        shutil.copytree(checkout, target, ignore=shutil.ignore_patterns(".*", "__pycache__"))
        container.show(Path(sysconfig.get_path("purelib")), BESIDE)
        container.build(
            f"/usr/bin/python3 -m venv {VENV} && {VENV}/bin/pip install --quiet '{CHECKOUT}[systemd,man,web]'"
        )
        container.boot()
        container.run("groupadd --force --system inbox-submit", check=True)
        container.run("for who in alice bob eve; do useradd --create-home $who; done", check=True)
        container.run("for who in alice bob; do usermod -aG inbox-submit $who; done", check=True)
        yield container


@pytest.fixture
def fresh(host: Machine) -> Iterator[Service]:
    """A host on which nothing of the project is installed."""
    yield Service(host)
    host.run("rm -rf /run/systemd/system/inbox-daemon.service.d /etc/systemd/system/inbox-daemon.service.d")
    host.run(f"{INSTALL} --uninstall", check=True)
    host.run(f"umount {SPOOL}/work; rm -rf {SPOOL} /etc/inbox-daemon /var/cache/inbox-daemon*")
    host.run("for who in inbox-daemon inbox-web; do userdel $who; done")


@pytest.fixture
def service(fresh: Service) -> Service:
    """The service, installed and running with an engine that answers 50 requests a second."""
    fresh.configure(rate=50)
    fresh.install()
    return fresh


MANY = 2000  # 40 s at 50 a second; a daemon that starts again after configure(rate=0) answers the rest at once


def numbered(count: int) -> list[str]:
    return [f"r{i}" for i in range(count)]


# Installing


def test_installed_without_a_model_it_is_enabled_and_not_started_and_says_what_to_do(fresh: Service) -> None:
    said = fresh.install()
    assert "tools/install --model NAME" in said
    assert fresh.show("UnitFileState") == "enabled"
    assert fresh.show("ActiveState") == "inactive"


def test_install_writes_the_model_into_settings_and_keeps_everything_else(fresh: Service) -> None:
    fresh.configure(rate=0, more="# mine\n")
    fresh.install("--model", "org/first")
    fresh.install("--model", "'org/second \"2\"'")
    text = (fresh.host.root / CONFIG[1:]).read_text()
    settings = tomllib.loads(text)
    assert settings["engine"].pop("model") == 'org/second "2"'
    assert settings == tomllib.loads(SETTINGS.format(rate=0))
    assert text.startswith("# mine\n")


def test_install_writes_the_model_into_the_settings_it_ships(fresh: Service) -> None:
    shipped = (ROOT / "etc/inbox-daemon.toml").read_text()
    fresh.host.run(f"mkdir -p /etc/inbox-daemon && cp {CHECKOUT}/etc/inbox-daemon.toml {CONFIG}", check=True)
    fresh.host.run(f"{INSTALL} --venv {VENV} --model org/name")  # and cannot start it: this venv has no vLLM
    written = (fresh.host.root / CONFIG[1:]).read_text()
    assert tomllib.loads(written)["engine"]["model"] == "org/name"
    changed = set(written.splitlines()) ^ set(shipped.splitlines())
    assert any(line.startswith('model = "org/name"') for line in changed)
    assert len(changed) == 2


def test_installing_twice_keeps_settings_results_and_modes(service: Service) -> None:
    service.drop("before", numbered(5))
    service.wait_until("before", "completed")
    modes = f"stat -c '%a %U %G %n' {SPOOL} {SPOOL}/*"
    seen = service.host.run(modes, check=True).stdout
    settings = (service.host.root / CONFIG[1:]).read_text()
    service.install()
    assert (service.host.root / CONFIG[1:]).read_text() == settings
    assert service.host.run(modes, check=True).stdout == seen
    assert service.ids("before") == numbered(5)
    service.drop("after", numbered(5))
    service.wait_until("after", "completed")


def test_an_upgrade_starts_again_what_was_running_whatever_its_settings_file_says(service: Service) -> None:
    """The model, or the kind of engine, may come from the unit's environment."""
    service.drop_in("[Service]\nEnvironment=INBOX_DAEMON_ENGINE__KIND=null\n")
    service.host.run(f"sed -i '/^kind/d' {CONFIG}", check=True)
    service.install()
    assert service.show("ActiveState") == "active"
    service.drop("after", numbered(5))
    service.wait_until("after", "completed")


def test_an_upgrade_that_fails_leaves_the_service_running(service: Service) -> None:
    service.host.run("mkdir -p /opt/broken/bin && ln -sf /bin/false /opt/broken/bin/inbox-daemon", check=True)
    service.host.run("ln -sf /usr/bin/python3 /opt/broken/bin/python", check=True)
    assert service.host.run(f"{INSTALL} --venv /opt/broken").returncode != 0
    assert service.show("ActiveState") == "active"
    service.drop("after", numbered(5))
    service.wait_until("after", "completed")


def test_uninstalling_leaves_the_spool_and_the_settings(service: Service) -> None:
    service.install("--web")
    modes = f"stat -c '%a %U %G %n' {SPOOL}/*"
    seen = service.host.run(modes, check=True).stdout
    service.install()  # an upgrade, of the web process as well
    assert service.host.run(modes, check=True).stdout == seen and "2750 inbox-web inbox-submit" in seen
    assert service.host.run("systemctl is-active inbox-daemon-web").stdout == "active\n", service.evidence()
    service.drop("done", numbered(5))
    service.wait_until("done", "completed")
    ours = "find /usr/local -name '*inbox-daemon*' -size +0"
    found = service.host.run(ours, check=True).stdout
    assert all(f"/{file}\n" in found for file in COMPLETION_AND_MANUAL), found
    said = service.host.run(f"{INSTALL} --uninstall", check=True).stdout
    assert SPOOL in said
    assert CONFIG.rpartition("/")[0] in said
    assert service.show("LoadState") == "not-found"
    assert service.host.run("pgrep -u inbox-daemon; pgrep -u inbox-web").stdout == ""
    assert service.host.run(ours, check=True).stdout == ""
    assert Message.BATCH_COMPLETED.value not in service.host.run("journalctl --list-catalog", check=True).stdout
    assert service.ids("done") == numbered(5)
    assert (service.host.root / CONFIG[1:]).exists()


@pytest.mark.parametrize("gpu", [False, True], ids=["no GPU", "GPU"])
def test_it_may_do_little_and_systemd_finds_nothing_to_say_about_the_unit(fresh: Service, gpu: bool) -> None:
    fresh.configure(rate=50)
    if gpu:
        fresh.host.run("touch /dev/nvidiactl", check=True)
    try:
        fresh.install()
    finally:
        fresh.host.run("rm -f /dev/nvidiactl", check=True)
    verified = fresh.host.run("systemd-analyze verify inbox-daemon.service")
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    fresh.host.run("systemd-analyze security --threshold=20 inbox-daemon.service", check=True)  # 2.0, of 10
    assert fresh.show("PrivateDevices") == ("no" if gpu else "yes")
    assert ("char-nvidia*" in fresh.show("DeviceAllow")) is gpu
    assert fresh.show("DevicePolicy") == "closed"
    fresh.drop("b", numbered(5))
    fresh.wait_until("b", "completed")


def test_a_gpu_that_is_added_is_seen_after_the_next_install(service: Service) -> None:
    assert service.show("PrivateDevices") == "yes"
    service.host.run("touch /dev/nvidiactl", check=True)
    try:
        service.install()
    finally:
        service.host.run("rm -f /dev/nvidiactl", check=True)
    assert service.show("PrivateDevices") == "no"


def test_the_daemon_is_bound_by_what_the_unit_forbids(service: Service) -> None:
    forbidden = {
        "touch /tmp/mine && python3 -c 'import os; os.chown(\"/tmp/mine\", -1, -1)'": "PermissionError",  # ~@privileged
        "touch /usr/x": "Read-only file system",
        "unshare --user true": "unshare failed: Operation not permitted",
        "ls /home": "'/home': Permission denied",
        "test -e /proc/1 || echo hidden >&2": "hidden",
    }
    attempts = "; ".join(f"( {attempt} )" for attempt in forbidden)
    service.drop_in(f"[Service]\nExecStartPre=/bin/sh -c {shlex.quote(attempts)}\n")
    for answer in forbidden.values():
        service.host.wait(lambda answer=answer: answer in service.journal(), SOON, service.evidence)
    service.drop("b", numbered(5))
    service.wait_until("b", "completed")


BY_THE_WEB = """
API=http://127.0.0.1:8001/v1
id=$(curl -sfF purpose=batch -F file=@/home/alice/mine.jsonl $API/files | jq -re .id)
batch=$(curl -sf $API/batches -H 'content-type: application/json' -d '{"input_file_id": "'$id'",
    "endpoint": "/v1/chat/completions", "completion_window": "24h"}' | jq -re .id)
until [[ $(curl -sf $API/batches/$batch | jq -re .status) == completed ]]; do sleep 0.2; done
dropped=$(curl -sf $API/batches | jq -re ".data[].id | select(. != \\"$batch\\")")
until curl -sf "${API%/v1}/compare?b=$batch&b=$dropped" | grep -q 'null engine'; do sleep 0.2; done
answers=$(curl -sf $API/batches/$batch | jq -re .output_file_id)
curl -sf $API/files/$answers/content
curl -sf -X DELETE $API/files/$answers | jq -e .deleted >&2
[[ $(curl -s -o /dev/null -w '%{http_code}' $API/files/$answers/content) == 404 ]]
"""


def test_through_the_web_process_files_become_batches_and_it_may_do_less_than_the_daemon(fresh: Service) -> None:
    fresh.configure(rate=50)
    forbidden = {
        f"touch {SPOOL}/outbox/x": "Permission denied",
        f"rm -f {SPOOL}/outbox/dropped/results.jsonl; ls {SPOOL}/outbox/dropped/results.jsonl >&2": "/results.jsonl",
        f"ls {SPOOL}/work": "Permission denied",
        "touch /usr/x": "Read-only file system",
        "unshare --user true": "unshare failed: Operation not permitted",
        "ls /home": "Permission denied",
    }
    fresh.install("--web")
    fresh.drop("dropped", numbered(5))
    fresh.wait_until("dropped", "completed")
    verified = fresh.host.run("systemd-analyze verify inbox-daemon-web.service inbox-daemon-web.socket")
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    fresh.host.run("systemd-analyze security --threshold=15 inbox-daemon-web.service", check=True)  # 1.5, of 10
    attempts = "; ".join(f"( {attempt} )" for attempt in forbidden)
    drop_in = fresh.host.root / "run/systemd/system/inbox-daemon-web.service.d/test.conf"
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text(f"[Service]\nExecStartPre=-/bin/sh -c {shlex.quote(attempts)}\n")
    fresh.host.run("systemctl daemon-reload && systemctl restart inbox-daemon-web", check=True)
    said = fresh.host.run(
        f"journalctl --sync && journalctl -u inbox-daemon-web -o cat --since @{fresh.since:.6f}"
    ).stdout
    for attempt, answer in forbidden.items():
        assert answer in said, f"{attempt}: {said}"
    assert "Could not" not in said

    (fresh.host.root / "home/alice/mine.jsonl").write_bytes(batch_of(50))
    fresh.host.run("chmod 0600 /home/alice/mine.jsonl && chown alice: /home/alice/mine.jsonl", check=True)
    told = fresh.host.run(f"timeout 60 bash -euo pipefail -c {shlex.quote(BY_THE_WEB)}", user="alice")
    assert told.returncode == 0, (
        told.stderr + fresh.host.run("journalctl -u inbox-daemon-web -o cat").stdout + fresh.evidence()
    )
    assert [json.loads(line)["custom_id"] for line in told.stdout.splitlines()] == numbered(50)
    fresh.host.run("systemctl disable --now inbox-daemon-web.service && systemctl enable --now inbox-daemon-web.socket")
    fresh.host.run("curl -sf http://127.0.0.1:8001/healthz", user="eve", check=True)
    fresh.host.run("rm -r /run/systemd/system/inbox-daemon-web.service.d && systemctl daemon-reload", check=True)


def test_without_root_it_is_a_service_of_ones_own(host: Machine) -> None:
    """systemd/user.service, as etc/docs/service.md says to use it; killed, it comes back."""
    host.run(f"mkdir -p /home/bob/inbox-daemon/.venv && ln -s {VENV}/bin /home/bob/inbox-daemon/.venv/bin", check=True)
    host.run("mkdir -p /home/bob/.config/inbox-daemon /home/bob/.config/systemd/user", check=True)
    (host.root / "home/bob/.config/inbox-daemon/config.toml").write_text(SETTINGS.format(rate=0))
    host.run(f"cp {CHECKOUT}/systemd/user.service /home/bob/.config/systemd/user/inbox-daemon.service", check=True)
    host.run("chown -R bob: /home/bob && systemctl start user@$(id -u bob)", check=True)
    mine = "export HOME=/home/bob XDG_RUNTIME_DIR=/run/user/$(id -u); systemctl --user"
    host.run(f"{mine} enable --now inbox-daemon", user="bob", check=True)
    host.run(f"{mine} kill --signal=KILL inbox-daemon", user="bob", check=True)
    host.wait(lambda: "NRestarts=1" in host.run(f"{mine} show inbox-daemon", user="bob").stdout, SOON)
    spool = "/home/bob/inbox-daemon-spool"
    request = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": []}}
    (host.root / spool[1:] / "inbox/b.jsonl").write_text(json.dumps(request) + "\n")
    host.wait((host.root / f"{spool[1:]}/outbox/b/receipt.json").exists, SOON)
    host.run(f"{mine} stop inbox-daemon", user="bob", check=True)
    host.run("systemctl stop user@$(id -u bob)", check=True)


# Starting and stopping


def test_active_means_that_the_spool_is_ready(service: Service) -> None:
    service.host.run(f"systemctl stop inbox-daemon; rmdir {SPOOL}/work {SPOOL}/outbox", check=True)
    service.host.run(f"systemctl start inbox-daemon && ls -d {SPOOL}/work {SPOOL}/outbox", check=True)


def test_not_active_with_a_spool_that_spans_two_file_systems(service: Service) -> None:
    service.host.run(f"systemctl stop inbox-daemon && mount -t tmpfs -o mode=1777 tmpfs {SPOOL}/work", check=True)
    assert service.host.run("systemctl start inbox-daemon").returncode != 0
    assert service.show("ActiveState") != "active"
    assert "one file system" in service.journal()


def test_stopped_in_mid_batch_it_ends_in_time_and_completes_after_a_start(service: Service) -> None:
    service.drop("long", numbered(MANY))
    service.wait_for_answers("long", 20)
    service.host.run("systemctl stop inbox-daemon", check=True)
    assert service.show("Result") == "success", service.evidence()  # else systemd killed it
    assert service.host.run("pgrep -u inbox-daemon").stdout == ""
    stopped_at = service.answered("long")
    assert 20 <= stopped_at < MANY
    service.configure(rate=0)
    service.host.run("systemctl start inbox-daemon", check=True)
    service.wait_until("long", "completed", deadline=60)
    assert service.ids("long") == numbered(MANY)


def test_killed_in_mid_batch_it_comes_back_and_completes(service: Service) -> None:
    assert (service.show("Restart"), service.show("RestartUSec")) == ("always", "5s")
    service.drop_in(SOONER)
    service.drop("long", numbered(MANY))
    service.wait_for_answers("long", 20)
    service.configure(rate=0)
    service.host.run("systemctl kill --kill-whom=main --signal=KILL inbox-daemon", check=True)
    service.wait_until("long", "completed", deadline=60)
    assert service.show("NRestarts") == "1"
    assert service.ids("long") == numbered(MANY)


def test_a_daemon_that_falls_silent_is_killed_and_comes_back_and_completes(service: Service) -> None:
    assert service.show("WatchdogUSec") == "1min"
    service.drop_in(NOTICED_SOONER)
    service.drop("long", numbered(MANY))
    service.wait_for_answers("long", 20)
    service.configure(rate=0)
    service.host.run("systemctl kill --kill-whom=main --signal=STOP inbox-daemon", check=True)
    service.wait_until("long", "completed", deadline=60)
    assert "Watchdog timeout" in service.journal()
    assert service.ids("long") == numbered(MANY)
    told = lambda: any(line.startswith("completed: ") for line in service.story("long"))  # noqa: E731
    service.host.wait(told, SOON, service.evidence)
    steps = [line.partition(":")[0] for line in service.story("long")]
    assert [step for step in steps if step[0].isalpha() and not step.startswith("sealed ")] == [
        "claimed",
        "accepted",
        "resumed",
        "finalizing",
        "completed",
    ]


def test_systemd_waits_longer_for_a_stop_than_the_daemon_waits_for_the_engine() -> None:
    unit = (ROOT / "systemd/inbox-daemon.service").read_text()
    (given,) = re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.M)
    assert int(given) >= DaemonSettings().stop_grace + 30


WRONG = {  # settings, and what the journal says of them
    "[engine]\nmodle = 'x'": f"{CONFIG}: unknown setting engine.modle = 'x'; did you mean engine.model?",
    "[engine": f"{CONFIG}: not TOML",
    "[engine]\nkind = 'null'\n[daemon]\nstop_grace = -1": f"{CONFIG}: daemon.stop_grace = -1",
    "[engine]\nkind = 'null'\n[results]\nseal_every = 'often'": "results.seal_every = 'often' is not right",
    "[engine]\nkind = 'null'\n[engine.args]\nmax_logprobs = 5": "set requests.max_logprobs instead",
    "[engine]\nkind = 'null'\n[alerts]\ncommand = 'mail'": "alerts.command = 'mail' is not right",
    "[engine]\nkind = 'null'\n[metrics]\nport = 80": "metrics.port = 80: cannot listen",
    "[engine]\nkind = 'null'\n[metrics]\ntextfile = '/srv/x.prom'": "metrics.textfile = '/srv/x.prom' cannot be",
    "spool = 'spool'\n[engine]\nkind = 'null'": "spool = 'spool' must be an absolute path",
    "[engine]\nmodel = 'org/name'": "engine.kind = 'vllm': vLLM is not installed",
}


def test_wrong_settings_fail_once_and_say_where(fresh: Service) -> None:
    fresh.configure(rate=50)
    fresh.install()
    for settings, sentence in WRONG.items():
        (fresh.host.root / CONFIG[1:]).write_text(settings)
        fresh.since = time.time()
        assert fresh.host.run("systemctl restart inbox-daemon").returncode != 0, settings
        assert fresh.show("ActiveState") == "failed", settings
        assert (fresh.show("ExecMainStatus"), fresh.show("NRestarts")) == ("78", "0"), settings
        assert sentence in fresh.journal()
        checked = fresh.host.run(f"inbox-daemon config check --quick --config {CONFIG}", user="inbox-daemon")
        assert checked.returncode == 78, settings
        assert sentence in checked.stdout + checked.stderr


@pytest.fixture
def with_vllm(fresh: Service) -> Iterator[Service]:
    """A host whose venv has the vLLM of these tests; the venv is of the host's own Python: a service sees no other."""
    ours, theirs = f"{sys.version_info.major}.{sys.version_info.minor}", fresh.host.run(f"ls {VENV}/lib").stdout.strip()
    if theirs != f"python{ours}":
        pytest.skip(f"vLLM is installed for Python {ours}; /usr/bin/python3 is {theirs}")
    path = f"{VENV}/lib/{theirs}/site-packages/beside.pth"
    fresh.host.run(f"echo {BESIDE} >{path}", check=True)
    yield fresh
    fresh.host.run(f"rm {path}", check=True)


def test_engine_args_that_vllm_does_not_accept_fail_the_start_once_in_vllms_words(with_vllm: Service) -> None:
    path = with_vllm.host.root / CONFIG[1:]
    path.parent.mkdir(exist_ok=True)
    path.write_text("[engine]\nmodel = 'org/name'\n[engine.args]\nmax_modle_len = 2048\n")
    assert with_vllm.host.run(f"{INSTALL} --venv {VENV}").returncode != 0, "it starts what it has installed"
    said = with_vllm.journal()
    assert "does not accept [engine.args]: unrecognized arguments: --max-modle-len 2048" in said, said
    assert with_vllm.show("ActiveState") == "failed"
    assert (with_vllm.show("ExecMainStatus"), with_vllm.show("NRestarts")) == ("78", "0")


def test_a_port_that_somebody_has_for_a_while_keeps_no_service_down(fresh: Service) -> None:
    hold = "import socket, time; s = socket.create_server(('127.0.0.1', 19878)); time.sleep(600)"
    fresh.host.run(f"systemd-run --unit=somebody /usr/bin/python3 -c {shlex.quote(hold)}", check=True)
    fresh.host.wait(lambda: fresh.host.run("ss -Htln sport = 19878").stdout, SOON)
    fresh.configure(rate=50, more="")
    path = fresh.host.root / CONFIG[1:]
    path.write_text(path.read_text() + "[metrics]\nport = 19878\n")
    fresh.install()
    assert fresh.show("ActiveState") == "active"
    assert "metrics: cannot listen on 127.0.0.1:19878" in fresh.journal()
    fresh.host.run("systemctl stop somebody", check=True)
    fresh.host.wait(lambda: "metrics: listening on 127.0.0.1:19878" in fresh.journal(), SOON, fresh.evidence)


def test_reload_takes_new_settings_without_a_restart(service: Service) -> None:
    pid = service.show("MainPID")
    service.drop("quiet", numbered(5))
    service.wait_until("quiet", "completed")
    path = service.host.root / CONFIG[1:]
    path.write_text(path.read_text().replace("[inbox]", "[inbox]\nmax_line_bytes = 1024"))
    service.host.run("systemctl reload inbox-daemon", check=True)
    service.host.wait(lambda: "reload" in service.journal().lower(), SOON, service.evidence)
    service.drop("long-line", ["x" * 2000, "short"])
    service.wait_until("long-line", "completed")
    assert service.ids("long-line") == ["short"]
    assert (service.show("ActiveState"), service.show("MainPID")) == ("active", pid)


def test_reload_of_wrong_settings_keeps_the_old_ones_and_says_so(service: Service) -> None:
    pid = service.show("MainPID")
    path = service.host.root / CONFIG[1:]
    path.write_text(path.read_text().replace("stop_grace = 1", "stop_grace = -1"))
    service.host.run("systemctl reload inbox-daemon", check=True)
    service.host.wait(lambda: "daemon.stop_grace = -1" in service.journal(), SOON, service.evidence)
    service.drop("still", numbered(5))
    service.wait_until("still", "completed")
    assert (service.show("ActiveState"), service.show("MainPID")) == ("active", pid)


# What people see


def test_a_member_of_the_group_drops_a_file_and_reads_the_answers_and_others_cannot(service: Service) -> None:
    service.drop("mine", numbered(50))
    service.wait_until("mine", "completed")
    assert service.ids("mine", user="bob") == numbered(50)
    files = f"{SPOOL}/outbox/mine/{{status.json,input.jsonl,errors.jsonl,receipt.json,parts/*}}"
    service.host.run(f"cat {files}", user="bob", check=True)
    for attempt in (f"cat {SPOOL}/outbox/mine/results.jsonl", f"ls {SPOOL}/outbox", f"touch {SPOOL}/inbox/x.jsonl"):
        assert "Permission denied" in service.host.run(attempt, user="eve").stderr
    assert "Permission denied" in service.host.run(f"ls {SPOOL}/work", user="alice").stderr


def test_a_member_takes_parts_away_while_the_batch_runs_and_loses_nothing(service: Service) -> None:
    service.drop("long", numbered(600))
    parts = f"{SPOOL}/outbox/long/parts"
    service.host.wait(lambda: service.host.run(f"ls {parts}").stdout.count("part-") >= 2, SOON, service.evidence)
    service.host.run(f"rsync -a --remove-source-files {parts}/ /home/bob/parts/", user="bob", check=True)
    assert service.host.run("ls /home/bob/parts").stdout.count("part-") >= 2
    assert service.status("long")["status"] in ("validating", "in_progress"), "not ended; it is written once a second"
    assert not (service.host.root / f"{parts[1:]}/part-000001.jsonl").exists()
    service.wait_until("long", "completed", deadline=60)
    assert service.ids("long") == numbered(600)


def test_a_member_cannot_change_answers_nor_remove_results(service: Service) -> None:
    service.drop("mine", numbered(30))
    service.wait_until("mine", "completed")
    folder = f"{SPOOL}/outbox/mine"
    for attempt in (
        f"echo >>{folder}/results.jsonl",
        f"echo >>{folder}/parts/part-000001.jsonl",
        f"rm -f {folder}/results.jsonl",
        f"mv {folder}/status.json {folder}/old.json",
        f"mv {folder} {folder}2",
    ):
        assert service.host.run(attempt, user="alice").returncode != 0, attempt


def test_a_member_cannot_take_back_what_another_dropped(service: Service) -> None:
    service.host.run("systemctl stop inbox-daemon", check=True)
    service.drop("mine", numbered(5), user="alice")
    for attempt in (f"rm -f {SPOOL}/inbox/mine.jsonl", f"mv {SPOOL}/inbox/mine.jsonl /home/bob/"):
        assert service.host.run(attempt, user="bob").returncode != 0, attempt
    service.host.run("systemctl start inbox-daemon", check=True)
    service.wait_until("mine", "completed")


def test_a_member_looks_in_and_cancels_from_the_command_line(service: Service) -> None:
    service.drop("long", numbered(MANY))
    service.wait_for_answers("long", 20)
    assert "long" in service.host.run("inbox-daemon status", user="bob", check=True).stdout
    service.host.run("inbox-daemon cancel long", user="bob", check=True)
    service.wait_until("long", "cancelled")


def test_a_file_that_is_still_open_for_writing_is_not_taken_however_long_it_lies_still(service: Service) -> None:
    service.drop("whole", numbered(5))
    service.wait_until("whole", "completed")
    writing = (
        f"exec 3>{SPOOL}/inbox/open.jsonl; cat /home/alice/whole.jsonl >&3; until test -e /tmp/over; do sleep 0.1; done"
    )
    with ThreadPoolExecutor(1) as writer:
        writer.submit(service.host.run, writing, user="alice")
        try:
            service.host.wait(
                lambda: service.waiting().get("open.jsonl") == "still being written", SOON, service.evidence
            )
            service.drop("later", numbered(5))
            service.wait_until("later", "completed")
            assert service.status("open") == {}
        finally:
            service.host.run("touch /tmp/over", check=True)
    service.wait_until("open", "completed")


def test_a_file_that_is_no_batch_is_handed_back_to_the_person_who_dropped_it(service: Service) -> None:
    service.host.run(f"echo 'not gzip' >{SPOOL}/inbox/broken.jsonl.gz", user="alice", check=True)
    service.wait_until("broken", "failed")
    handed_back = f"{SPOOL}/outbox/broken/broken.jsonl.gz"
    look = f"stat -c %U {handed_back} && cat {handed_back}"
    seen = lambda: service.host.run(look, user="alice").stdout == "alice\nnot gzip\n"  # noqa: E731
    service.host.wait(seen, SOON, service.evidence)


def test_a_file_that_the_daemon_may_not_read_fails_alone_and_says_what_to_do(service: Service) -> None:
    service.drop("ours", numbered(5))
    service.host.run(f"install -m 0600 /home/alice/ours.jsonl {SPOOL}/inbox/private.jsonl", user="alice", check=True)
    service.wait_until("private", "failed")
    service.wait_until("ours", "completed")
    (error, *_) = service.status("private")["errors"]["data"]
    assert "chmod g+r" in error["message"]


def test_systemctl_status_says_what_the_daemon_is_doing(service: Service) -> None:
    service.drop("long", numbered(MANY))
    service.wait_for_answers("long", 20)
    service.host.wait(lambda: f"{MANY}" in service.show("StatusText"), SOON, service.evidence)
    assert 'Status: "' in service.host.run("systemctl status inbox-daemon").stdout


def test_the_journal_tells_a_batchs_story_in_order_and_no_other_batchs(service: Service) -> None:
    service.drop("other", numbered(5))
    service.drop("tale", numbered(100))
    for name in ("other", "tale"):
        service.wait_until(name, "completed")
    service.host.run("systemctl stop inbox-daemon", check=True)
    told = service.story("tale")
    assert told[0] == "claimed"
    assert told[1].startswith("accepted: 100 requests")
    assert told[-1].startswith("completed: 100 answers, 0 errors")
    assert "other" not in " ".join(told)

    ended = f"journalctl MESSAGE_ID={Message.BATCH_COMPLETED.value} -o json --output-fields=INBOX_BATCH"
    found = [json.loads(line) for line in service.host.run(f"{ended} --since @{service.since:.6f}").stdout.splitlines()]
    assert {one["INBOX_BATCH"] for one in found} == {"other", "tale"}
    explained = service.host.run("journalctl -x -u inbox-daemon INBOX_BATCH=tale", check=True).stdout
    assert "Proof:  inbox-daemon verify OUTBOX/tale" in explained
