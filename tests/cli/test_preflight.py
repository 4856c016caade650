"""`inbox-daemon config`, and what a start makes of a wrong setting: said before anything runs, with the next step."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import hubs
import pytest

from inbox_daemon import cli, config
from inbox_daemon.cli import preflight, reach

MODEL = "[engine]\nmodel = 'org/name'\n"


def checked(tmp_path: Path, settings: str, *flags: str, spool: Path | None = None) -> list[str]:
    (tmp_path / "c.toml").write_text(settings)
    where = ["--config", str(tmp_path / "c.toml"), "--spool", str(spool or tmp_path / "spool")]
    return ["config", "check", *where, *flags]


# What stands in the settings, what is said, and whether a start ends by it; else the daemon says so and runs.
WRONG = {
    "nobody knows the key": (
        "[engine]\nmodle = 'x'",
        "unknown setting engine.modle = 'x'; did you mean",
        1,
    ),
    "a value of another kind": (
        "[inbox]\nsettle = 'long'",
        "inbox.settle = 'long' is not right: it must be",
        1,
    ),
    "not TOML": ("[engine\n", "not TOML", 1),
    "no model": ("[engine]\n", "engine.model is not set: name the model to serve, with --model", 1),
    "no such folder": ("[engine]\nmodel = '/no/where'", "engine.model = '/no/where': there is nothing of that name", 1),
    "no model in it": ("[engine]\nmodel = '{empty}'", "there is no config.json in it; a model's folder has one", 1),
    "no name of a model": ("[engine]\nmodel = 'a b'", "neither a folder nor a name such as Qwen/Qwen3-4B", 1),
    "not decided there": (f"{MODEL}[engine.args]\nmax_logprobs = 5", "set requests.max_logprobs instead", 1),
    "no such port": ("[engine]\nkind = 'null'\n[metrics]\nport = 70000", "metrics.port = 70000: cannot listen", 1),
    "no such host": (
        "[engine]\nkind = 'null'\n[metrics]\nport = 19878\naddress = 'host.invalid'",
        "cannot listen on host.invalid:19878",
        1,
    ),
    "no such file": (
        "[engine]\nkind = 'null'\n[metrics]\ntextfile = '/no/x.prom'",
        "metrics.textfile = '/no/x.prom'",
        1,
    ),
    "no such program": (f"{MODEL}[alerts]\ncommand = ['/no/mail']", "alerts.command: /no/mail: no such program", 0),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_setting_is_said_by_config_check_and_ends_a_start_with_78(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, sentence, ends = WRONG[case]
    (tmp_path / "empty").mkdir()
    arguments = checked(tmp_path, settings.replace("{empty}", str(tmp_path / "empty")), "--quick")
    assert cli.main(arguments) == 78
    said = capsys.readouterr()
    assert sentence in said.out + said.err
    if ends:
        assert cli.main(["run", "--drain", *arguments[2:6]]) == 78
        assert sentence in capsys.readouterr().err


def test_what_is_right_is_said_to_be_and_a_port_in_use_is_none_of_the_settings_business(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "_ANSWERS_WITHIN", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = f"{MODEL}[alerts]\ncommand = ['cat']\n[metrics]\nport = {port}\n"
        assert cli.main(checked(tmp_path, settings, "--quick")) == 1
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said[1:]] == ["ok", "ok", "not", "ok"]
    assert (
        f"metrics.port = {port}: 127.0.0.1:{port}: [Errno 98] Address already in use; the daemon tries again" in said[3]
    )
    assert cli.main(checked(tmp_path, settings, "--quick")) == 0
    assert not (tmp_path / "spool").exists(), "a check makes nothing"


@pytest.mark.slow
def test_of_a_model_that_is_a_name_the_hub_is_asked_and_each_of_its_answers_has_a_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    names, model = ["org/there", "org/gated", "org/gone", "org/odd"], {"config.json": b"{}", "model.safetensors": b"1"}
    repositories = {"org/there": model, "org/gated": model, "org/odd": {"model.safetensors": b"1"}}

    def said() -> list[str]:
        settings = [config.build({"engine": {"model": name}}, "test") for name in names]
        return [f"{found.verdict} {found.sentence}" for read in settings for found in reach.repository(read)]

    with hubs.serving(repositories, frozenset({"org/gated"})) as hub:
        for name, value in hub.environment(tmp_path).items():
            monkeypatch.setenv(name, value)
        there, gated, gone, odd = said()
    assert there == "ok engine.model = 'org/there': Hugging Face has org/there"
    assert gated.startswith("wrong ") and "accept it at https://huggingface.co/org/gated" in gated
    assert gone.startswith("wrong ") and "look at the spelling" in gone
    assert odd.startswith("unknown ") and "without config.json" in odd
    assert all(line.startswith("not now ") and "cannot be reached" in line for line in said())


def test_show_is_toml_that_reads_back_with_each_values_origin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INBOX_DAEMON_INBOX__SETTLE", "7")
    settings = (
        f"{MODEL}[engine.args]\nmax-model-len = 8\nlimit_mm_per_prompt = {{image = 2}}\n[inbox.priorities]\n'a-*' = 1\n"
    )
    flags = checked(tmp_path, settings)[2:]
    assert cli.main(["config", "show", *flags, "--model", "other"]) == 0
    shown = capsys.readouterr().out
    assert tomllib.loads(shown) == {
        "spool": str(tmp_path / "spool"),
        "inbox": {"settle": 7.0, "priorities": {"a-*": 1}},
        "engine": {"model": "other", "args": {"max-model-len": 8, "limit_mm_per_prompt": {"image": 2}}},
    }
    origins = dict(re.findall(r"(?m)^(\S+) = .*?  # (.*)$", shown))
    assert origins["model"] == origins["spool"] == "the command line"
    assert origins["settle"] == "$INBOX_DAEMON_INBOX__SETTLE" and origins["max-model-len"] == f"{tmp_path}/c.toml"
    assert cli.main(["config", "show", *flags, "--effective"]) == 0
    shown = capsys.readouterr().out
    (tmp_path / "all.toml").write_text(shown)
    assert re.search(r"(?m)^rescan = 15.0 +# default$", shown)
    assert cli.main(["config", "show", "--config", str(tmp_path / "all.toml"), "--effective"]) == 0
    again = capsys.readouterr().out
    assert [line.split("  #")[0].strip() for line in again.splitlines()] == [
        line.split("  #")[0].strip() for line in shown.splitlines()
    ]


@pytest.mark.vllm
def test_a_service_is_not_ready_with_engine_arguments_that_vllm_does_not_accept_for_the_model(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    settings = f"[engine]\nmodel = '{tiny_model}'\n[engine.args]\nmax_model_len = "
    start = [sys.executable, "-m", "inbox_daemon", "run", "--check", "--drain"]
    for wrong, sentence in (
        ("'many'", "argument --max-model-len"),
        ("100_000", "greater than the derived max_model_len"),
    ):
        where = checked(tmp_path, f"{settings}{wrong}")[2:]
        started = subprocess.run([*start, *where], capture_output=True, text=True, check=False)
        assert (started.returncode, "ready:" in started.stderr) == (78, False)
        assert "does not accept [engine.args]" in started.stderr and sentence in started.stderr
    arguments = checked(tmp_path, f"{settings}1024", "--quick")
    for said in ("accepted by vLLM for this model", "vLLM has accepted this before"):
        assert cli.main(arguments) == 0
        assert f"[engine.args] max_model_len: {said}" in capsys.readouterr().out
