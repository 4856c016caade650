"""Rules and dashboard: valid, complete, and with a real Prometheus that scrapes a real run, they show and fire."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import said
import yaml
from engines import LOADED, process
from prom import RULES, Prometheus
from running import ROOT, Daemon, batch_of, eventually, free_port

from inbox_daemon.config import MetricsSettings
from inbox_daemon.records import AlertName, Severity
from inbox_daemon.setbacks import Setbacks
from inbox_daemon.watch.alerts import RULES as RULES_OF_THE_DAEMON
from inbox_daemon.watch.metrics import Metrics

pytestmark = pytest.mark.slow

Start = Callable[..., Daemon]
RULE_TESTS = ROOT / "tests" / "alert_rules.yml"
DASHBOARD = orjson.loads((ROOT / "etc" / "grafana" / "inbox-daemon.json").read_bytes())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RULES_READ = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]


# -- rules


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, check=False)


def test_rules_and_configuration_are_what_promtool_accepts_without_a_remark() -> None:
    rules = promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)
    config = promtool("check", "config", RULES.with_name("prometheus.yml"))
    assert (rules.returncode, config.returncode) == (0, 0), rules.stderr + config.stderr


def test_prometheus_knows_every_alert_of_the_daemon_and_two_that_only_it_can_see() -> None:
    ours = {f"InboxDaemon{name}" for name in AlertName}
    assert {rule["alert"] for rule in RULES_READ} == ours | {"InboxDaemonDown", "InboxDaemonHangs"}


@pytest.mark.parametrize("rule", RULES_READ, ids=lambda rule: rule["alert"])
def test_a_rule_says_how_bad_what_and_where_to_read_on(rule: dict[str, Any]) -> None:
    ours = {f"InboxDaemon{name}": known.severity for name, known in RULES_OF_THE_DAEMON.items()}
    assert rule["labels"]["severity"] == ours.get(rule["alert"], Severity.CRITICAL)
    assert rule["annotations"]["summary"].endswith(".")
    assert rule["annotations"]["description"].endswith(".")
    file, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert f'<a id="{anchor}"></a>' in (ROOT / file).read_text()


@pytest.mark.parametrize("always", [True, False], ids=["always", "never"])
def test_a_rule_that_fired_always_or_never_would_fail_its_own_tests(tmp_path: Path, always: bool) -> None:
    rules = yaml.safe_load(RULES.read_text())
    for rule in rules["groups"][0]["rules"]:
        rule |= {"expr": "vector(1)" if always else "vector(0) > 1", "for": "0s"}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules))
    tests = yaml.safe_load(RULE_TESTS.read_text()) | {"rule_files": ["rules.yml"]}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(tests))
    failed = promtool("test", "rules", tmp_path / "tests.yml")
    found = set(re.findall(r"InboxDaemon\w+", failed.stdout + failed.stderr))
    assert found == {rule["alert"] for rule in RULES_READ}


def test_each_rule_fires_when_it_should_and_does_not_when_it_should_not() -> None:
    done = promtool("test", "rules", RULE_TESTS)
    assert done.returncode == 0, done.stdout + done.stderr


# -- the dashboard, as a file


def expressions() -> Iterator[tuple[str, str]]:
    """Every query of the dashboard: where it stands, and what it asks."""
    for panel in PANELS:
        for target in panel["targets"]:
            yield f"{panel['title']} {target['refId']}", target["expr"]
    for annotation in DASHBOARD["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]


def test_the_dashboard_has_a_fixed_uid_and_every_panel_its_own_id() -> None:
    assert DASHBOARD["uid"] == "inbox-daemon"
    assert DASHBOARD["editable"] is False
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids) > 20


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows_in_which_unit_and_leaves_the_datasource_open(panel: dict[str, Any]) -> None:
    assert panel["title"] and panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert {one["datasource"]["uid"] for one in [panel, *panel["targets"]]} == {"${datasource}"}
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_panels_lie_on_the_grid_and_not_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells


def test_the_variables_are_the_datasource_and_what_is_asked_for_everywhere() -> None:
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "instance", "model"]
    assert variables["datasource"]["query"] == "prometheus"
    for where, expression in expressions():
        selectors = re.findall(r"(\w*)\{([^{}]*)\}", expression)
        assert selectors, where
        for metric, selector in selectors:
            assert 'job=~"$job"' in selector and 'instance=~"$instance"' in selector, where
            assert ('model=~"$model"' in selector) == metric.startswith("inbox_daemon_engine_"), where


def test_the_provisioning_files_name_what_is_shipped() -> None:
    folder = ROOT / "etc" / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "inbox-daemon.yaml").read_text())["datasources"]
    (provider,) = yaml.safe_load((folder / "dashboards" / "inbox-daemon.yaml").read_text())["providers"]
    assert source["type"] == "prometheus" and source["url"].startswith("http://127.0.0.1:")
    assert provider["type"] == "file" and provider["allowUiUpdates"] is False


# -- a real Prometheus


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Callable[..., Prometheus]]:
    started: list[Prometheus] = []

    def start(*ports: int) -> Prometheus:
        started.append(Prometheus(tmp_path / "prometheus", ports))
        return started[-1]

    yield start
    for one in started:
        one.end()


def asked(expression: str, port: int) -> str:
    """The expression as Grafana asks it of one instance, with a rate's range for a scrape every second."""
    expression = expression.replace("$job", ".+").replace("$instance", f"127.0.0.1:{port}")
    expression = expression.replace("$model", ".*")  # the null engine serves none
    return expression.replace("$__rate_interval", "5s")


