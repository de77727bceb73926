"""Numbers as a person reads them; what says nothing is called not known."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from advisor.core.choices import LEVEL
from advisor.prediction.context import SIGNED_METRICS
from advisor.prediction.disturbance import Disturbance

Triple = tuple[float, float, float]
NOT_KNOWN, SAME = "not known", "the same"
MOST_FACTOR = 16.0  # of the ends of a difference whose sign is known: beyond it the size is not
LEAST_CHANGE = 0.005  # shown as none
MOST_SHARE = 0.8  # of a metric's whole range: a wider interval says nothing
MOST_RATIO = 4.0  # of an interval's ends, of a loss or of the ratio of two: the same
NAMES = {"spearman": "Spearman correlation", "matthews": "Matthews correlation", "f1": "F1"}  # others by their name


def count(number: float) -> str:
    """1234567 → 1.23M."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:g}"


def gigabytes(number: float) -> str:
    return f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"


def duration(seconds: float) -> str:
    """95 → 1.6 min."""
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def ranges(numbers: Iterable[int]) -> str:
    """1, 2, 3, 5 → 1–3, 5."""
    runs = [
        [number for _, number in run] for _, run in groupby(enumerate(sorted(set(numbers))), key=lambda pair: pair[1] - pair[0])
    ]
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)


def metric_name(metric: str) -> str:
    return NAMES.get(metric, metric.replace("_", " "))


def span(triple: Triple, digits: int = 3) -> str:
    """value (low–high)."""
    value, low, high = (f"{x:.{digits}f}" for x in triple)
    return f"{value} ({low}–{high})"


def metric_known(triple: Triple, metric: str) -> bool:
    """The interval is not nearly the metric's whole range."""
    return triple[2] - triple[1] <= MOST_SHARE * (2.0 if metric in SIGNED_METRICS else 1.0)


def metric_span(triple: Triple, metric: str, digits: int = 3) -> str:
    """:func:`span`, or that the metric is not known."""
    return span(triple, digits) if metric_known(triple, metric) else NOT_KNOWN


def loss_known(triple: Triple) -> bool:
    """Whether the interval of a loss says something."""
    return triple[2] <= MOST_RATIO * triple[1]


def loss_span(triple: Triple, digits: int = 3) -> str:
    """:func:`span`, or that the loss is not known."""
    return span(triple, digits) if loss_known(triple) else NOT_KNOWN


def change_known(change: Triple) -> bool:
    """The interval of a relative change of loss says which of the two is lower, or is not too wide."""
    _, low, high = change
    return low > 0 or high < 0 or 1 + high <= MOST_RATIO * (1 + low)


def change_span(change: Triple) -> str:
    """(0.14, -0.06, 0.8) → +14% (-6 to +80%)."""
    if all(abs(share) < LEAST_CHANGE for share in change):
        return SAME
    if not change_known(change):
        return NOT_KNOWN
    if change[2] > MOST_FACTOR * (1 + change[1]):
        return "higher" if change[1] > 0 else "lower"
    value, low, high = ("0" if abs(share) < LEAST_CHANGE else f"{100 * share:+,.0f}" for share in change)
    return f"{value}% ({low} to {high}%)"


def disturbs_words(found: Disturbance, with_kl: bool = True) -> str:
    """Change of the loss of the rows to keep and, unless there is little room, their KL divergence; or the drift of what the head
    reads."""
    if found.loss is None or found.kl is None:
        return f"{100 * found.size:.2g}%"
    if not found.is_known:
        return NOT_KNOWN
    kl = f", KL {found.kl:.2g}" if with_kl else ""
    if found.loss_interval is None:
        return f"{found.loss:+.2g}{kl}"
    low, high = found.loss_interval
    return f"{found.loss:+.2g} ({low:+.2g} to {high:+.2g}){kl}"


def disturbs_means(of_language: bool) -> str:
    """What :func:`disturbs_words` says, of a language model or of another one."""
    if not of_language:
        return (
            "predicted change of what the head reads of the rows to keep: squared, as a share of its variance between them. It "
            "holds for small steps; it ranked real runs too unevenly, so nothing is chosen by it (docs/keep.md)."
        )
    return (
        f"predicted change of the loss of the rows to keep with a {LEVEL:.0%} interval, and KL divergence from the model before, "
        "in nats per target token. They rank selections; real changes were mostly larger (docs/keep.md)."
    )


def change_words(change: Triple, other: str) -> str:
    """(0.14, -0.06, 0.8) → a validation loss 14% higher than with q,v (90% interval: 6% lower to 80% higher)."""
    if change[2] > MOST_FACTOR * (1 + change[1]):
        return f"a {'higher' if change[1] > 0 else 'lower'} validation loss than with {other}, by how much is {NOT_KNOWN}"
    value, low, high = map(_direction, change)
    compared = f"the same validation loss as with {other}" if value == SAME else f"a validation loss {value} than with {other}"
    return f"{compared} ({LEVEL:.0%} interval: {low} to {high})"


def _direction(share: float) -> str:
    if abs(share) < LEAST_CHANGE:
        return SAME
    return f"{abs(share):,.0%} {'higher' if share > 0 else 'lower'}"
