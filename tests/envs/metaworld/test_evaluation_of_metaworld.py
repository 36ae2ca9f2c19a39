"""`metaworld.evaluation.evaluation`, the package's own protocol, on our pools."""

import gymnasium
import numpy as np
from envs_stock import Reseeding, stock
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from metaworld.evaluation import evaluation
from metaworld.wrappers import AutoTerminateOnSuccessWrapper

from goskill.envs import make_vec
from goskill.envs.metaworld.scripted import ScriptedExpert

TASKS = ["reach", "door-close"]


class Experts:
    def __init__(self):
        self.experts = [ScriptedExpert(task) for task in TASKS]

    def eval_action(self, observations):
        return np.stack([expert(row) for expert, row in zip(self.experts, observations, strict=True)])

    def reset(self, mask):
        pass


def theirs():
    def make(task):
        return gymnasium.wrappers.RecordEpisodeStatistics(
            AutoTerminateOnSuccessWrapper(Reseeding(stock(task, 0)))
        )

    return SyncVectorEnv(
        [lambda task=task: make(task) for task in TASKS],
        autoreset_mode=AutoresetMode.SAME_STEP,
        observation_mode="different",
    )


def test_the_packages_evaluation_finds_in_our_pool_what_it_finds_in_the_stock_environments():
    stocks = theirs()
    with make_vec(TASKS, workers=2, autoreset_mode="SameStep") as pool:
        found = []
        for environments in (pool, stocks):
            environments.reset(seed=3)
            found.append(evaluation(Experts(), environments, num_episodes=2))
        assert not any(pool.get_attr("terminate_on_success"))
    (success, mean, by_task, returns), expected = found[0], found[1]
    assert (success, by_task) == (expected[0], expected[2])
    assert success == 1.0
    np.testing.assert_allclose(mean, expected[1], rtol=1e-9)
    for task in returns:
        np.testing.assert_allclose(returns[task], expected[3][task], rtol=1e-9)
