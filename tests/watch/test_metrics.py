"""What Prometheus reads: complete, by its conventions, bounded, and served whatever the loop does."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import said
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from running import Daemon, batch_of, eventually, free_port

from inbox_daemon.config import AlertSettings, MetricsSettings
from inbox_daemon.errors import ConfigError
from inbox_daemon.setbacks import Setbacks
from inbox_daemon.watch import metrics
from inbox_daemon.watch.conditions import Moment, conditions

Start = Callable[..., Daemon]
Samples = dict[str, dict[tuple[tuple[str, str], ...], float]]


class Scraped(CollectorRegistry):
    """A registry with what the daemon would serve."""

    def __init__(self, daemon: dict[str, Any], *batches: dict[str, Any]) -> None:
        super().__init__()
        self.register(self)
        self._said = (time.time(), daemon, batches)

    def collect(self) -> Iterator[Any]:
        return metrics.families(*self._said)


def samples(text: str) -> Samples:
    """Every sample by name and labels; fails where a label set comes twice."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            assert labels not in found.setdefault(sample.name, {}), sample
            found[sample.name][labels] = sample.value
    return found


def exposed(daemon: dict[str, Any], *batches: dict[str, Any]) -> str:
    return generate_latest(Scraped(daemon, *batches)).decode()


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def test_promtool_finds_nothing_to_say_about_names_types_and_units() -> None:
    text = exposed(said.daemon(), said.batch())
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_every_value_the_daemon_says_is_a_sample() -> None:
    found = samples(exposed(said.daemon(), said.batch()))
    value = lambda name, **labels: found[f"inbox_daemon_{name}"][tuple(sorted(labels.items()))]  # noqa: E731
    assert value("batches", state="in_progress") == 1
    assert value("batches", state="parked") == 0
    assert value("inbox_files") == 1
    assert value("requests_total", outcome="completed") == 7000
    assert value("cached_input_tokens_total") == 2_500_000
    assert value("batch_requests", batch="candidates", state="left") == 50_000 - 7003 - 1536
    assert value("batch_eta_seconds", batch="candidates") == 465
    engine = {"engine": "1", "model": said.MODEL, "host": "gpu-box"}
    assert value("engine_state", **engine, state="ready") == 1
    assert value("engine_state", **engine, state="loading") == 0
    assert value("engine_info", **engine, version="vllm 0.32.0") == 1
    assert value("engine_deaths_total", **engine) == 1
    assert value("engine_output_tokens_total", **engine) == 1_100_000
    assert value("engine_requests_in_flight", **engine) == 1536
    assert value("engine_kv_cache_usage_ratio", **engine) == 0.64
    assert value("gpu_state", state="ok") == 1
    assert value("gpu_power_watts", gpu="1") == 642.5
    assert value("gpu_xid_code", gpu="1") == 31
    assert value("gpu_throttled", gpu="0", reason="sw_power_cap") == 1
    assert value("host_disk_used_ratio") == 0.73
    assert value("alert_active", alert="BatchLate", severity="warning", batch="candidates") == 1


def test_of_models_that_take_turns_each_has_its_state_and_who_waits_since_when_and_until_when() -> None:
    standings = [
        {"model": "qwen", "state": "ready"},
        {"model": "gemma", "state": "waiting", "since": 100.0, "turn_by": 200.0, "behind": ["qwen"]},
    ]
    found = samples(exposed(said.daemon(standings=standings)))
    states = {tuple(dict(labels).values()) for labels, n in found["inbox_daemon_model_state"].items() if n == 1}
    assert states == {("qwen", "ready"), ("gemma", "waiting")}
    assert found["inbox_daemon_model_waits_since_timestamp_seconds"] == {(("model", "gemma"),): 100.0}
    assert found["inbox_daemon_model_turn_by_timestamp_seconds"] == {(("model", "gemma"),): 200.0}


def test_each_engine_has_series_of_its_own() -> None:
    engines = [
        said.engine(1, output_tokens=10),
        said.engine(2, output_tokens=20, model="BAAI/bge-m3"),
        said.engine(3, host="gpu-box-2", state="loading", phase="loading weights"),
    ]
    found = samples(exposed(said.daemon(engines=engines)))
    tokens = {dict(labels)["engine"]: n for labels, n in found["inbox_daemon_engine_output_tokens_total"].items()}
    assert tokens == {"1": 10, "2": 20}
    holds = [dict(labels) for labels, value in found["inbox_daemon_engine_state"].items() if value]
    assert {(one["engine"], one["model"], one["host"], one["state"]) for one in holds} == {
        ("1", said.MODEL, "gpu-box", "ready"),
        ("2", "BAAI/bge-m3", "gpu-box", "ready"),
        ("3", said.MODEL, "gpu-box-2", "loading"),
    }
    assert {name for name in found if "_engine_" in name and len(found[name]) != 3} == {
        "inbox_daemon_engine_state",
        *(f"inbox_daemon_engine_{name}" for name in ("requests_running", "requests_waiting", "kv_cache_usage_ratio")),
        *(f"inbox_daemon_engine_{name}_total" for name in ("input_tokens", "output_tokens", "preemptions")),
    }


