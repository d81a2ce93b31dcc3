"""Label errors: labels that are probably wrong, by predictions of models that have not seen them.

A model of the labels, with the probabilities p of a classifier:

    q = softmax(log p / temperature + bias)            probability of each true class
    P(label) = (1 - share) q[label] + share (1 - q[label]) / (classes - 1)

`share` is the share of wrong labels, each equally likely to be any other class (random
classification noise: Angluin and Laird, Learning from Noisy Examples, Machine Learning 2, 1988).
Temperature, bias and share are fitted together by maximum likelihood, so wrong labels do not make
the probabilities look less certain than they are, and hard images do not count as wrong labels as
long as the classifier is as uncertain about them as it should be. The bias of each class corrects
for class weights, balanced sampling and other shifts of the prior. If the labels of one class are
often those of one similar class, these look like images that are hard to tell apart, and are not
suspected.

Confident learning (Northcutt, Jiang and Chuang, JAIR 70, 2021; `find_label_issues` of cleanlab
2.9.0) was measured on the same predictions and not used: of 1,877 photographs of clothing without a
planted error it marks 73, and this model none.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit, log_softmax
from scipy.stats import chi2

from image_classifier.data.findings import Finding
from image_classifier.data.labels import SPLITS
from image_classifier.project.files import new_file

if TYPE_CHECKING:
    from image_classifier.data.dataset import PreparedDataset

Floats = npt.NDArray[np.floating]
Integers = npt.NDArray[np.int64]

SMALLEST = 1e-7  # probability: float32 cannot tell 1 - 1e-7 from 1
BIAS_DEVIATION = 1.0  # of the normal prior of a bias, in logits: keeps that of a rare class small
# bounds of the parameters: temperatures of 0.05 to 20, shares up to a half (most labels are right)
LOG_POWER, LOGIT_SHARE, BIAS = (-3.0, 3.0), (-12.0, 0.0), (-5.0, 5.0)
RISK = 0.05  # of suspecting any label although all are right
COLUMNS = (
    "path", "label", "likely_label", "probability_of_label", "probability_of_likely_label",
    "split", "predictions", "suspected",
)  # fmt: skip
LISTED = 0.1  # share of the ranking that is written to the file
FIRST = 20  # entries in the report


@dataclass(frozen=True)
class LabelErrors:
    """How well the label of each image fits.

    Attributes:
        order: int64 array of shape (images,): row numbers, the most probable label error first.
        likely: int64 array of shape (images,): the most probable class that is not the label.
        probabilities: float array of shape (images, classes): of the true class, calibrated.
        wrong: float array of shape (images,), 0 to 1: the probability that the label is wrong.
        suspected: bool array of shape (images,).
        share: The estimated share of wrong labels, 0 to 0.5; 0 if it is not clearly above 0.
    """

    order: Integers
    likely: Integers
    probabilities: Floats
    wrong: Floats
    suspected: npt.NDArray[np.bool_]
    share: float


def suspected_labels(
    labels: Integers, probabilities: Floats, clusters: Sequence[str] = ()
) -> LabelErrors:
    """Rank all images by how probably their label is wrong, and say which labels are suspected.

    A label is suspected if it is more probably wrong than right, and the share of wrong labels is
    above 0 (likelihood-ratio test at 5%; under its null hypothesis the share lies on the boundary,
    so the p-value is half that of chi-square with one degree of freedom: Self and Liang, JASA 82,
    1987).

    Args:
        labels: int array of shape (images,): the classes that the images have.
        probabilities: float array of shape (images, classes), values 0 to 1, two classes or more:
            of models that were not trained on the image; the mean of several.
        clusters: One text for each image. Images with the same text are not independent: together
            they count as one. Empty: all are independent.
    """
    images, classes = probabilities.shape
    logs = np.log(np.clip(np.asarray(probabilities, np.float64), SMALLEST, 1))
    weights = np.ones(images)
    if clusters:
        _, member, sizes = np.unique(np.array(clusters), return_inverse=True, return_counts=True)
        weights = 1 / sizes[member]
    with_errors, likelihood = _fit(labels, logs, weights, errors=True)
    without, null = _fit(labels, logs, weights, errors=False)
    certain = chi2.sf(max(2 * (likelihood - null), 0), 1) / 2 < RISK
    fitted = with_errors if certain else without
    share = float(expit(fitted[1])) if certain else 0.0

    known = np.exp(_log_true(fitted, logs))
    own = known[np.arange(images), labels]
    by_error = share * (1 - own) / (classes - 1)
    wrong = by_error / np.maximum(by_error + (1 - share) * own, np.finfo(float).tiny)
    others = known.copy()
    others[np.arange(images), labels] = -1
    return LabelErrors(
        np.argsort(own, kind="stable"), others.argmax(axis=1), known, wrong, wrong > 0.5, share
    )


def _log_true(parameters: Floats, logs: Floats) -> Floats:
    """Return the logarithm of q in the module's text: float array of shape (images, classes)."""
    result: Floats = log_softmax(np.exp(parameters[0]) * logs + parameters[2:], axis=1)
    return result


