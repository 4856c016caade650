"""`inbox-daemon tune`: which settings it tries, what it draws from a file, what it says and writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from running import VLLM_ENVIRONMENT, VLLM_SETTINGS, batch_of, eventually, request

from inbox_daemon import config
from inbox_daemon.cli import tune
from inbox_daemon.cli.tune import measure
from inbox_daemon.cli.tune.climb import Axis, Trial, axes, climb, winner
from inbox_daemon.errors import Rejected
from inbox_daemon.request.reading import rules_of

DEFAULTS = {"max_num_seqs": 256, "max_num_batched_tokens": 8192, "kv_cache_dtype": "auto", "quantization": None}
RULES = rules_of(config.Config())


def climbed(rate: Callable[[dict[str, Any]], float], along: Sequence[Axis] | None = None) -> list[Trial]:
    """Climb with an engine that is as fast as `rate` says; a rate of 0 is a dead engine."""
    steps, trials = climb(along if along is not None else axes(2000, ())), []
    changed = next(steps)
    while True:
        effective = DEFAULTS | changed
        speed = rate(effective)
        problem = "" if speed else "CUDA out of memory"
        trials.append(Trial(changed, effective if speed else {}, speed, problem=problem))
        try:
            changed = steps.send(trials[-1])
        except StopIteration:
            return trials


def test_the_first_trial_changes_nothing() -> None:
    assert climbed(lambda _: 1.0)[0].changed == {}


def test_the_climb_doubles_as_long_as_that_helps_and_keeps_what_helped() -> None:
    trials = climbed(lambda e: min(e["max_num_seqs"], 1000) * (1.5 if e["kv_cache_dtype"] == "fp8" else 1))
    best = winner(trials)
    assert best and best.changed == {"max_num_seqs": 512, "kv_cache_dtype": "fp8"}  # 1024 would be half the sample


def test_the_climb_halves_where_doubling_does_not_help() -> None:
    best = winner(climbed(lambda e: 1e6 / e["max_num_batched_tokens"]))
    assert best and best.changed == {"max_num_batched_tokens": 1024}


def test_no_axis_is_tried_again_once_it_is_settled() -> None:
    tried = [tuple(sorted(trial.changed.items())) for trial in climbed(lambda _: 100.0)]
    assert len(tried) == len(set(tried)) == 1 + 2 + 2 + 1


def test_a_gain_within_the_noise_is_no_gain() -> None:
    best = winner(climbed(lambda e: 100.0 + 0.001 * e["max_num_seqs"]))
    assert best and best.changed == {}


def test_an_engine_that_dies_on_a_setting_costs_that_setting() -> None:
    trials = climbed(lambda e: 0.0 if e["max_num_seqs"] > 256 else 50.0 + (e["kv_cache_dtype"] == "fp8") * 50)
    best = winner(trials)
    assert [trial.changed for trial in trials if trial.problem] == [{"max_num_seqs": 512}]
    assert best and best.changed == {"kv_cache_dtype": "fp8"}


def test_nothing_else_is_tried_where_the_users_own_settings_do_not_run() -> None:
    trials = climbed(lambda _: 0.0)
    assert len(trials) == 1
    assert winner(trials) is None


def test_quantization_is_tried_only_when_asked_for() -> None:
    asked = {trial.changed.get("quantization") for trial in climbed(lambda _: 1.0, axes(2000, ("fp8", "mxfp4")))}
    assert {trial.changed.get("quantization") for trial in climbed(lambda _: 1.0)} == {None}
    assert asked == {None, "fp8", "mxfp4"}


def test_the_sample_is_in_order_from_all_over_the_file_and_the_same_each_time(tmp_path: Path) -> None:
    file = tmp_path / "big.jsonl"
    file.write_bytes(batch_of(10_000))
    drawn = [request.number for request in measure.sample(file, 640, RULES)]
    assert drawn == sorted(set(drawn))
    assert len(drawn) == 640
    assert drawn[0] < 2500
    assert drawn[-1] > 7500
    assert sum(after == before + 1 for before, after in pairwise(drawn)) >= 630  # neighbours stay
    assert drawn == [request.number for request in measure.sample(file, 640, RULES)]


@pytest.mark.parametrize("wanted", [1, 64, 100, 127, 128, 300])
def test_the_sample_is_as_large_as_was_asked_for(tmp_path: Path, wanted: int) -> None:
    file, link = tmp_path / "large.jsonl", tmp_path / "link.jsonl"
    file.write_bytes(batch_of(320))
    link.symlink_to(file)
    assert len(measure.sample(link, wanted, RULES)) == wanted


def test_lines_that_cannot_run_are_not_in_the_sample(tmp_path: Path) -> None:
    file = tmp_path / "mixed.jsonl"
    file.write_bytes(b'{"broken": \n\n' + batch_of(3) + b"[]\n")
    assert [request.number for request in measure.sample(file, 100, RULES)] == [3, 4, 5]
    file.write_bytes(b"nothing\nat all\n")
    with pytest.raises(Rejected, match=r"none of 2 lines can run; inbox-daemon check mixed\.jsonl says why"):
        measure.sample(file, 100, RULES)


def test_what_is_written_is_the_whole_table_and_reads_back_as_settings() -> None:
    own = {
        "max_model_len": 4096,
        "hf_overrides": {"a-b": [1, "zwei \x7f\U0001f600"]},
        "enforce_eager": True,
        "max_num_seqs": 256,
    }
    read = config.build({"engine": {"args": own}}, "test")
    default, best = Trial({}, requests_per_second=100.0), Trial({"max_num_seqs": 512}, requests_per_second=150.0)
    text = tune.fragment(read, best, default, "64 requests of x.jsonl")
    assert "1.50 times the speed of the settings before, 64 requests of x.jsonl" in text
    assert config.build({"engine": tomllib.loads(text)["engine"]}, "test").engine.args == own | {"max_num_seqs": 512}


def command(file: Path, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "inbox_daemon", "tune", str(file), *map(str, arguments)]


def with_null(rate: int) -> dict[str, str]:
    return os.environ | {"INBOX_DAEMON_ENGINE__KIND": "null", "INBOX_DAEMON_ENGINE__NULL__RATE": str(rate)}


def test_tune_says_what_it_measured_and_writes_the_settings(tmp_path: Path) -> None:
    file, written = tmp_path / "batch.jsonl", tmp_path / "tuned.toml"
    file.write_bytes(batch_of(100))
    done = subprocess.run(
        command(file, "--json", "--write", written), env=with_null(500), capture_output=True, check=True
    )
    told = orjson.loads(done.stdout)
    assert told["requests"] == 100
    assert [trial["changed"] for trial in told["trials"]] == [{}, {"kv_cache_dtype": "fp8"}]
    first, second = (trial["requests_per_second"] for trial in told["trials"])
    assert told["trials"][1]["ratio"] == pytest.approx(second / first, abs=0.001)
    assert told["fastest"] == ({"kv_cache_dtype": "fp8"} if second >= 1.03 * first else {})
    assert tomllib.loads(written.read_text()) == {"engine": {"args": told["fastest"]}}


def test_tune_overwrites_nothing_and_says_so_before_it_starts_an_engine(tmp_path: Path) -> None:
    file, there = tmp_path / "batch.jsonl", tmp_path / "tuned.toml"
    file.write_bytes(batch_of(10))
    there.write_text("mine")
    done = subprocess.run(
        command(file, "--write", there), env=with_null(1), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert "tuned.toml exists and is left as it is: name a new file with --write" in done.stderr
    assert there.read_text() == "mine"


def test_a_place_to_write_to_that_is_not_there_is_said_before_an_engine_is_started(tmp_path: Path) -> None:
    file = tmp_path / "batch.jsonl"
    file.write_bytes(batch_of(10))
    asked = command(file, "--write", tmp_path / "no folder" / "tuned.toml")
    done = subprocess.run(asked, env=with_null(1), capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no folder/tuned.toml: its folder is not there" in done.stderr


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_measured(tmp_path: Path) -> None:
    file, log, written = tmp_path / "batch.jsonl", tmp_path / "log", tmp_path / "tuned.toml"
    file.write_bytes(batch_of(1000))
    with log.open("wb") as out:
        process = subprocess.Popen(
            command(file, "--write", written),
            env=with_null(200),
            stdout=out,
            stderr=out,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  as a terminal has it
        )
    eventually(lambda: "kv_cache_dtype fp8: …" in log.read_text(), 30, "the second trial runs")
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert "fastest" in log.read_text()
    assert written.exists()


@pytest.mark.vllm
@pytest.mark.long
@pytest.mark.timeout(600)
def test_tune_finds_the_faster_of_two_settings_with_the_real_engine(tmp_path: Path, tiny_model: Path) -> None:
    file, settings, written = tmp_path / "batch.jsonl", tmp_path / "config.toml", tmp_path / "tuned.toml"
    asked = [request(f"r{i}", f"say {i}", max_tokens=32, ignore_eos=True) for i in range(64)]
    file.write_bytes(b"".join(orjson.dumps(one) + b"\n" for one in asked))
    settings.write_text(VLLM_SETTINGS + "max_num_seqs = 2\n")
    program = (
        "import sys; from inbox_daemon import cli; from inbox_daemon.cli import tune; from inbox_daemon.cli.tune.climb "
        "import Scale; tune.axes = lambda *_: [Scale('max_num_seqs', 2, 4)]; sys.exit(cli.main(sys.argv[1:]))"
    )
    verb = ["tune", str(file), "--config", str(settings), "--model", str(tiny_model), "--json", "--write", str(written)]
    environment = os.environ | VLLM_ENVIRONMENT
    done = subprocess.run([sys.executable, "-c", program, *verb], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    first, second = orjson.loads(done.stdout)["trials"]
    assert (first["changed"], second["changed"]) == ({}, {"max_num_seqs": 4})
    assert (first["effective"]["max_num_seqs"], second["effective"]["max_num_seqs"]) == (2, 4)
    assert second["ratio"] > 1.03
    assert tomllib.loads(written.read_text())["engine"]["args"]["max_num_seqs"] == 4
