"""The command line: one file a verb, and here what they share: the parser and the exit status.

Verbs that change something drop a file into the inbox; verbs that show something read what is published. A verb's file
is imported when the verb is asked for: who looks at a batch does not wait for what only a daemon needs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from inbox_daemon import __version__, config
from inbox_daemon.cli.exits import FAILURE, INTERRUPTED
from inbox_daemon.errors import ConfigError, InboxDaemonError, told

_ABOUT = """\
Drop a file of OpenAI batch requests into SPOOL/inbox, read answers from SPOOL/outbox/NAME/.

  inbox-daemon run --spool ./spool --model Qwen/Qwen3-4B     the daemon, here and now
  inbox-daemon submit batch.jsonl --wait                     hand it work, from this host
  scp batch.jsonl host:/var/spool/inbox-daemon/inbox/        hand it work, from anywhere
  inbox-daemon top                                           look in
  inbox-daemon results batch > answers.jsonl                 read the answers, those so far while it runs
"""

_EXITS = """\
exit status: 0 done, 1 failed, 2 wrong usage, 3 done but some requests ended as errors, 4 no such batch,
78 a setting is wrong (the message says which and what would be right), 130 interrupted
"""

# Which file has which verb, and what `--help` says of it, in groups.
_GROUPS = {
    "hand work over": {
        "check": ("check", "find every fault in a file, without an engine"),
        "submit": ("submit", "hand files to the daemon, and wait for their answers if you like"),
    },
    "see how it goes": {
        "status": ("status", "what is running, waiting and done; one batch: its errors too"),
        "top": ("top", "batches, engines, GPUs, alerts at a glance"),
        "list": ("listing", "every batch with its age, its size and what went wrong in it"),
        "logs": ("logs", "what the journal has of one batch"),
    },
    "change what runs": {
        "cancel": ("control", "end a batch; what has an answer keeps it, the rest can be dropped again (retry.jsonl)"),
        "pause": ("control", "send nothing more of a batch to the engine"),
        "resume": ("control", "go on with a batch that is paused or parked"),
        "priority": ("priority", "serve a batch before those with a lower number; all have 0 unless told otherwise"),
    },
    "use the answers": {
        "results": ("results", "a batch's answers, those so far while it runs; as a table with --csv"),
        "merge": ("merge", "a batch's answers and those of its retries as one"),
        "verify": ("verify", "prove that a finished batch is whole: every request has one line"),
        "compare": ("compare", "hold batches of the same requests, answered by different models, against each other"),
        "judge": ("judge", "have a model say which of two batches' answers are better"),
        "delete": ("delete", "remove a batch that has ended, with its answers"),
    },
    "run the service": {
        "run": ("run", "the daemon itself; a service does this"),
        "web": ("web", "OpenAI's Files and Batches over the spool, and a viewer of answers, in a browser"),
        "web-key": ("web_key", "API keys of the web process: make, list, revoke"),
        "config": ("configuration", "are the settings right, and which are in force"),
        "models": ("models", "which models are configured; can each be had; fetch them"),
        "alert": ("alert", "send a test alert to alerts.command"),
        "selftest": ("selftest", "try kill -9, hangs and a full disk on this host, with your engine"),
        "tune": ("tune", "find the fastest engine settings for requests like a file's"),
        "completion": ("completion", "what a shell reads to complete all of this"),
    },
}
_VERBS = {name: verb for group in _GROUPS.values() for name, verb in group.items()}
_HEADS = {next(iter(group)): head for head, group in _GROUPS.items()}  # by the first verb of each group


class _InGroups(argparse.RawDescriptionHelpFormatter):
    """The list of verbs under the heads of their groups."""

    def _format_action(self, action: argparse.Action) -> str:
        said = super()._format_action(action)
        head = None if action.option_strings or action.nargs == argparse.PARSER else _HEADS.get(action.dest)
        return f"\n  {head}:\n{said}" if head else said


def parser(asked: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of the verb that is asked for, which knows the others by name; with none asked for, of all."""
    command = argparse.ArgumentParser(
        prog="inbox-daemon",
        description=_ABOUT,
        epilog=_EXITS,
        formatter_class=_InGroups,
    )
    command.add_argument("--version", action="version", version=f"inbox-daemon {__version__}")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--config", metavar="FILE", help=f"settings, default {config.DEFAULT_PATH} where it exists")
    shared.add_argument("--spool", metavar="DIR", help="the folder of inbox and outbox, default from the settings")
    verbs = command.add_subparsers(title="verbs", dest="verb", metavar="VERB", required=True)
    for name, (file, about) in _VERBS.items():
        verb = verbs.add_parser(name, parents=[shared], help=about, description=about)
        if asked in (None, name):
            import_module(f"inbox_daemon.cli.{file}").add(verb)
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    asked = next((word for word in words if not word.startswith("-")), "")
    given = parser(asked).parse_args(words)
    try:
        status = int(given.go(given))
        if sys.stdout is not None:  # as after `>&-`
            sys.stdout.flush()
        return status
    except ConfigError as error:
        print(f"inbox-daemon: {error}", file=sys.stderr)
        return ConfigError.STATUS
    except BrokenPipeError:  # who reads what we print has seen enough
        if given.verb == "run":
            raise  # nobody reads what a daemon prints
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())  # Python, which flushes it once more, is to say nothing
        return FAILURE
    except (InboxDaemonError, OSError) as error:
        print(f"inbox-daemon: {told(error)}", file=sys.stderr)
        return FAILURE
    except KeyboardInterrupt:
        return INTERRUPTED


__all__ = ["main", "parser"]