def _fit(labels: Integers, logs: Floats, weights: Floats, errors: bool) -> tuple[Floats, float]:
    """Return the parameters with the highest posterior, and its logarithm.

    Parameters: log(1 / temperature), logit(share), and the bias of each class.

    Args:
        labels: int array of shape (images,).
        logs: float array of shape (images, classes): logarithms of the probabilities.
        weights: float array of shape (images,): of each image in the likelihood.
        errors: Whether labels may be wrong; otherwise the share is 0, and its parameter unused.
    """
    images, classes = logs.shape
    each = np.arange(images)

    def loss(parameters: Floats) -> tuple[float, Floats]:
        wrong = expit(parameters[1]) if errors else 0.0
        true = np.exp(_log_true(parameters, logs))
        own = true[each, labels]
        likelihood = (1 - wrong) * own + wrong * (1 - own) / (classes - 1)
        likelihood = np.maximum(likelihood, np.finfo(float).tiny)
        factor = weights / likelihood
        change = factor * own * (1 - wrong - wrong / (classes - 1))
        inner = change[:, None] * true  # the slope for each logit
        inner[each, labels] -= change
        slope = np.concatenate([
            [np.exp(parameters[0]) * np.sum(inner * logs)],
            [-wrong * (1 - wrong) * np.sum(factor * ((1 - own) / (classes - 1) - own))],
            inner.sum(axis=0) + parameters[2:] / BIAS_DEVIATION**2,
        ])  # fmt: skip
        penalty = np.sum(parameters[2:] ** 2) / (2 * BIAS_DEVIATION**2)
        return float(penalty - np.sum(weights * np.log(likelihood))), slope

    bounds = [LOG_POWER, LOGIT_SHARE, *[BIAS] * classes]
    # the likelihood can have two maxima: certain probabilities with errors, or less certain ones
    begins = [[power, logit, *[0.0] * classes] for power, logit in ((0.0, -3.0), (1.0, -4.0))]
    ends = [minimize(loss, begin, jac=True, bounds=bounds, method="L-BFGS-B") for begin in begins]
    best = min(ends, key=lambda end: float(end.fun))
    return best.x, -float(best.fun)


@dataclass(frozen=True)
class Unseen:
    """Predictions of models that were not trained on the image.

    Attributes:
        rows: int64 array of shape (images,): row numbers in the manifest.
        probabilities: float array of shape (images, classes), values 0 to 1: means.
        numbers: int64 array of shape (images,): how many predictions the mean is of.
        by_folds: Whether some of them are from a cross-validation with the settings of the model.
    """

    rows: Integers
    probabilities: Floats
    numbers: Integers
    by_folds: bool


def write(
    dataset: "PreparedDataset", unseen: Unseen, path: Path
) -> tuple[dict[str, Any], list[Finding]]:
    """Write the first tenth of the ranking, and all suspected labels, as CSV.

    Returns:
        The entry `label_errors` of the report: `images` that were checked, `of` all images,
        `by_folds`, the number `suspected`, the `estimated_share` of wrong labels, `by_split`, and
        the `first` rows of the file. And the suspected labels as findings.
    """
    images = [dataset.rows[row] for row in unseen.rows]
    labels = dataset.labels[unseen.rows]
    found = suspected_labels(labels, unseen.probabilities, [image.cluster for image in images])
    entries, findings = list[dict[str, Any]](), list[Finding]()
    for position, index in enumerate(found.order):
        if found.suspected[index] or position < LISTED * len(images):
            likely = int(found.likely[index])
            entries.append({
                "path": images[index].path,
                "label": images[index].label,
                "likely_label": dataset.classes[likely],
                "probability_of_label": float(found.probabilities[index, labels[index]]),
                "probability_of_likely_label": float(found.probabilities[index, likely]),
                "split": images[index].split,
                "predictions": int(unseen.numbers[index]),
                "suspected": "yes" if found.suspected[index] else "no",
            })  # fmt: skip
        if found.suspected[index]:
            entry, image = entries[-1], images[index]
            detail = f"likely {entry['likely_label']} ({entry['probability_of_likely_label']:.1%})"
            findings.append(
                Finding(image.path, image.label, image.split, "suspected label", detail)
            )
    with new_file(path).open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(entries)
    splits = np.array([image.split for image in images])
    return {
        "images": len(images),
        "of": len(dataset.rows),
        "by_folds": unseen.by_folds,
        "suspected": int(found.suspected.sum()),
        "estimated_share": found.share,
        "by_split": {
            split: {
                "images": int(np.sum(splits == split)),
                "suspected": int(np.sum(found.suspected[splits == split])),
            }
            for split in SPLITS
        },
        "first": entries[:FIRST],
    }, findings