def test_a_daemon_of_the_release_before_has_no_samples_of_engines() -> None:
    found = samples(exposed(said.of_schema_1(), said.batch(engine={"state": "ready"}, engines=None)))
    assert found["inbox_daemon_requests_total"]
    assert not [name for name in found if name.startswith("inbox_daemon_engine_")]


def test_what_is_not_known_is_no_sample() -> None:
    bare = said.gpu(0)
    for key in bare.keys() - {"index"}:
        bare[key] = None
    gpus = {"state": "silent", "at": None, "problem": "no answer", "devices": [bare]}
    off = {"engine": 1, "model": "m", "host": "h", "state": "off"}
    daemon = {"engines": [off], "gpus": gpus, "host": {"memory_used_ratio": None}}
    found = samples(exposed(daemon, said.batch(eta_seconds=None, usage=None)))
    assert found["inbox_daemon_gpu_state"][(("state", "silent"),)] == 1
    absent = {"batch_eta_seconds", "gpu_power_watts", "host_memory_used_ratio", "engine_kv_cache_usage_ratio"}
    absent |= {"engine_info", "engine_starts_total"}
    assert not {f"inbox_daemon_{name}" for name in absent} & found.keys()


def test_a_batch_is_in_one_state_and_parked_says_more_than_in_progress() -> None:
    batches = [
        said.batch("a"),
        said.batch("b", parked="the engine died 30 times"),
        said.batch("c", paused=True),
        said.batch("d", waiting_for_disk_bytes=1),
        said.batch("e", status="finalizing"),
        said.batch("f", waiting_for_model="BAAI/bge-m3", waiting_for_disk_bytes=1, paused=True),
        said.batch("g", status="cancelled", waiting_for_model="BAAI/bge-m3"),
    ]
    states = {labels[0][1]: n for labels, n in samples(exposed({}, *batches))["inbox_daemon_batches"].items()}
    assert {state for state, n in states.items() if n == 1} == {
        "in_progress",
        "parked",
        "paused",
        "waiting_for_disk",
        "finalizing",
        "waiting_for_model",
    }
    assert sum(states.values()) == 6  # one that has ended is in work no more


def test_alerts_that_look_alike_do_not_cost_the_scrape() -> None:
    alert = said.daemon()["alerts"][0]
    daemon = said.daemon(alerts=[alert, {**alert, "text": "again"}, {**alert, "batch": None}])
    assert len(samples(exposed(daemon))["inbox_daemon_alert_active"]) == 2


@pytest.mark.slow
def test_no_label_but_the_name_of_a_live_batch_comes_from_users(start_daemon: Start) -> None:
    port = free_port()
    daemon = start_daemon(
        environment={"INBOX_DAEMON_METRICS__PORT": str(port), "INBOX_DAEMON_ENGINE__NULL__RATE": "100"}
    )
    for i in range(3):
        daemon.drop(f"secret{i}.jsonl", batch_of(300, prefix="custom-"))
    eventually(lambda: all(f'batch="secret{i}"' in scrape(port) for i in range(3)), what="three live batches")
    for i in range(3):
        daemon.finished(f"secret{i}")
    eventually(lambda: "secret" not in scrape(port), what="labels of ended batches are gone")
    text = scrape(port)
    assert "custom-" not in text
    found = samples(text)
    assert found["inbox_daemon_requests_total"][(("outcome", "completed"),)] == 900
    assert found["inbox_daemon_output_tokens_total"][()] == 900
    assert found["inbox_daemon_process_resident_memory_bytes"][()] > 1e6


