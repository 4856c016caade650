"""A real browser before the web's pages: Debian's Chromium, and what it complained of. No test lives here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium")


@contextmanager
def browser() -> Iterator[Browser]:
    """Start Chromium. As root it has no sandbox: it refuses to run with one."""
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield started
        started.close()


class Watched:
    """One page, and all that went wrong on it: errors in its console or its script, requests to elsewhere."""

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        self.page: Page = browser.new_page(base_url=url, **options)
        self.page.set_default_timeout(20_000)
        self.wrong: list[str] = []
        self._host = urlsplit(url).netloc
        self.page.on("console", lambda said: self._note(said.type in ("error", "warning"), f"{said.type}: {said.text}"))
        self.page.on("pageerror", lambda error: self._note(True, f"script: {error}"))
        self.page.on("request", lambda sent: self._note(self._is_foreign(sent.url), f"request: {sent.url}"))
        self.page.on("dialog", lambda dialog: dialog.accept())

    def _is_foreign(self, url: str) -> bool:
        parts = urlsplit(url)
        return parts.scheme not in ("data", "blob") and parts.netloc != self._host

    def _note(self, wrong: bool, what: str) -> None:
        if wrong:
            self.wrong.append(what)

    def sideways(self) -> int:
        """Return by how many pixels the page is wider than the window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))

    def unnamed(self) -> list[str]:
        """Return what may be pressed or filled in, and has no name that a screen reader could say."""
        script = """() => [...document.querySelectorAll("a[href], button, input:not([type=hidden]), select, textarea")]
            .filter(each => each.checkVisibility() && !(each.ariaLabel || each.textContent.trim() || each.labels?.length
                || each.title || each.querySelector("img[alt]")))
            .map(each => each.outerHTML.slice(0, 200))"""
        return list(self.page.evaluate(script))

    def faint(self) -> list[str]:
        """Return texts whose contrast with what is behind them is below 4.5 to 1 (WCAG 2.2, 1.4.3)."""
        return list(self.page.evaluate(_FAINT))


_FAINT = """() => {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const rgba = colour => {
        canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const light = ([r, g, b]) => [r, g, b].map(c => (c /= 255) <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
        .reduce((sum, c, at) => sum + c * [.2126, .7152, .0722][at], 0);
    const behind = element => {
        for (let at = element; at; at = at.parentElement) {
            const found = rgba(getComputedStyle(at).backgroundColor);
            if (found[3] > 250) return found;
        }
        return rgba(getComputedStyle(document.body).backgroundColor);
    };
    const faint = new Set();
    for (const element of document.querySelectorAll("body *")) {
        if (!element.offsetParent || element.disabled || !element.checkVisibility({ opacityProperty: true })) continue;
        if (![...element.childNodes].some(node => node.nodeType === 3 && node.data.trim())) continue;
        const [a, b] = [light(rgba(getComputedStyle(element).color)), light(behind(element))];
        const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
        if (contrast < 4.5) faint.add(`${contrast.toFixed(2)} ${element.outerHTML.slice(0, 120)}`);
    }
    return [...faint];
}"""
