"""What every view says of a batch and of the spool, in one word or one sentence, wherever it is shown.

Reads what is published and puts it into words; draws nothing, counts nothing, and knows no terminal and no metric.
"""

from __future__ import annotations

from collections.abc import Sequence

from inbox_daemon.layout import Spool, batch_name
from inbox_daemon.records import BatchStatus
from inbox_daemon.spool import published
from inbox_daemon.spool.shapes import BatchObject, DaemonView, EngineView, StandingView

ASK_SYSTEMD = "systemctl status inbox-daemon"
NO_DAEMON = f"no daemon runs on this spool: {ASK_SYSTEMD}"

BATCH_STATES = (
    "validating",
    "in_progress",
    "paused",
    "parked",
    "waiting_for_model",
    "waiting_for_memory",
    "waiting_for_disk",
    "finalizing",
    "cancelling",
)


def batch_state(status: BatchObject) -> str:
    """Return the one state of a batch: OpenAI's status, or why one in progress does not progress."""
    if status.get("parked"):
        return "parked"
    if status.get("waiting_for_model") and not has_ended(status):
        return "waiting_for_model"
    if status.get("waiting_for_memory"):
        return "waiting_for_memory"
    if status.get("waiting_for_disk_bytes"):
        return "waiting_for_disk"
    if status.get("paused") and status["status"] == "in_progress":
        return "paused"
    return status["status"]


def has_ended(status: BatchObject) -> bool:
    return BatchStatus(status["status"]).final


def ended_at(status: BatchObject) -> float | None:
    """Return when the batch ended, in Unix seconds; None while it has not."""
    stamps = (status.get("completed_at"), status.get("failed_at"), status.get("cancelled_at"))
    return next((stamp for stamp in stamps if stamp is not None), None)


def _cut_short(status: BatchObject) -> bool:
    return status["status"] in (BatchStatus.CANCELLING.value, BatchStatus.CANCELLED.value)


def done(status: BatchObject) -> int:
    """Return how many requests are done. Of a cancelled batch those with an answer: its errors were mostly never run,
    and only errors.jsonl tells which were.
    """
    counts = status["request_counts"]
    return counts["completed"] + (0 if _cut_short(status) else counts["failed"])


def errors(status: BatchObject) -> int:
    """Return how many requests ended as errors; of a cancelled batch nothing is said."""
    return 0 if _cut_short(status) else status["request_counts"]["failed"]


def never_run(status: BatchObject) -> int:
    """Return how many requests of a cancelled batch have no answer; 0 of any other."""
    return status["request_counts"]["failed"] if _cut_short(status) else 0


def why(status: BatchObject) -> str | None:
    """Return why a batch failed or stands still until somebody does something; None where it does neither."""
    if status.get("parked") and not has_ended(status):
        return f"{status['parked']}; try again with: inbox-daemon resume {status['name']}"
    problems = (status.get("errors") or {}).get("data") or []
    if status["status"] == BatchStatus.FAILED.value and problems:
        return f"{problems[0]['code']}: {problems[0]['message']}"
    return None


def at_rest(status: BatchObject) -> BatchObject:
    """The same batch without what was true only while a daemon said so: how fast it goes, and on what engines."""
    still = status.copy()
    still["requests_per_second"] = still["output_tokens_per_second"] = still["eta_seconds"] = None
    still["engines"] = still["models"] = still["waiting_for_model"] = still["daemon"] = None
    still["in_flight"] = 0
    return still


def called(daemon: DaemonView) -> str:
    """Return how a daemon is named wherever there may be several."""
    return f"daemon {daemon.get('hostname')} (pid {daemon.get('pid')})"


def engines_of(said: DaemonView | BatchObject) -> Sequence[EngineView]:
    """Return what is said of engines; nothing by a daemon of an older release."""
    return said.get("engines") or ()


def engines_for(status: BatchObject) -> Sequence[EngineView]:
    """Return the engines that a batch runs on, or waits for: of its daemon's those that serve its model."""
    all_of_them = engines_of(status)
    serving = [one for one in all_of_them if one["model"] == status.get("model")]
    return serving or all_of_them


def no_model(status: BatchObject) -> str | None:
    """Return that the batch waits for an engine of its model; None where it does not."""
    if batch_state(status) != "waiting_for_model":
        return None
    return f"no engine here serves {status['waiting_for_model']}: it waits until one does"


def standings_of(said: DaemonView) -> Sequence[StandingView]:
    """Return how a daemon's models stand, where it has several."""
    return said.get("standings") or ()


def runs_on(spool: Spool) -> bool:
    """Say whether a daemon lives on this spool."""
    return any(daemon["alive"] for daemon in published.daemons(spool))


def waits_for(spool: Spool, name: str) -> str | None:
    """Return why the file of this batch is not taken yet; None where no daemon says."""
    return next((why for file, why in published.waiting(spool).items() if batch_name(file) == name), None)


def because(spool: Spool, name: str) -> str:
    """Return what follows "not taken yet": why, where a daemon says, or that there is none."""
    why = waits_for(spool, name) or no_daemon(spool)
    return f": {why}" if why else ""


def no_daemon(spool: Spool) -> str | None:
    """Return that none runs; None where one does."""
    return None if runs_on(spool) else NO_DAEMON
