"""Every choice that the Prompt-DT family leaves open, with the GO-Skill paper's value (Table 4) as the default."""

from __future__ import annotations

from dataclasses import dataclass

from goskill.data.selection import check_share
from goskill.settings import BELOW_ONE, NOT_NEGATIVE, POSITIVE, check, check_distinct, refuse


@dataclass(frozen=True)
class PromptDTSettings:
    """Settings of the networks and of the schedule. Raises InputError that names the setting."""

    # Networks
    width: int = 256  # of the tokens
    layers: int = 6  # transformer blocks
    heads: int = 8  # attention heads of each; they divide the width
    dropout: float = 0.1  # of embeddings, attention and residuals
    table_std: float = 1.0  # of the embeddings of times before training; 1: as released
    multi_head: bool = False  # an output layer per task
    task_embedding: int = (
        0  # length of a learned vector per task beside each observation; 0: no task identity
    )
    tasks: tuple[str, ...] = ()  # that have such a layer or vector; those of the store are added

    # Sequences, in environment steps
    context: int = 20  # steps of history
    prompt_length: int = 10  # last steps of a demonstration; 0: no prompt (MTDT)
    prompt_episodes: int = 4  # episodes of a task that serve as its demonstrations
    prompts: str = (
        "best"  # which: best, successful, shortest, a column of the episodes, or a .json file of indices
    )
    max_decisions: int = 1000  # rows of the time tables; episodes may last this many steps
    return_scale: float = 1000.0  # returns-to-go are divided by this

    # Data and schedule
    best_share: float = 1.0  # of each task's episodes by return, that are imitated; 1: all
    iterations: int = 100_000  # as many as GO-Skill's two phases together
    batch_per_task: int = 8  # contexts per task in a batch

    def __post_init__(self) -> None:
        check(self, POSITIVE, "width", "layers", "heads", "context", "prompt_episodes", "max_decisions")
        check(self, POSITIVE, "iterations", "batch_per_task", "return_scale", "table_std")
        check(self, NOT_NEGATIVE, "prompt_length", "task_embedding")
        check(self, BELOW_ONE, "dropout")
        check_share("best_share", self.best_share)
        if self.width % self.heads:
            refuse(self, "heads", f"a divisor of width = {self.width}")
        check_distinct(self, "tasks")
        if self.tasks and not self.knows_tasks:
            refuse(self, "tasks", "none without multi_head and task_embedding")

    @property
    def knows_tasks(self) -> bool:
        """Whether the networks tell tasks apart by their names."""
        return self.multi_head or self.task_embedding > 0
