"""inbox-daemon: files of OpenAI batch requests in, answers out, through vLLM."""

from __future__ import annotations

__version__ = "0.3.0"
