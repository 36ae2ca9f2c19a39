"""FrankaKitchen: a robot arm, seven things to do in any order, rewards only when one is done."""

from goskill.envs.kitchen.environment import KitchenEnv, make
from goskill.envs.kitchen.tasks import GROUPS, SUBTASKS, KitchenTask, kitchen_task, task_of

__all__ = ["GROUPS", "SUBTASKS", "KitchenEnv", "KitchenTask", "kitchen_task", "make", "task_of"]
