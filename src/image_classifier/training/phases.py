"""The phases of a training: a pretrained model has two, others have one."""

from dataclasses import dataclass
from typing import Literal

from image_classifier.config.schema import Config, PretrainedModel
from image_classifier.training.progress import Progress


@dataclass(frozen=True)
class Phase:
    """A part of a training, from one epoch to another, counted from 0.

    `whole` fits all layers. A pretrained model has two phases: `head` fits the last layer on the
    features of the backbone; `fine-tuning` then fits the backbone, too. With the weights of
    another training (`training.start_from`) it has only the second.
    """

    name: Literal["whole", "head", "fine-tuning"]
    first: int
    last: int


def has_backbone(config: Config) -> bool:
    """Return whether the model has a backbone that has learnt."""
    return isinstance(config.model, PretrainedModel) and config.model.is_trained


def fine_tunes(config: Config) -> bool:
    """Return whether the model has a backbone that has learnt, and that is trained, too."""
    return has_backbone(config) and config.training.fine_tunes


def why_not_continued(config: Config) -> str:
    """Return why a training with more epochs is not this one with epochs added; empty if it is."""
    if fine_tunes(config):
        if config.training.start_from:
            return ""  # none of its epochs is one of training.epochs
        return (
            f"with training.fine_tune={config.training.fine_tune} the fine-tuning comes after the "
            f"last epoch of the last layer (training.fine_tune=none, with "
            f"optimizer.schedule=constant, continues)"
        )
    if config.optimizer.schedule != "constant":
        return (
            f"with optimizer.schedule={config.optimizer.schedule} the learning rate of every epoch "
            f"depends on training.epochs (optimizer.schedule=constant continues)"
        )
    return ""


def phases(config: Config, progress: Progress | None = None) -> list[Phase]:
    """Return the phases of a training.

    Args:
        config: All settings.
        progress: The epochs so far; patience may have ended the first phase early.
    """
    training = config.training
    if not has_backbone(config):
        return [Phase("whole", 0, training.epochs)]
    if training.start_from:
        return [Phase("fine-tuning", 0, training.fine_tune_epochs_number)]
    early = progress.head_epochs if progress else None
    head = Phase("head", 0, training.epochs if early is None else early)
    if not fine_tunes(config):
        return [head]
    return [head, Phase("fine-tuning", head.last, head.last + training.fine_tune_epochs_number)]


def current(config: Config, progress: Progress) -> Phase | None:
    """Return the phase that the next epoch belongs to; None when the training is finished."""
    if progress.stopped:
        return None
    unfinished = [phase for phase in phases(config, progress) if phase.last > progress.epochs]
    return unfinished[0] if unfinished else None
