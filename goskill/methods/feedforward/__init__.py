"""What methods without memory share: inputs that tell the task, and policies of one observation at a time."""

from goskill.methods.feedforward.acting import FeedForwardPolicy
from goskill.methods.feedforward.task_input import TaskInput, agents_in, place_of

__all__ = ["FeedForwardPolicy", "TaskInput", "agents_in", "place_of"]
