"""A real Prometheus on loopback: what it scrapes, what it answers, what it says fires. No test lives here."""

from __future__ import annotations

import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import yaml
from running import ROOT, eventually, free_port

RULES = ROOT / "etc" / "prometheus" / "inbox-daemon.rules.yml"

# The shipped rules in a hurry: minutes become seconds. What they compare stays as it is, but for how long.
_HURRY = ((r"for: \d+m", "for: 1s"), (r"\[(5|10)m\]", "[5s]"), (r"> 600\b", "> 5"), (r"> 60\b", "> 5"))


def hurried_rules() -> str:
    text = RULES.read_text()
    for pattern, instead in _HURRY:
        text, changed = re.subn(pattern, instead, text)
        assert changed, pattern
    return text


class Prometheus:
    """Debian's `prometheus`, scraping and evaluating every second, with the shipped rules in a hurry."""

    def __init__(self, folder: Path, targets: Sequence[int]) -> None:
        folder.mkdir()
        config = yaml.safe_load((ROOT / "etc" / "prometheus" / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{port}" for port in targets]}]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        (folder / RULES.name).write_text(hurried_rules())
        self._at = f"127.0.0.1:{free_port()}"
        self._log = (folder / "log").open("wb")
        command = [
            "prometheus",
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={self._at}",
        ]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        eventually(self._is_ready, 60, f"Prometheus ready; see {folder / 'log'}")

    def _is_ready(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"http://{self._at}/-/ready", timeout=5) as answer:
            return bool(answer.status == 200)
        return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The result of an instant query, as Prometheus's API gives it."""
        return list(self._get("query", query=expression)["result"])

    def value(self, expression: str) -> float | None:
        """The value of an expression with one sample; None where it has none."""
        result = self.query(expression)
        return float(result[0]["value"][1]) if result else None

    def labels(self, name: str) -> list[str]:
        return list(self._get(f"label/{name}/values"))

    def firing(self) -> set[str]:
        """The names of the alerts that fire now."""
        alerts = self._get("alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def _get(self, what: str, **query: str) -> Any:
        url = f"http://{self._at}/api/v1/{what}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            return orjson.loads(answer.read())["data"]

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()