@pytest.mark.slow
def test_a_loop_that_hangs_is_still_scraped_and_seen_to_stand(start_daemon: Start) -> None:
    port = free_port()
    daemon = start_daemon(environment={"INBOX_DAEMON_METRICS__PORT": str(port)})
    stamp = lambda: samples(scrape(port))["inbox_daemon_loop_timestamp_seconds"][()]  # noqa: E731
    before = eventually(stamp)
    eventually(lambda: stamp() > before, 30, "the loop's stamp moves")
    config = daemon.log.with_suffix(".toml")
    config.unlink()
    os.mkfifo(config)  # reading it holds up whoever reads the settings anew
    daemon.signal(signal.SIGHUP)
    eventually(lambda: time.time() - stamp() > 4, 30, "the stamp stands still")
    config.write_text("")
    eventually(lambda: time.time() - stamp() < 1, 30, "the stamp moves again")


def test_a_scraper_that_never_reads_does_not_hold_up_the_loop_or_other_scrapers(start_daemon: Start) -> None:
    port = free_port()
    daemon = start_daemon(environment={"INBOX_DAEMON_METRICS__PORT": str(port)})
    with socket.create_connection(("127.0.0.1", port)) as silent, socket.create_connection(("127.0.0.1", port)) as rude:
        rude.sendall(b"GET /metrics HTTP/1.1\r\n")  # and never the rest
        assert silent.fileno() >= 0
        daemon.drop("b.jsonl", batch_of(100))
        daemon.finished("b")
        assert "inbox_daemon_requests_total" in scrape(port)
    daemon.signal(signal.SIGTERM)
    assert daemon.ended() == 0


def test_a_port_that_is_taken_is_tried_again_and_an_alert_if_that_lasts(caplog: Any) -> None:
    setbacks = Setbacks()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        start = time.monotonic()
        one = metrics.Metrics(MetricsSettings(port=port), setbacks)
        for later in range(1, 150):
            one.say(start + later, said.daemon(), [])
    assert [r.getMessage() for r in caplog.records] == [
        f"metrics: cannot listen on 127.0.0.1:{port}: [Errno 98] Address already in use; trying again"
    ]
    moment = Moment(setbacks=setbacks.known(start + 150))
    [alert] = conditions(moment, AlertSettings())
    assert alert.name == "FilesFailing" and alert.text.startswith(f"metrics.port = {port}: failed ")
    with caplog.at_level("INFO"):
        one.say(start + 200, said.daemon(), [])
    assert caplog.records[-1].getMessage() == f"metrics: listening on 127.0.0.1:{port}"
    assert setbacks.known(start + 200) == () and "inbox_daemon_requests_total" in scrape(port)


@pytest.mark.parametrize(
    ("settings", "needles"),
    [
        (MetricsSettings(port=70_000), ["metrics.port = 70000"]),
        (MetricsSettings(port=9878, address="host.invalid"), ["host.invalid:9878"]),
        (MetricsSettings(textfile="/nowhere/x.prom"), ["metrics.textfile", "'/nowhere/x.prom'", "ReadWritePaths"]),
        (MetricsSettings(textfile="/tmp/x.txt"), ["metrics.textfile", ".prom"]),
    ],
)
def test_metrics_that_cannot_be_had_are_a_wrong_setting(settings: MetricsSettings, needles: list[str]) -> None:
    with pytest.raises(ConfigError) as raised:
        metrics.Metrics(settings, Setbacks())
    for needle in needles:
        assert needle in str(raised.value)


def test_a_textfile_is_always_whole_and_readable_for_node_exporter(start_daemon: Start, tmp_path: Path) -> None:
    file = tmp_path / "textfile" / "inbox-daemon.prom"
    file.parent.mkdir()
    start_daemon(
        environment={"INBOX_DAEMON_METRICS__TEXTFILE": str(file)}, prefix=["sh", "-c", 'umask 027; exec "$@"', "sh"]
    )
    text = eventually(lambda: file.read_text() if file.exists() else "", what="a textfile with numbers")
    assert samples(text)["inbox_daemon_batches"]
    eventually(lambda: file.stat().st_mode & 0o777 == 0o644, 30, "readable for all")
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_disk_that_refuses_the_textfile_is_said_once_and_costs_nothing_else(tmp_path: Path, caplog: Any) -> None:
    file = tmp_path / "gone" / "x.prom"
    file.parent.mkdir()
    one = metrics.Metrics(MetricsSettings(textfile=str(file)), Setbacks())
    file.unlink()
    file.parent.rmdir()
    for now in (0.0, 20.0, 40.0):
        one.say(now, said.daemon(), [])
    assert len([r for r in caplog.records if re.search("metrics cannot be written", r.getMessage())]) == 1
    file.parent.mkdir()
    one.say(60.0, said.daemon(), [])
    assert samples(file.read_text())["inbox_daemon_requests_total"]