# What a run without a GPU, without a death and without an alert has nothing to show in.
NEEDS_MORE = r"GPU .*|What slows .*|Alerts .*|Engine deaths"


def test_every_query_of_the_dashboard_has_data_from_a_real_run(
    start_daemon: Start, prometheus: Callable[..., Prometheus]
) -> None:
    """The daemon really runs, without GPU, death and alert. What is shown of those comes from a second target: the
    same code, given what a daemon says where it has them."""
    real, beside = free_port(), free_port()
    environment = {"INBOX_DAEMON_METRICS__PORT": str(real), "INBOX_DAEMON_ENGINE__NULL__RATE": "200"}
    daemon = start_daemon(environment=environment)
    daemon.drop("long.jsonl", batch_of(100_000))
    other = Metrics(MetricsSettings(port=beside), Setbacks())
    view = said.daemon()
    other.say(0.0, view, [said.batch()])
    server = prometheus(real, beside)
    eventually(lambda: server.value("max(inbox_daemon_engine_deaths_total)") == 1, 30, "scraped once")
    other.say(1.0, view | {"engines": [said.engine(deaths=2)]}, [said.batch()])
    missing = dict(expressions())

    def all_have_data() -> bool:
        for where, expression in list(missing.items()):
            result = server.query(asked(expression, beside if re.fullmatch(NEEDS_MORE, where) else real))
            if result and all(math.isfinite(float(sample["value"][1])) for sample in result):
                del missing[where]
        return not missing

    try:
        eventually(all_have_data, 60)
    except AssertionError:
        raise AssertionError(f"no data: {missing}") from None
    for variable in DASHBOARD["templating"]["list"][1:]:
        assert server.labels(variable["name"])
    rate = asked("sum(rate(inbox_daemon_requests_total{instance=~'$instance'}[10s]))", real)
    eventually(lambda: server.value(rate) == pytest.approx(200, rel=0.2), 30, "as many a second as the engine answers")


def test_a_stall_a_hanging_loop_and_a_daemon_that_is_gone_are_alerts_of_a_real_prometheus(
    start_daemon: Start, prometheus: Callable[..., Prometheus]
) -> None:
    port = free_port()
    environment = {"INBOX_DAEMON_METRICS__PORT": str(port), "INBOX_DAEMON_ENGINE__NULL__RATE": "500"}
    daemon = start_daemon(environment=environment | {"INBOX_DAEMON_ENGINE__IN_FLIGHT": "50"})
    server = prometheus(port)
    daemon.drop("b.jsonl", batch_of(20_000))
    eventually(lambda: (server.value('inbox_daemon_requests_total{outcome="completed"}') or 0) > 100, 30)
    eventually(lambda: not server.firing(), 20, "all is well")
    config = daemon.log.with_suffix(".toml")
    kept = config.read_text()
    config.unlink()
    os.mkfifo(config)
    daemon.signal(signal.SIGHUP)  # the loop now waits for a FIFO that nobody writes
    eventually(lambda: {"InboxDaemonHangs", "InboxDaemonNoProgress"} <= server.firing(), 40)
    config.write_text(kept)
    eventually(lambda: not server.firing(), 40, "both alerts are over")
    (daemon.inbox / "b.cancel").touch()
    daemon.finished("b", 60)
    daemon.kill()
    eventually(lambda: "InboxDaemonDown" in server.firing(), 30)


