"""Every choice of behaviour cloning."""

from __future__ import annotations

from dataclasses import dataclass

from goskill.data.selection import check_share
from goskill.settings import POSITIVE, check, check_distinct, refuse


@dataclass(frozen=True)
class BCSettings:
    """Settings of the network, the data and the schedule. Raises InputError that names the setting."""

    # Network
    width: int = 256  # of the hidden layers
    layers: int = 3  # hidden layers
    task_identity: bool = True  # the network is told the task (one-hot); False: it sees observations only
    tasks: tuple[str, ...] = ()  # that it is told apart; those of the store are added

    # Data and schedule
    best_share: float = 0.5  # of each task's episodes by return that are imitated; 1: all
    iterations: int = 8_000  # updates
    batch_size: int = 512  # steps in a batch, the same number from each task
    prompt_episodes: int = 1  # best episodes of a task that a run keeps; the policy does not look at them

    def __post_init__(self) -> None:
        check(self, POSITIVE, "width", "layers", "iterations", "batch_size", "prompt_episodes")
        check_share("best_share", self.best_share)
        check_distinct(self, "tasks")
        if self.tasks and not self.task_identity:
            refuse(self, "tasks", "none with task_identity = False")
