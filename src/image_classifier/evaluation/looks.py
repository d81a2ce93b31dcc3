"""How certain a decision must be, after the same test set was looked at several times."""

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

from image_classifier.project.text import counted

ERROR = 0.05  # the probability of an error, of all looks at a test set together
DUE = 2.0  # intervals as wide as this, compared with 95%, need four times the images


def level_of_look(look: int) -> float:
    """Return the level of the interval by which the gate decides, 0.975 at the first look.

    Look k may err with the probability 0.05 / (k (k + 1)). The sum of 1 / (k (k + 1)) over all k
    is 1, so by the union bound (Dunn, Multiple comparisons among means, 1961) all looks together
    err with at most 5%, however many follow, and whichever of the versions is sent to the gate.
    Half of it, 2.5%, is for versions that are accepted although they should not be.

    Every version that was evaluated is a look, whether or not the gate decided about it: its test
    metrics could have guided the next try. If they did, this level is only the least that is
    needed: the bound holds for versions that do not depend on the results of earlier looks. After
    k such looks a version may be one of very many that the results could have led to (Dwork et
    al., The reusable holdout, Science 2015; Blum and Hardt, The Ladder, ICML 2015).

    Args:
        look: The number of the look, from 1 on.
    """
    return 1 - ERROR / (look * (look + 1))


def widening(level: float) -> float:
    """Return how many times as wide as the 95% interval the normal interval of a level is."""
    quantile = NormalDist().inv_cdf
    return quantile((1 - level) / 2) / quantile(0.025)


def widened(value: float, low: float, high: float, level: float) -> tuple[float, float]:
    """Return the interval of another level, from a 95% interval.

    Each end is moved away from the value by the ratio of the normal quantiles. This assumes that
    the tails are normal on both sides, each with its own width. With few errors in the test set
    the tails are longer than that: so the gate takes an exact interval where there are none
    (`bootstrap.certain_low`), and `least_differing` for the comparison of two versions.
    """
    factor = widening(level)
    return value - (value - low) * factor, value + (high - value) * factor


def least_differing(level: float) -> int:
    """Return on how many independent images two versions must differ, for a certain difference.

    Two equally good versions that differ on n images are equally likely to be right on each, so
    one is right on all of them with the probability 0.5 ** n: the smallest possible p-value of the
    sign test (McNemar, Psychometrika 12, 1947), which must not be above half of 1 - level.
    """
    return math.ceil(math.log2(2 / (1 - level)))


def percent(level: float) -> str:
    """Return a level as text, with two digits of what is missing to 100%, such as 97.5%."""
    missing = 100 * (1 - level)
    return f"{100 - missing:.{max(0, 1 - math.floor(math.log10(missing)))}f}%"


def sentence(ledger: Mapping[str, Any]) -> str:
    """Return how often a test set was looked at, as a sentence.

    Args:
        ledger: `digest`, `looks` and `decisions`; see `tracking.ledger`.
    """
    versions, decisions = ledger["looks"], ledger["decisions"]
    return (
        f"By this MLflow store, this test set (digest `{ledger['digest'][:16]}`) was looked at "
        f"{times(versions)}: "
        f"{counted(versions, 'version')} evaluated, {counted(decisions, 'decision')} of the gate."
    )


def due(ledger: Mapping[str, Any]) -> str:
    """Return that fresh test images are due, as a sentence; empty while they are not.

    They are when the interval of the latest look is twice as wide as the 95% interval.
    """
    factor = widening(level_of_look(ledger["looks"]))
    if factor < DUE:
        return ""
    return (
        f"Fresh test images are due: after {ledger['looks']} looks, an interval must be "
        f"{factor:.1f} times as wide as the 95% interval, so this test set must be "
        f"{factor**2:.0f} times as large for the same certainty."
    )


def times(number: int) -> str:
    """Return how often, as text."""
    return "once" if number == 1 else f"{number} times"
