"""The daemon's numbers for Prometheus: the port or file where they are read. Which there are, `families` says.

Made from the last dictionary that the daemon said of itself and the statuses of the batches that live. The thread that
answers a scrape reads that one finished dictionary, so neither it nor the loop ever waits for the other.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from prometheus_client import CollectorRegistry, start_http_server, write_to_textfile
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.process_collector import ProcessCollector

from inbox_daemon.config import MetricsSettings
from inbox_daemon.errors import ConfigError, may_pass
from inbox_daemon.setbacks import Setbacks
from inbox_daemon.spool.shapes import BatchObject, DaemonView
from inbox_daemon.watch.families import PREFIX, families

log = logging.getLogger(__name__)

_LISTEN_EVERY = 5.0  # seconds between attempts at a port that is taken
_WRITE_EVERY = 15.0  # seconds between two textfiles; node_exporter is rarely scraped more often


class Metrics:
    """Serves or writes what `say` was last given. Nothing is opened where the settings name neither port nor file.

    A port that is taken, or a file that cannot be written, by what may pass, is tried again.

    Args:
        setbacks: is told of what is tried again.

    Raises:
        ConfigError: the port can never be had, or the file never be written.
    """

    def __init__(self, settings: MetricsSettings, setbacks: Setbacks) -> None:
        self._settings, self._setbacks = settings, setbacks
        self._textfile = Path(settings.textfile) if settings.textfile else None
        self._written_at = float("-inf")
        self._problem = ""
        self._registry = CollectorRegistry()
        self._said = _Said()
        self._registry.register(self._said)
        ProcessCollector(namespace=PREFIX.rstrip("_"), registry=self._registry)
        if self._textfile:
            check_textfile(self._textfile)
        self._listen_at = time.monotonic() if settings.port else float("inf")
        self._listen(self._listen_at)

    def say(self, now: float, daemon: Mapping[str, Any], batches: Sequence[Mapping[str, Any]]) -> None:
        """Take what is to be shown from now on. `now` is monotonic seconds.

        Args:
            daemon: what the daemon says of itself; changed no more after this call.
            batches: `status.json` of every batch that lives.
        """
        self._said.last = (time.time(), cast(DaemonView, daemon), cast(Sequence[BatchObject], batches))
        self._listen(now)
        if self._textfile and now - self._written_at >= _WRITE_EVERY:
            self._written_at = now
            self._write(self._textfile, now)

    def _listen(self, now: float) -> None:
        """Begin to listen where that is due."""
        if self._listen_at == float("inf") or now < self._listen_at:
            return
        port, address, key = self._settings.port, self._settings.address, f"metrics.port = {self._settings.port}"
        try:
            start_http_server(port, address, self._registry)
        except (OSError, OverflowError) as error:
            if wrong := port_is_wrong(self._settings, error):
                raise wrong from error
            if self._problem != str(error):
                log.error("metrics: cannot listen on %s:%d: %s; trying again", address, port, error)
            self._problem = str(error)
            self._setbacks.failed(key, f"cannot listen on {address}:{port}: {error}", now)
            self._listen_at = now + _LISTEN_EVERY
            return
        self._listen_at = float("inf")
        self._setbacks.over(key)
        if self._problem:
            self._problem = ""
            log.info("metrics: listening on %s:%d", address, port)

    def _write(self, path: Path, now: float) -> None:
        key = f"metrics.textfile = {str(path)!r}"
        try:
            write_to_textfile(str(path), self._registry)
            path.chmod(0o644)  # the unit's umask would keep it from node_exporter
        except OSError as error:
            if str(error) != self._problem:
                log.error("metrics cannot be written: %s; trying again", error)
            self._problem = str(error)
            self._setbacks.failed(key, str(error), now)
        else:
            self._problem = ""
            self._setbacks.over(key)


def port_is_wrong(settings: MetricsSettings, error: Exception) -> ConfigError | None:
    """Return what is wrong with the setting where a port could not be had; None where it may be had another time."""
    if isinstance(error, OSError) and may_pass(error):
        return None
    return ConfigError(
        f"metrics.port = {settings.port}: cannot listen on {settings.address}:{settings.port} ({error}). "
        "Set a port from 1024 on and an address of this host, or port 0 for none."
    )


def check_textfile(path: Path) -> None:
    """Raise ConfigError where the textfile can never be written."""
    wrong = f"metrics.textfile = {str(path)!r}"
    if not path.is_absolute() or path.suffix != ".prom":
        raise ConfigError(f"{wrong} must be an absolute path that ends in .prom: node_exporter reads no other")
    try:
        write_to_textfile(str(path), CollectorRegistry())
    except OSError as error:
        if may_pass(error):
            return
        raise ConfigError(
            f"{wrong} cannot be written ({error}). The folder is node_exporter's --collector.textfile.directory; "
            "under systemd it also needs ReadWritePaths= in a drop-in."
        ) from error


class _Said:
    """What prometheus_client collects from; `last` is replaced whole, never changed."""

    def __init__(self) -> None:
        self.last: tuple[float, DaemonView, Sequence[BatchObject]] | None = None

    def collect(self) -> Iterable[GaugeMetricFamily | CounterMetricFamily]:
        return families(*self.last) if self.last else ()
