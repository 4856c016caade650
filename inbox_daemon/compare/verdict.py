"""Which batch's model to take, in a sentence or two; or that the figures do not tell. Pure."""

from __future__ import annotations

from inbox_daemon.compare.shapes import Column, Comparison, Quality
from inbox_daemon.compare.words import rate

_NOBODY_KNOWS = "Nothing here says which one is right: give true labels with --labels, or have a model judge."
_FASTER = 1.05  # a ratio below which nobody would choose for speed


def verdict(found: Comparison) -> str:
    """Return what the figures say, and whether they say enough to choose by."""
    columns = found["columns"]
    fast = _fastest(columns)
    if not any(column["quality"] and column["quality"]["labelled"] for column in columns):
        rest = _preference(found) or f"{_agreement(found)} {_NOBODY_KNOWS}"
        return f"{fast} {rest}".strip()
    best, rivals = _best(found)
    name, accuracy = best["name"], _accuracy(best)
    if not rivals:
        also = " It is also the fastest." if fast.startswith(f"{name} is") else f" {fast}" if fast else ""
        return f"{name} is the best (accuracy {accuracy:.3f}{_lead(found, name)}).{also}"
    names = ", ".join(rivals)
    told = f"No difference in accuracy can be told between {name} ({accuracy:.3f}) and {names}."
    return f"{told} {fast}".strip()


def _fastest(columns: list[Column]) -> str:
    rates = sorted(((rate(column), column["name"]) for column in columns), reverse=True)
    (first, name), (second, _) = rates[0], rates[1]
    if not second:
        return ""
    if first < second * _FASTER:
        return f"No one is clearly the fastest ({first:,.1f} and {second:,.1f} requests/s)."
    return f"{name} is the fastest ({first:,.1f} requests/s; the next {second:,.1f})."


def _agreement(found: Comparison) -> str:
    agreeing = [pair["labels_agree"]["value"] for pair in found["pairs"] if pair["labels_agree"]]
    shares = [share for share in agreeing if share is not None]
    if shares:
        return f"Two of them give the same label for {min(shares):.0%} to {max(shares):.0%} of the requests."
    return ""


def _preference(found: Comparison) -> str:
    """Return which batch the judge prefers to each other one, or that it cannot tell; "" without a judge."""
    if not found["judged"]:
        return ""
    wins: dict[str, int] = {}
    for pair in found["judged"]:
        low, high = pair["share"]["low"], pair["share"]["high"]
        if low is not None and high is not None and not low <= 0.5 <= high:
            winner = pair["first"] if low > 0.5 else pair["second"]
            wins[winner] = wins.get(winner, 0) + 1
    others = len(found["columns"]) - 1
    best = next((name for name, won in wins.items() if won == others), None)
    return (
        f"The judge prefers {best} to each other one."
        if best
        else "The judge tells no one that is better than all others."
    )


def _best(found: Comparison) -> tuple[Column, list[str]]:
    """Return the one with the highest accuracy, and the names of those that may be as good."""
    judged = [column for column in found["columns"] if column["quality"]]
    best = max(judged, key=_accuracy)
    rivals = []
    for pair in found["pairs"]:
        if best["name"] in (pair["first"], pair["second"]) and (apart := pair["accuracy_difference"]):
            low, high = apart["low"], apart["high"]
            if low is None or high is None or low <= 0 <= high:
                rivals.append(pair["second"] if pair["first"] == best["name"] else pair["first"])
    return best, rivals


def _lead(found: Comparison, name: str) -> str:
    """Return by how much the best leads the next best, with the interval and McNemar's p."""
    leads = []
    for pair in found["pairs"]:
        apart = pair["accuracy_difference"]
        if name not in (pair["first"], pair["second"]) or not apart or apart["value"] is None:
            continue
        sign = 1 if pair["first"] == name else -1
        ends = sorted(sign * (end or 0.0) for end in (apart["low"], apart["high"]))
        leads.append((sign * apart["value"], ends, pair["mcnemar_p"]))
    if not leads:
        return ""
    value, (low, high), p = min(leads, key=lambda lead: lead[0])
    return f", {value:+.3f} [{low:.3f}, {high:.3f}] before the next, p = {p:.2g}"


def _accuracy(column: Column) -> float:
    quality: Quality | None = column["quality"]
    return (quality["accuracy"]["value"] if quality else None) or 0.0
