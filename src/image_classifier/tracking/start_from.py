"""The registered version whose weights are the first ones of a training: `training.start_from`."""

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from image_classifier.config.schema import Config
from image_classifier.data.dataset import PreparedDataset
from image_classifier.errors import InputError
from image_classifier.evaluation.comparison import read_pairs, unseen
from image_classifier.tracking import connection, runs, verified_models
from image_classifier.tracking.registry import Version

if TYPE_CHECKING:
    from image_classifier.classifier import Classifier

# the address of another MLflow store that has the version; `reproduce` has a store of its own
STORE = "IMAGE_CLASSIFIER_START_STORE"


@dataclass(frozen=True)
class Start:
    """The version that a training starts from.

    Attributes:
        uri: Its address, models:/NAME/VERSION.
        run_id: Its MLflow run.
        weights_sha256: The digest of its weights; see `classifier.weights_digest`.
    """

    uri: str
    run_id: str
    weights_sha256: str

    @property
    def tags(self) -> dict[str, str]:
        """The tags of a run that starts from it, and of the versions of that run."""
        return {
            "start_from": self.uri,
            runs.STARTED_FROM: self.run_id,
            "start_from.weights_sha256": self.weights_sha256,
        }


def resolve(config: Config, dataset: PreparedDataset) -> tuple[Config, Start]:
    """Find the version that `training.start_from` names now; its files are not loaded yet.

    Returns:
        The settings with the address of the version, in place of an alias or a run, and the
        version.

    Raises:
        InputError: there is no such version, or it has seen test images of the dataset.
        MlflowException: MLflow does not answer.
    """
    address = config.training.start_from
    assert address
    with connection.other_store(os.environ.get(STORE)):
        version = _find(address)
        tags = runs.tags_of(version.run_id)
        if "weights_sha256" not in tags:
            raise InputError(
                f"training.start_from={address}: run {version.run_id} of {version.uri} has no tag "
                f"weights_sha256, by which its weights could be identified. Train it again."
            )
        start = Start(version.uri, version.run_id, tags["weights_sha256"])
        refuse_seen_test_images(start, dataset, config.split.duplicate_distance)
    training = config.training.model_copy(update={"start_from": start.uri})
    return config.model_copy(update={"training": training}), start


def load(start: Start) -> "Classifier":
    """Return the version's classifier, after a check of its files.

    Raises:
        InputError: they are not what was registered, or have other weights than its run.
    """
    from image_classifier.classifier import weights_digest  # imports TensorFlow

    with connection.other_store(os.environ.get(STORE)):
        classifier, _ = verified_models.load_classifier(start.uri)
    digest = weights_digest(classifier.model)
    if digest != start.weights_sha256:
        raise InputError(
            f"training.start_from={start.uri} has weights with SHA-256 {digest}, but the tag "
            f"weights_sha256 of its run {start.run_id} is {start.weights_sha256}. Start from "
            f"another version."
        )
    return classifier


def refuse_seen_test_images(start: Start, dataset: PreparedDataset, distance: int | None) -> None:
    """Check that the version, and those it started from itself, have seen no test image.

    Otherwise the test metrics of the training would be too good. `promote` relies on this.

    Args:
        start: The version.
        dataset: The prepared images.
        distance: `split.duplicate_distance`.

    Raises:
        InputError: some were seen, or the store lacks the manifest of a run.
    """
    seen = runs.seen_by(start.run_id, same_split=dataset.digest)
    if not seen:
        return
    test = [row for row in dataset.rows if row.split == "test"]
    known = len(test) - len(unseen(dataset.rows, seen, read_pairs(), distance))
    if known:
        raise InputError(
            f"training.start_from={start.uri}: that version, or one that it started from, was "
            f"trained or validated on {known} of the {len(test)} test images, or on near "
            f"duplicates or the same groups, so the test metrics would be too good. Split the "
            f"images as MLflow run {start.run_id} did (the settings split, above all the same "
            f"split.seed): then images keep their split when others are added. Or start from "
            f"another version, or set training.start_from=null."
        )


def _find(address: str) -> Version:
    """Return the version that an address, or the id of a run, stands for now.

    Raises:
        InputError: there is none.
    """
    connection.connect()
    is_run = re.fullmatch(r"[0-9a-f]{32}", address)
    uri = runs.tags_of(address).get("registered_version") if is_run else address
    if uri is None:
        raise InputError(
            f"training.start_from={address}: this MLflow run has no registered version (no tag "
            f"registered_version). Name a run with one, or models:/NAME/VERSION."
        )
    try:
        return verified_models.find_version(uri)
    except InputError as error:
        raise InputError(
            f"training.start_from={address}: {error} Name a version that "
            f"{connection.public_uri()} has, as models:/NAME/VERSION."
        ) from None
