"""GO-Skill in MetaWorld: its results are a function of (weights, tasks, episodes, seed), and name its skills."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch

from goskill.errors import InputError, WorkerDied
from goskill.methods.go_skill import GoSkillNetworks, GoSkillPolicy, GoSkillSettings
from goskill.models import Normalize
from goskill.rollouts import Demonstration, SkillPolicy, evaluate

TASKS = ["door-close", "reach"]
SETTINGS = GoSkillSettings(
    codebook_size=6,
    embedding_size=8,
    encoder_width=16,
    decoder_width=16,
    decoder_layers=1,
    decoder_heads=2,
    policy_width=16,
    policy_layers=1,
    policy_heads=2,
    context=2,
    prompt_length=2,
)


@pytest.fixture(scope="module")
def policy() -> GoSkillPolicy:
    torch.manual_seed(0)
    networks = GoSkillNetworks(SETTINGS, Normalize(torch.zeros(39), torch.ones(39)), 4)
    for part in (networks.decoder, networks.policy):
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    networks.codebook.codebook = torch.randn_like(networks.codebook.codebook)
    return GoSkillPolicy(networks.eval())


@pytest.fixture(scope="module")
def prompts() -> dict[str, list[Demonstration]]:
    random = np.random.default_rng(0)

    def demonstration() -> Demonstration:
        return Demonstration(
            random.normal(size=(41, 39)).astype(np.float32),
            random.uniform(-1, 1, (40, 4)).astype(np.float32),
            random.random(40, dtype=np.float32),
        )

    return {task: [demonstration() for _ in range(3)] for task in TASKS}


@pytest.fixture(scope="module")
def whole(policy, prompts):
    return evaluate(policy, TASKS, 3, prompts=prompts, seed=2, max_steps=45, workers=0)


def test_the_policy_tells_its_skills(policy, whole) -> None:
    assert isinstance(policy, SkillPolicy)
    assert (whole.skills.count, whole.skills.horizon) == (6, 10)
    for task in TASKS:
        assert sum(whole.skills.usage[task]) == 3 * 5
        assert len(whole.skills.first_episode[task]) == 5


def test_the_same_evaluation_again_gives_the_same_numbers(policy, prompts, whole) -> None:
    again = evaluate(policy, TASKS, 3, prompts=prompts, seed=2, max_steps=45, workers=1)
    for task in TASKS:
        np.testing.assert_array_equal(again.episodes[task].returns, whole.episodes[task].returns)
    assert again.skills == whole.skills


def test_halves_in_threads_and_one_after_the_other_give_the_same_numbers(policy, prompts) -> None:
    runs = [
        evaluate(policy, TASKS, 16, prompts=prompts, seed=3, max_steps=25, workers=workers)
        for workers in (0, min(2, len(os.sched_getaffinity(0))))
    ]
    for task in TASKS:
        np.testing.assert_array_equal(*(run.episodes[task].returns for run in runs))
    assert runs[0].skills == runs[1].skills


def worker_processes() -> list[int]:
    """This process's children that run environments."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == os.getpid() and b"goskill.envs.process" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="halves run side by side on two cores or more")
@pytest.mark.parametrize("cause", ["a worker dies", "the user interrupts"])
def test_nothing_hangs_or_is_left_when_halves_are_stopped(policy, prompts, cause: str) -> None:
    struck = Event()

    def strike(done: int, total: int) -> None:
        if done > total // 8 and not struck.is_set():
            struck.set()
            if cause == "a worker dies":
                os.kill(worker_processes()[0], signal.SIGKILL)
            else:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    expected = (
        pytest.raises(WorkerDied, match=r"environment worker 0 .* was killed by SIGKILL; it ran .*close")
        if cause == "a worker dies"
        else pytest.raises(KeyboardInterrupt)
    )
    with expected:
        evaluate(policy, TASKS, 16, prompts=prompts, max_steps=500, workers=2, progress=strike)
    assert struck.is_set()
    assert worker_processes() == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("evaluation")]


def test_an_episode_does_not_depend_on_what_runs_beside_it(policy, prompts, whole) -> None:
    parts = evaluate(policy, ["reach"], 2, prompts=prompts, seed=2, max_steps=45, batch=1, workers=0)
    np.testing.assert_allclose(
        parts.episodes["reach"].returns, whole.episodes["reach"].returns[:2], rtol=1e-3
    )
    assert parts.skills.first_episode["reach"] == whole.skills.first_episode["reach"]


def test_a_task_without_demonstrations_is_refused(policy, prompts) -> None:
    with pytest.raises(InputError, match=r"prompts: .*'push'"):
        evaluate(policy, ["reach", "push"], 1, prompts=prompts)
