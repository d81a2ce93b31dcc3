"""The Hydra sweeper of a search: Optuna proposes the settings of each job, called a trial.

Hydra looks for sweepers only in `hydra_plugins`. It imports this file at every start, so Optuna is
imported later.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    import optuna


class OptunaSearch(Sweeper):
    """Runs trials until the study has `n_trials` of them, whatever became of these.

    The study is stored: the same command continues it after an interruption, and with more trials.
    What a trial proposes depends only on the seed, its number and the results before it, so a
    search that was interrupted proposes the same as one that was not.
    """

    def __init__(
        self,
        n_trials: int,
        n_jobs: int,
        seed: int,
        sampler: Callable[..., "optuna.samplers.BaseSampler"],
        params: dict[str, str],
        **of_study: object,
    ) -> None:
        """Store the settings; see conf/hydra/sweeper/optuna_search.yaml.

        `of_study` has those that `sweeps.study` reads from the configuration.
        """
        self.n_trials = n_trials
        self.n_jobs = n_jobs
        self.seed = seed
        self.sampler = sampler
        self.params = params

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Prepare the launcher, which runs the jobs."""
        self.config = config
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the search.

        Args:
            arguments: The overrides of the command. A setting that the command gives a single
                value is not searched.
        """
        from image_classifier.sweeps import study as studies
        from image_classifier.sweeps.hydra_callback import sweep_key

        searched = [f"{name}={values}" for name, values in self.params.items()]
        overrides = OverridesParser.create().parse_overrides(searched + arguments)
        latest = {override.get_key_element(): override for override in overrides}
        space = {name: given for name, given in latest.items() if given.is_sweep_override()}
        fixed = [str(given.input_line) for name, given in latest.items() if name not in space]

        assert self.config
        monitor = self.config.training.monitor
        study = studies.open_study(sweep_key(self.config), monitor, self.config.hydra.sweeper)
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        done = 0
        while trials := self.next_trials(study):
            jobs = [
                [*fixed, *self.propose(study, trial, space), *studies.words_for_job(study, trial)]
                for trial in trials
            ]
            results = self.launcher.launch(jobs, initial_job_idx=done)
            for trial, result in zip(trials, results, strict=True):
                studies.tell(study, trial, result.return_value)
            done += len(trials)

    def next_trials(self, study: "optuna.Study") -> list["optuna.Trial"]:
        """Return the next trials to run at the same time: interrupted ones, then new ones."""
        from image_classifier.sweeps import study as studies

        trials = []
        for number in studies.interrupted(study)[: self.n_jobs]:
            study.sampler = self.seeded_sampler(number)
            trials.append(studies.own(studies.running_trial(study, number)))
        while len(trials) < self.n_jobs and (number := len(study.trials)) < self.n_trials:
            study.sampler = self.seeded_sampler(number)
            trials.append(studies.own(study.ask()))
        return trials

    def propose(
        self, study: "optuna.Study", trial: "optuna.Trial", space: dict[str, Override]
    ) -> list[str]:
        """Return the overrides that a trial proposes."""
        words = []
        for name, override in space.items():
            study.sampler = self.seeded_sampler(trial.number, name)
            words.append(f"{name}={suggest(trial, override)}")
        return words

    def seeded_sampler(self, number: int, name: str = "") -> "optuna.samplers.BaseSampler":
        """Return a sampler for a trial, or for one setting of it, with a seed of its own."""
        digest = hashlib.sha256(f"{self.seed} {number} {name}".encode()).digest()
        return self.sampler(seed=int.from_bytes(digest[:4]))


def suggest(trial: "optuna.Trial", override: Override) -> str | int | float:
    """Return Optuna's proposal for a setting.

    Args:
        trial: The trial.
        override: The values to choose from, in Hydra's words: `interval`, `range` or `choice`; the
            tag `log` makes the scale logarithmic.
    """
    name, values = override.get_key_element(), override.value()
    if isinstance(values, IntervalSweep):
        low, high, log = values.start, values.end, "log" in values.tags
        if isinstance(low, int) and isinstance(high, int):
            return trial.suggest_int(name, low, high, log=log)
        assert low is not None
        assert high is not None
        return trial.suggest_float(name, low, high, log=log)
    if isinstance(values, RangeSweep) and not values.shuffle:
        steps = values.range()
        if isinstance(steps, range):
            return trial.suggest_int(name, steps[0], steps[-1], step=steps.step)
    return trial.suggest_categorical(name, list(override.sweep_string_iterator()))
