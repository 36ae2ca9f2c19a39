"""Names of the kitchen's tasks, and what they mean."""

import pytest

from goskill.envs.kitchen import GROUPS, SUBTASKS, kitchen_task, task_of
from goskill.errors import InputError


def test_subtasks_have_the_joints_and_goals_of_franka_kitchen():
    from gymnasium_robotics.envs.franka_kitchen.kitchen_env import (
        BONUS_THRESH,
        OBS_ELEMENT_GOALS,
        OBS_ELEMENT_INDICES,
    )

    from goskill.envs.kitchen.tasks import DONE_WITHIN

    assert list(SUBTASKS) == list(OBS_ELEMENT_GOALS)
    assert DONE_WITHIN == BONUS_THRESH
    for name, subtask in SUBTASKS.items():
        assert list(range(30))[subtask.joints] == list(OBS_ELEMENT_INDICES[name])
        assert list(subtask.goal) == list(OBS_ELEMENT_GOALS[name])


def test_simpl_trains_on_23_tasks_and_tests_on_10_others_of_four_subtasks_in_order():
    train, test = GROUPS["kitchen-train"], GROUPS["kitchen-test"]
    assert (len(set(train)), len(set(test))) == (23, 10)
    assert not set(train) & set(test)
    for name in train + test:
        task = kitchen_task(name)
        assert task.ordered
        assert len(task.subtasks) == 4
        assert task_of(task.subtasks) == task


def test_d4rl_has_goals_without_order():
    complete, partial, mixed = (kitchen_task(f"kitchen-{name}") for name in ("complete", "partial", "mixed"))
    assert complete.subtasks == partial.subtasks == ("microwave", "kettle", "light switch", "slide cabinet")
    assert mixed.subtasks == ("microwave", "kettle", "bottom burner", "light switch")
    assert not any(task.ordered for task in (complete, partial, mixed))


def test_any_selection_has_a_name():
    assert kitchen_task("kitchen-hk").subtasks == ("hinge cabinet", "kettle")
    assert kitchen_task("kitchen-any-hk") == task_of(["hinge cabinet", "kettle"], ordered=False)


@pytest.mark.parametrize(
    "name", ["kitchen-", "mkbs", "kitchen-mm", "kitchen-mx", "kitchen-any-", "kitchen-compleet"]
)
def test_other_names_are_refused(name):
    with pytest.raises(InputError, match=r"^task: .*" + repr(name)):
        kitchen_task(name)


def test_an_unknown_subtask_is_refused_with_the_nearest():
    with pytest.raises(InputError, match=r"'ketle'.*'kettle'"):
        task_of(["ketle"])
