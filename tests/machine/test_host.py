"""How full the host's memory is, as far as this service may use it."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from inbox_daemon.machine import host


def cgroup(folder: Path, limit: str, current: int, cache: int) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{current}\n")
    (folder / "memory.stat").write_text(f"anon 1\nactive_file {cache}\ninactive_file 0\n")


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for cgroups of our own; we are in `/service` unless a test says otherwise."""
    monkeypatch.setattr(host, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(host, "_OURS", tmp_path / "ours")
    (tmp_path / "ours").write_text("0::/service\n")
    (tmp_path / "cgroup").mkdir()
    return tmp_path / "cgroup"


def test_a_containers_limit_is_seen_though_its_cgroup_is_the_root_that_it_sees(cgroups: Path) -> None:
    (cgroups.parent / "ours").write_text("0::/\n")
    cgroup(cgroups, "100000000", current=95_000_000, cache=5_000_000)
    assert host.look(cgroups).memory_used_ratio == 0.9


def test_the_nearest_limit_counts(cgroups: Path) -> None:
    cgroup(cgroups, "100000000", current=95_000_000, cache=0)
    cgroup(cgroups / "service", "50000000", current=10_000_000, cache=0)
    assert host.look(cgroups).memory_used_ratio == 0.2


def test_without_a_limit_it_is_the_hosts_memory(cgroups: Path) -> None:
    cgroup(cgroups / "service", "max", current=1, cache=0)
    used = host.look(cgroups).memory_used_ratio
    assert used is not None and 1 / psutil.virtual_memory().total < used < 1
