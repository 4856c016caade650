"""A comparison as one HTML page: plots, tables, and the texts on which the batches differ most.

The page is complete in itself: it loads nothing, runs nothing, and may be sent by mail. Whatever comes from a request
or an answer is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from inbox_daemon.compare import words
from inbox_daemon.compare.shapes import Column, Comparison, Disagreement
from inbox_daemon.text import dumps, shown

_MOST_TEXT = 1_200_000  # characters of answers on one page
_LONGEST = 4_000  # of one answer
_WIDE, _ROW, _NAMES = 720, 26, 200  # of a plot, in pixels

_STYLE = """
:root{--ink:#1b1d21;--dim:#656b76;--line:#e2e4e9;--paper:#fff;--card:#f7f8fa;--accent:#2f6fde;--good:#1f8a4c;--bad:#c2413a;
--s0:#2f6fde;--s1:#d9822b;--s2:#1f8a4c;--s3:#8a52c7;--s4:#c2413a;--s5:#3f96a8;color-scheme:light dark}
@media(prefers-color-scheme:dark){:root{--ink:#e6e8ec;--dim:#9aa1ad;--line:#2e323a;--paper:#15171b;--card:#1d2026;
--accent:#6d9df0;--good:#55b97e;--bad:#e5776f;--s0:#6d9df0;--s1:#e6a35c;--s2:#55b97e;--s3:#b48ae0;--s4:#e5776f;--s5:#6fc0d0}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1200px;margin:0 auto;padding:32px 20px 80px}h1{font-size:24px;line-height:1.25;margin:0 0 4px}
h2{font-size:17px;margin:40px 0 12px}p{margin:0 0 12px;max-width:75ch}.dim{color:var(--dim)}.warn{color:var(--bad)}
.verdict{font-size:17px;padding:16px 20px;background:var(--card);border-left:4px solid var(--accent);border-radius:4px;
margin:20px 0}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:6px 14px 6px 0;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left}th{font-weight:600}svg{display:block;max-width:100%;height:auto}
svg{min-width:600px}@media(max-width:700px){td,th{white-space:normal;padding-right:10px}}
svg text{font:13px system-ui,sans-serif;fill:var(--ink)}svg .dim{fill:var(--dim)}
.row{border-top:1px solid var(--line);padding:16px 0}.row h3{font-size:14px;margin:0 0 8px;font-weight:600}
.sides{display:grid;gap:12px;grid-template-columns:repeat(auto-fit,minmax(min(100%,300px),1fr))}
.side{background:var(--card);border-radius:6px;padding:10px 12px;min-width:0}
.side b{display:block;font-size:13px;margin-bottom:4px;overflow-wrap:anywhere}.side pre{margin:0;white-space:pre-wrap;
overflow-wrap:anywhere;font:13px/1.5 ui-monospace,monospace;max-height:24em;overflow-y:auto}
.chip{display:inline-block;padding:0 8px;border-radius:9px;border:1px solid currentColor;font-size:12px;margin-left:6px}
.right{color:var(--good)}.wrong{color:var(--bad)}
"""


def html(found: Comparison) -> str:
    """Return the page."""
    sides = found["columns"]
    names = [side["name"] for side in sides]
    title = " : ".join(names)
    parts = [
        f"<h1>{_text(title)}</h1>",
        f'<p class="dim">{_text(words.summary(found))}</p>',
        f'<p class="warn">{_text(warning)}</p>' if (warning := words.warning(found)) else "",
        f'<p class="verdict">{_text(found["verdict"])}</p>',
        _rates(sides),
        _accuracies(sides),
        "<h2>Figures</h2>",
        _table(["", *names], [[name, *cells] for name, cells in words.figures(sides)]),
        "<h2>Two by two</h2>",
        _table(*words.pairs(found["pairs"])),
        _verdicts(found),
        _labels(sides),
        _lengths(sides, found["token_steps"]),
        _disagreements(found),
    ]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{_text(title)}</title><style>{_STYLE}</style>"
    )
    figures = dumps(found | {"worst": []}).decode().replace("<", "\\u003c")
    data = f'<script type="application/json" id="comparison">{figures}</script>'
    body = "\n".join(part for part in parts if part)
    return f'<!doctype html><html lang="en"><head>{head}</head>\n<body><main>\n{body}\n</main>{data}</body></html>\n'


def _text(text: str) -> str:
    return escape(shown(text))


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{_text(cell)}</th>" for cell in heads)
    body = "".join(f"<tr>{''.join(f'<td>{_text(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


# -- plots; each has its numbers in words as well


def _svg(height: float, inside: str, what: str) -> str:
    drawn = f'<svg viewBox="0 0 {_WIDE} {height}" width="{_WIDE}" role="img" aria-label="{_text(what)}">{inside}</svg>'
    return f'<div class="scroll">{drawn}</div>'


def _name(side: Column, y: float) -> str:
    name = side["name"] if len(side["name"]) <= 28 else f"{side['name'][:27]}…"
    return f'<text x="0" y="{y}"><title>{_text(side["name"])}</title>{_text(name)}</text>'


def _rates(sides: Sequence[Column]) -> str:
    rates = [words.rate(side) for side in sides]
    if not (most := max(rates)):
        return ""
    bars = []
    for n, (side, rate) in enumerate(zip(sides, rates, strict=True)):
        y, width = n * _ROW, rate / most * (_WIDE - _NAMES - 90)
        bars.append(
            f'{_name(side, y + 17)}<rect x="{_NAMES}" y="{y + 4}" width="{max(width, 1):.1f}" height="18" rx="3" '
            f'fill="var(--s{n % 6})"/><text x="{_NAMES + width + 8:.1f}" y="{y + 17}">{rate:,.1f}</text>'
        )
    return "<h2>Requests a second</h2>" + _svg(len(sides) * _ROW, "".join(bars), "requests a second of each batch")


def _accuracies(sides: Sequence[Column]) -> str:
    """A dot for each accuracy on its interval; the axis holds all intervals and no more, and says where it begins."""
    known = [(side, side["quality"]["accuracy"]) for side in sides if side["quality"]]
    ends = [end for _, figure in known for end in (figure["low"], figure["high"]) if end is not None]
    if not ends:
        return ""
    low, high = max(0.0, min(ends) - 0.02), min(1.0, max(ends) + 0.02)

    def x(value: float) -> float:
        return _NAMES + (value - low) / (high - low or 1) * (_WIDE - _NAMES - 170)

    drawn = []
    for n, (side, figure) in enumerate(known):
        y, colour = n * _ROW + _ROW / 2, f"var(--s{sides.index(side) % 6})"
        if figure["value"] is None or figure["low"] is None or figure["high"] is None:
            continue
        drawn.append(
            f'{_name(side, y + 4)}<path d="M{x(figure["low"]):.1f} {y}H{x(figure["high"]):.1f}" stroke="{colour}" '
            f'stroke-width="2"/><circle cx="{x(figure["value"]):.1f}" cy="{y}" r="5" fill="{colour}"/>'
            f'<text x="{_WIDE - 160}" y="{y + 4}">{words.sure(figure)}</text>'
        )
    foot = len(known) * _ROW + 16
    axis = (
        f'<text class="dim" x="{_NAMES}" y="{foot}">{low:.2f}</text>'
        f'<text class="dim" x="{x(high):.1f}" y="{foot}" text-anchor="end">{high:.2f}</text>'
    )
    return "<h2>Accuracy, with its 95 % interval</h2>" + _svg(foot + 6, "".join(drawn) + axis, "accuracy of each batch")


def _verdicts(found: Comparison) -> str:
    if not found["judged"]:
        return ""
    said = f'<h2>A judge\'s verdicts</h2><p class="dim">{_text(words.judge(found))}</p>'
    return said + _table(*words.judged(found))


def _labels(sides: Sequence[Column]) -> str:
    names = list(dict.fromkeys(label for side in sides for label in side["labels"]))
    if not names:
        return ""
    rows = [[name, *(f"{side['labels'].get(name, 0):,}" for side in sides)] for name in names]
    none = [side["answers"] - sum(side["labels"].values()) for side in sides]
    if any(none):
        rows.append(["(no label)", *(f"{count:,}" for count in none)])
    return "<h2>Labels</h2>" + _table(["", *(side["name"] for side in sides)], rows)


def _lengths(sides: Sequence[Column], steps: Sequence[int]) -> str:
    """Small multiples over the same steps: how many answers have how many output tokens."""
    used = [at for at in range(len(steps) + 1) if any(side["histogram"][at] for side in sides)]
    if not used or (used == [0]):
        return ""
    first, last = used[0], used[-1]
    most = max(count for side in sides for count in side["histogram"])
    step, tall = (_WIDE - _NAMES) / (last - first + 1), 48
    drawn = []
    for n, side in enumerate(sides):
        floor = (n + 1) * (tall + 12)
        drawn.append(_name(side, floor - tall / 2))
        for at in range(first, last + 1):
            height = side["histogram"][at] / most * tall
            drawn.append(
                f'<rect x="{_NAMES + (at - first) * step + 1:.1f}" y="{floor - height:.1f}" width="{step - 2:.1f}" '
                f'height="{height:.1f}" fill="var(--s{n % 6})"><title>{side["histogram"][at]:,}</title></rect>'
            )
    foot = len(sides) * (tall + 12) + 16
    for at in range(first, last + 1):
        if at == len(steps):
            drawn.append(f'<text class="dim" x="{_WIDE}" y="{foot}" text-anchor="end">more</text>')
        elif (at - first) % 4 == 3:
            end = _NAMES + (at - first + 1) * step
            drawn.append(f'<text class="dim" x="{end:.1f}" y="{foot}" text-anchor="middle">{steps[at]:,}</text>')
    return "<h2>Output tokens of an answer</h2>" + _svg(foot + 6, "".join(drawn), "answers by output tokens")


# -- texts


def _disagreements(found: Comparison) -> str:
    worst = found["worst"]
    if not worst:
        return "<h2>Where they differ</h2><p>Nowhere.</p>"
    sides = found["columns"]
    most = min(_LONGEST, _MOST_TEXT // (len(worst) * len(sides)))
    shown_of = f"{len(worst):,} of {found['disagree']:,} requests, those first on which the answers are furthest apart."
    rows = "".join(_disagreement(each, sides, most) for each in worst)
    return f'<h2>Where they differ</h2><p class="dim">{shown_of}</p>{rows}'


def _disagreement(each: Disagreement, sides: Sequence[Column], most: int) -> str:
    truth = f'<span class="chip">true: {_text(each["truth"])}</span>' if each["truth"] is not None else ""
    cells = []
    for n, side in enumerate(sides):
        label, text = each["labels"][n], each["texts"][n]
        verdict = "" if each["truth"] is None else " right" if label == each["truth"] else " wrong"
        chip = f'<span class="chip{verdict}">{_text(label)}</span>' if label is not None else ""
        body = "\n".join(shown(line) for line in text[:most].split("\n"))
        more = f'\n<span class="dim">… {len(text) - most:,} characters more</span>' if len(text) > most else ""
        said = f"{escape(body)}{more}" if text else '<span class="dim">no answer</span>'
        cells.append(f'<div class="side"><b>{_text(side["name"])}{chip}</b><pre>{said}</pre></div>')
    return f'<div class="row"><h3>{_text(each["custom_id"])}{truth}</h3><div class="sides">{"".join(cells)}</div></div>'
