"""The study of a search: Optuna's record of its trials, in a file of its own or in a database."""

import math
import os
import time

import optuna
from hydra.utils import instantiate
from omegaconf import DictConfig
from sqlalchemy.exc import SQLAlchemyError

from image_classifier.config.schema import sign_of
from image_classifier.errors import InputError
from image_classifier.project import paths
from image_classifier.project.processes import has_ended, this_process

VARIABLE = "IMAGE_CLASSIFIER_TRIAL"  # for a job: the study's name and the number of its trial
OWNER = "process"  # the process that waits for the result of a trial
PRUNED = "pruned_after_epoch"
ATTEMPTS = 3  # to open a study
RUNNING = optuna.trial.TrialState.RUNNING

optuna.logging.set_verbosity(optuna.logging.WARNING)  # the jobs print what happens


def open_study(name: str, monitor: str, sweeper: DictConfig) -> optuna.Study:
    """Return a search's study: a new one, or the one that an earlier command began.

    Args:
        name: Identifies the search.
        monitor: The metric that is optimised.
        sweeper: The settings `hydra.sweeper`.

    Raises:
        InputError: the file or the database cannot be opened.
    """
    file = paths.project() / "runs" / "searches" / f"{name[:32]}.db"
    file.parent.mkdir(parents=True, exist_ok=True)
    url = sweeper.storage or paths.sqlite_address(file)
    for attempt in range(ATTEMPTS):
        try:
            return optuna.create_study(
                storage=optuna.storages.RDBStorage(url),
                pruner=instantiate(sweeper.pruner),
                study_name=name,
                direction="minimize" if sign_of(monitor) == 1 else "maximize",
                load_if_exists=True,
            )
        except (SQLAlchemyError, ImportError, ValueError) as caught:
            error = caught
            # another machine may create the tables of a new database at the same moment
            time.sleep(attempt)
    where = "hydra.sweeper.storage" if sweeper.storage else str(file)
    raise InputError(
        f"{where}: the study of the search cannot be opened ({error}). Give the address of a "
        f"database, such as postgresql://user@host/name, or null for a file in runs/searches."
    )


def own(trial: optuna.Trial) -> optuna.Trial:
    """Record that this process waits for the result of a trial; return the trial."""
    trial.set_user_attr(OWNER, this_process())
    return trial


def running_trial(study: optuna.Study, number: int) -> optuna.Trial:
    """Return a trial that another process began."""
    # Optuna has no public function for it
    return optuna.Trial(study, study.trials[number]._trial_id)


def interrupted(study: optuna.Study) -> list[int]:
    """Return the numbers of the trials whose process has ended without a result."""
    running = study.get_trials(deepcopy=False, states=(RUNNING,))
    return [
        trial.number
        for trial in running
        if OWNER not in trial.user_attrs or has_ended(trial.user_attrs[OWNER])
    ]


def words_for_job(study: optuna.Study, trial: optuna.Trial) -> list[str]:
    """Return the overrides that tell a job which trial it runs."""
    return [f"+hydra.job.env_set.{VARIABLE}='{study.study_name} {trial.number}'"]


def trial_of_this_job(monitor: str, sweeper: DictConfig) -> optuna.Trial | None:
    """Return the trial that this job runs; None for a job of another kind of sweep."""
    given = os.environ.get(VARIABLE)
    if given is None:
        return None
    name, number = given.split()
    return running_trial(open_study(name, monitor, sweeper), int(number))


def tell(study: optuna.Study, trial: optuna.Trial, value: float) -> None:
    """Record the result of a trial; one that is not a number means that the trial failed."""
    states = optuna.trial.TrialState
    if not math.isfinite(value):
        study.tell(trial, state=states.FAIL, skip_if_finished=True)
    elif PRUNED in study.trials[trial.number].user_attrs:
        study.tell(trial, state=states.PRUNED, skip_if_finished=True)
    else:
        study.tell(trial, value, skip_if_finished=True)


def describe(study: optuna.Study, n_trials: int) -> str:
    """Return how far a search has come; empty for a new one."""
    trials = study.get_trials(deepcopy=False)
    if not trials:
        return ""
    numbers = {
        state: sum(trial.state.name == state for trial in trials)
        for state in ("COMPLETE", "PRUNED", "FAIL")
    }
    again = len(interrupted(study))
    elsewhere = len(trials) - sum(numbers.values()) - again
    parts = [
        f"{numbers['COMPLETE']} finished",
        f"{numbers['PRUNED']} pruned",
        f"{numbers['FAIL']} failed",
        f"{again} interrupted, which continue now",
        f"{elsewhere} running on other machines",
    ]
    listed = ", ".join(part for part in parts if not part.startswith("0 "))
    return f"The search has {len(trials)} of {n_trials} trials: {listed}."
