"""How long a training takes, over all its attempts."""

import time
from collections.abc import Mapping


class Timings:
    """The seconds that a training takes; `earlier` holds those of attempts that were killed."""

    def __init__(self) -> None:
        """Start the clocks of this attempt."""
        self.earlier: Mapping[str, float] = {}
        self.started, self.cpu_started = time.perf_counter(), time.process_time()
        self.fit_started = self.started

    def start_fit(self) -> None:
        """Start the clock of the fit."""
        self.fit_started = time.perf_counter()

    def spent(self) -> dict[str, float]:
        """Return the seconds so far: `train_seconds`, `cpu_seconds` and `fit_seconds`."""
        now = time.perf_counter()
        seconds = {
            "train_seconds": now - self.started,
            "cpu_seconds": time.process_time() - self.cpu_started,
            "fit_seconds": now - self.fit_started,
        }
        return {name: value + self.earlier.get(name, 0) for name, value in seconds.items()}
