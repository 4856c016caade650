"""The settings: complete in etc/inbox-daemon.toml, and a mistake names the key, the value and what would be right."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from running import ROOT

from inbox_daemon import config
from inbox_daemon.errors import ConfigError, NotNow
from inbox_daemon.settings import AT_START, RELOADABLE, Settings

EXAMPLE = ROOT / "etc" / "inbox-daemon.toml"


def tree(settings: object) -> Any:
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        return {field.name: tree(getattr(settings, field.name)) for field in dataclasses.fields(settings)}
    if isinstance(settings, tuple):
        return list(settings)
    return dict(settings) if isinstance(settings, Mapping) else settings


def test_the_example_lists_every_setting_with_its_default() -> None:
    assert tomllib.loads(EXAMPLE.read_text()) == tree(config.Config())


def test_every_setting_in_the_example_has_a_reason() -> None:
    for line in EXAMPLE.read_text().splitlines():
        if " = " in line and not line.startswith("#"):
            assert "#" in line, line


@pytest.mark.parametrize(
    ("text", "needles"),
    [
        ("[engine]\nmodle = 'x'", ["engine.modle", "'x'", "engine.model?"]),
        ("[inbox]\nsettle = 'long'", ["inbox.settle", "'long'", "a number"]),
        ("[inbox]\nsettle = -1", ["inbox.settle", "-1", "0 or more"]),
        ("[inbox]\nstrict = 1", ["inbox.strict", "1", "true or false"]),
        ("[engine]\nkind = 'sglang'", ["engine.kind", "'sglang'", "vllm, null"]),
        ("[engine]\nin_flight = 2.5", ["engine.in_flight", "2.5", "a whole number"]),
        ("[engine.null]\nengines = 0", ["engine.null.engines", "0", "1 or more"]),
        ("engine = 3", ["engine = 3", "table"]),
        ("[inbox.priorities]\na = 1000000000", ["inbox.priorities", "1000000000", "at most nine digits"]),
        ("[models.aliases]\na = 1", ["models.aliases", "table of names"]),
        (
            "[requests]\nallowed_media_domains = 'a.org'",
            ["requests.allowed_media_domains", "'a.org'", "a list of names"],
        ),
        (
            "[requests]\nallowed_media_domains = ['https://a.org']",
            ["requests.allowed_media_domains", "media.example.org"],
        ),
        ("[requests]\nallowed_media_domains = ['A.org']", ["requests.allowed_media_domains", "lower case"]),
        (
            "[engine.args]\nallowed-media-domains = ['a.org']",
            ["engine.args", "set requests.allowed_media_domains instead"],
        ),
        ("[engine.args]\nenable-log-requests = true", ["engine.args", "prompts into the journal"]),
        ("[alerts]\ncommand = 'mail'", ["alerts.command", "'mail'", "a program and its arguments"]),
        ("[engine.args]\nallowed_local_media_path = '/'", ["engine.args", "'/'", "leave it out"]),
        ("[web]\nlisten = 8001", ["web.listen", "8001", "127.0.0.1:8001", "unix:"]),
        ("[web]\nlisten = '127.0.0.1'", ["web.listen", "'127.0.0.1'", "an address and a port"]),
        ("[web]\nhosts = ['https://a.org']", ["web.hosts", "'https://a.org'", "names in lower case"]),
        ("[web]\nkeys = 'web-keys'", ["web.keys", "'web-keys'", "a path such as"]),
        ("[web]\nuploads = 0", ["web.uploads", "0", "1 or more"]),
        ("[web]\nkeep_files = 'long'", ["web.keep_files", "'long'", '"30d"']),
        ("spool = ", ["not TOML"]),
    ],
)
def test_a_mistake_in_the_file_names_file_key_value_and_what_is_right(
    tmp_path: Path, text: str, needles: list[str]
) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        config.load(path, {}, {})
    for needle in [str(path), *needles]:
        assert needle in str(raised.value)


def test_the_environment_overrides_the_file_and_flags_override_both(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[engine]\nmodel = 'file'\nin_flight = 1\nstall_after = 5\n")
    env = {"INBOX_DAEMON_ENGINE__MODEL": "env", "INBOX_DAEMON_ENGINE__IN_FLIGHT": "2"}
    read = config.load(path, env, {"engine.model": "flag"})
    assert (read.engine.model, read.engine.in_flight, read.engine.stall_after) == ("flag", 2, 5.0)


def test_each_value_is_known_to_come_from_the_file_the_environment_or_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(
        "[engine]\nmodel = 'file'\nin_flight = 1\n[engine.args]\na = 1\nb = {c = 1}\n[inbox.priorities]\nx = 1\n"
    )
    env = {"INBOX_DAEMON_ENGINE__IN_FLIGHT": "2", "INBOX_DAEMON_INBOX__PRIORITIES": "{y = 1}"}
    read = config.read(path, env, {"engine.model": "flag"})
    assert read.origins == {
        "engine.model": "the command line",
        "engine.in_flight": "$INBOX_DAEMON_ENGINE__IN_FLIGHT",
        "inbox.priorities.y": "$INBOX_DAEMON_INBOX__PRIORITIES",
        "engine.args.a": str(path),
        "engine.args.b.c": str(path),
    }


def test_a_file_that_cannot_be_read_now_is_no_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(NotNow, match="Input/output error"):
        config.load(Path("/proc/self/mem"), {}, {})
    with pytest.raises(ConfigError, match="Is a directory"):
        config.load(tmp_path, {}, {})


def test_a_file_that_is_named_from_where_one_stands_is_an_origin_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "c.toml").write_text("[engine]\nmodel = 'file'\n")
    monkeypatch.chdir(tmp_path)
    assert config.found("c.toml", {}).origins == {"engine.model": f"{tmp_path}/c.toml"}


def test_a_list_of_names_comes_from_the_file_and_from_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[requests]\nallowed_media_domains = ['a.org', '10.0.0.1']\n")
    assert config.load(path, {}, {}).requests.allowed_media_domains == ("a.org", "10.0.0.1")
    env = {"INBOX_DAEMON_REQUESTS__ALLOWED_MEDIA_DOMAINS": '["b.org"]'}
    assert config.load(path, env, {}).requests.allowed_media_domains == ("b.org",)


def test_an_unknown_variable_names_itself() -> None:
    with pytest.raises(ConfigError, match="INBOX_DAEMON_ENGINE__MODLE"):
        config.load(None, {"INBOX_DAEMON_ENGINE__MODLE": "x"}, {})


def test_a_wrong_setting_is_exit_78(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[engine]\nmodle = 'x'\n")
    command = [sys.executable, "-m", "inbox_daemon", "run", "--spool", str(tmp_path / "s"), "--config", str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 78
    assert "engine.modle" in ended.stderr


def test_a_missing_model_is_exit_78_and_says_how_to_name_one(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "inbox_daemon", "run", "--spool", str(tmp_path / "s")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 78
    assert "--model" in ended.stderr


# -- a reload


def built(**sections: dict[str, Any]) -> config.Config:
    return config.build(sections, "test")


def test_a_reload_takes_what_may_change_and_names_what_waits_for_the_next_start() -> None:
    settings = Settings(built(engine={"model": "old"}))
    before = settings.now
    fresh = built(engine={"model": "new"}, alerts={"full": 0.8}, inbox={"settle": 7.0, "watch": "poll"})
    assert settings.take(fresh) == (["alerts", "inbox"], ["engine", "inbox.watch"])
    assert (settings.now.alerts.full, settings.now.inbox.settle, settings.now.engine.model) == (0.8, 7.0, "old")
    assert (before.alerts.full, before.inbox.settle) == (0.95, 2.0), "who asked before has what was in force then"
    assert settings.now.inbox.watch == "auto" and settings.take(fresh)[1] == ["engine", "inbox.watch"], "said again"


def test_a_reload_takes_models_where_they_fit_what_engine_is_until_the_next_start() -> None:
    settings = Settings(built(engine={"model": "a"}))
    assert not settings.several and settings.serves("") and not settings.serves("b")
    assert settings.take(built(engine={"model": "a"}, model={"b": {"aliases": ["small"]}})) == (["model"], [])
    assert settings.several and settings.serves("b")
    with pytest.raises(ConfigError, match="'a' is there twice"):
        settings.take(built(engine={"model": "c"}, model={"b": {"aliases": ["a"]}}))
    only = Settings(built(model={"b": {}}))
    with pytest.raises(ConfigError, match="no model is left"):
        only.take(built())
    assert only.serves("b")
    assert only.take(built(model={"b": {}}, models={"allow_any": True})) == (["models"], [])
    assert only.serves("org/x") and not only.serves("/srv/x") and not only.serves("nothing")


def test_a_reload_that_changes_nothing_takes_nothing() -> None:
    settings = Settings(built(engine={"model": "m"}))
    assert settings.take(built(engine={"model": "m"})) == ([], [])


def test_every_section_that_a_reload_may_change_is_one_and_so_is_what_waits() -> None:
    sections = {field.name for field in dataclasses.fields(config.Config)}
    assert set(RELOADABLE) <= sections
    for name in AT_START:
        section, key = name.split(".")
        assert section in RELOADABLE
        assert key in tree(getattr(config.Config(), section))


@pytest.mark.parametrize(
    ("arguments", "aliases", "words"),
    [
        ({"enable_lora": True}, {}, ["enable_lora has no effect without adapters", "lora_modules"]),
        ({"lora_modules": ["/srv/adapter"]}, {}, ["lora_modules is not right", "name=/folder"]),
        ({"lora_modules": ["a=/x", "a=/y"]}, {}, ["'a' is there twice"]),
        ({"lora_modules": ["org/m=/x"]}, {}, ["'org/m' is the model's name too"]),
        ({"lora_modules": ["a=/x"]}, {"a": "org/m"}, ["models.aliases: 'a' is an adapter's name", "remove the alias"]),
        ({"sse_keep_alive_interval": 5}, {}, ["sse_keep_alive_interval", "no effect here", "leave it out"]),
        ({"output-file": "x"}, {}, ["engine.args.output-file", "spool", "leave it out"]),
        ({"model": "x"}, {}, ["engine.args.model", "set engine.model instead"]),
    ],
)
def test_an_engine_argument_without_effect_is_refused_with_what_to_do_instead(
    arguments: dict[str, object], aliases: dict[str, str], words: list[str]
) -> None:
    tree = {"engine": {"model": "org/m", "args": arguments}, "models": {"aliases": aliases}}
    with pytest.raises(ConfigError) as refused:
        config.build(tree, source="/etc/c.toml")
    for word in ["/etc/c.toml", *words]:
        assert word in str(refused.value)