def test_an_engine_that_is_killed_again_and_again_is_an_alert(
    start_daemon: Start, prometheus: Callable[..., Prometheus], tmp_path: Path
) -> None:
    """The worker is the real one; it is killed before it has loaded anything."""
    port = free_port()
    (tmp_path / "config.json").write_text("{}")  # enough of a model for the look before the start
    environment = {"INBOX_DAEMON_METRICS__PORT": str(port)}
    daemon = start_daemon(kind="vllm", arguments=["--model", str(tmp_path)], environment=environment)
    server = prometheus(port)
    deaths = "inbox_daemon_engine_deaths_total"
    enough = f"count_over_time({deaths}[30m]) >= 10"  # of fewer samples, an increase is mostly guessed
    eventually(lambda: server.query(enough) and server.value(deaths) == 0, 60, "no death yet")
    daemon.drop("b.jsonl", batch_of(10))
    for death in range(1, 4):
        worker = eventually(lambda: process(daemon, "inbox_daemon.engine.worker"), 30)
        worker.kill()
        eventually(lambda: server.value(deaths) == death, 30, f"{death} deaths")  # noqa: B023  called at once
        if death == 2:
            assert "InboxDaemonEngineRestarting" not in server.firing()
    eventually(lambda: "InboxDaemonEngineRestarting" in server.firing(), 30)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "inbox-daemon-test", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system: needs root")
def test_a_disk_that_is_nearly_full_is_an_alert_until_there_is_room_again(
    start_daemon: Start, prometheus: Callable[..., Prometheus], small_disk: Path
) -> None:
    port = free_port()
    environment = {"INBOX_DAEMON_METRICS__PORT": str(port), "INBOX_DAEMON_RESULTS__KEEP_FREE": "0"}
    start_daemon(small_disk / "spool", environment=environment)
    server = prometheus(port)
    eventually(lambda: (server.value("inbox_daemon_host_disk_used_ratio") or 1) < 0.5, 30)
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * (62 << 20))
    eventually(lambda: "InboxDaemonDiskHigh" in server.firing(), 40)
    filler.unlink()
    eventually(lambda: not server.firing(), 40)


@pytest.mark.vllm
@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_stopped_engine_core_is_an_alert_until_the_next_engine_answers(
    start_daemon: Start, prometheus: Callable[..., Prometheus], tiny_model: Path
) -> None:
    port = free_port()
    environment = {
        "INBOX_DAEMON_METRICS__PORT": str(port),
        "INBOX_DAEMON_ENGINE__STALL_AFTER_ANSWERS": "20",
        "INBOX_DAEMON_ENGINE__IN_FLIGHT": "200",
    }
    daemon = start_daemon(kind="vllm", arguments=["--model", str(tiny_model)], environment=environment)
    server = prometheus(port)
    daemon.drop("b.jsonl", batch_of(3000, max_tokens=64))
    eventually(lambda: daemon.done("b") >= 200, LOADED, "200 requests done")
    eventually(lambda: (server.value("sum(rate(inbox_daemon_engine_output_tokens_total[5s]))") or 0) > 0, 30)
    eventually(lambda: not server.firing(), 20, "all is well")
    core = process(daemon, "VLLM::EngineCore")
    assert core is not None
    core.send_signal(signal.SIGSTOP)
    eventually(lambda: "InboxDaemonNoProgress" in server.firing(), 40)
    eventually(lambda: server.value("inbox_daemon_engine_deaths_total") == 1, 120)
    eventually(lambda: "InboxDaemonNoProgress" not in server.firing(), LOADED, "the next engine answers")
    assert daemon.finished("b", 240)["request_counts"]["completed"] == 3000
