"""Steps of policies as CUDA graphs. Without a GPU, a recording of the step's operations stands for the graph."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo  # a dispatch mode does so, and Triton must load its LLVM before a renderer its own
from small_store import ACTION, OBSERVATION, episode, small_prompt_dt, small_settings
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from goskill.errors import InputError
from goskill.methods.go_skill import ABLATIONS, GoSkillNetworks, GoSkillPolicy
from goskill.methods.prompt_dt import PromptDTNetworks, PromptDTPolicy
from goskill.methods.sequence.acting import PromptedPolicy
from goskill.methods.sequence.acting_graphs import EagerSteps, GraphedSteps
from goskill.models import Normalize

TASKS = ("left", "right", "short")
# A prompt of three decisions, of which the demonstration of "short" fills one: it is padded.
PADDED = {"left": [episode(0, 30, 0.3)], "right": [episode(1, 9, 0.3)], "short": [episode(2, 3, 0.0)]}
FULL = {task: [episode(place, 30, 0.3)] for place, task in enumerate(TASKS)}
ROWS = ["left", "right", "short", "left", "right"]
STEPS = 45  # twelve decisions with a horizon of four: the context of five slides

HOST_READS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "item", "lift_fresh"}


class Recording(TorchDispatchMode):
    """The operations of a step with the very tensors that they read and wrote, to be run again without Python.

    As for a CUDA graph, reading a value on the host or making a tensor from host values is refused.
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Any, Any, Any]] = []
        self._ran = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in HOST_READS:
            raise RuntimeError(f"{func} needs the host")
        result = func(*args, **(kwargs or {}))
        self._calls.append((func, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        """Run the operations. Recording has run them once already: the first time nothing is left to do."""
        if not self._ran:
            self._ran = True
            return
        for func, args, kwargs, result in self._calls:
            given = {_storage(value) for value in tree_leaves((args, kwargs)) if torch.is_tensor(value)}
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if torch.is_tensor(old) and _storage(old) not in given:
                    old.copy_(new)


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


class RecordedSteps(GraphedSteps):
    """What runs on a GPU, with recordings for graphs; counts what it did."""

    def __init__(self) -> None:
        super().__init__(torch.device("cpu"))
        self.eager = self.captured = self.replayed = 0

    def _warm_up(self, step: Callable[[], None]) -> None:
        self.eager += 1
        step()

    def _capture(self, step: Callable[[], None]) -> Callable[[], None]:
        self.captured += 1
        recording = Recording()
        with recording:
            step()

        def replay() -> None:
            self.replayed += 1
            recording.replay()

        return replay


def go_skill(device: str = "cpu", **changes: Any) -> GoSkillNetworks:
    torch.manual_seed(4)
    normalize = Normalize(torch.linspace(-0.5, 0.5, OBSERVATION), torch.linspace(0.5, 2.0, OBSERVATION))
    networks = GoSkillNetworks(small_settings(**changes), normalize, ACTION).eval()
    _spread(networks.decoder, networks.policy)
    if networks.codebook is not None:
        networks.codebook.codebook = torch.randn(5, 8) * 0.3
    return networks.to(device)


def prompt_dt(device: str = "cpu", **changes: Any) -> PromptDTNetworks:
    torch.manual_seed(4)
    normalize = Normalize(torch.linspace(-0.5, 0.5, OBSERVATION), torch.linspace(0.5, 2.0, OBSERVATION))
    networks = PromptDTNetworks(small_prompt_dt(**changes), normalize, ACTION).eval()
    _spread(networks.policy)
    return networks.to(device)


def _spread(*parts: torch.nn.Module) -> None:
    for part in parts:
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter, std=0.3)


KNOWING = {"multi_head": True, "task_embedding": 5, "tasks": TASKS}
POLICIES: dict[str, Callable[..., PromptedPolicy]] = {
    "GO-Skill": lambda device="cpu", **options: GoSkillPolicy(go_skill(device), **options),
    "multi-head": lambda device="cpu", **options: GoSkillPolicy(
        go_skill(device, multi_head_decoder=True, policy_skill_input="index"), **options
    ),
    "no VQ": lambda device="cpu", **options: GoSkillPolicy(go_skill(device, **ABLATIONS["no-vq"]), **options),
    "no prompt, context of one": lambda device="cpu", **options: GoSkillPolicy(
        go_skill(device, prompt_length=0, context=1), **options
    ),
    "Prompt-DT": lambda device="cpu", **options: PromptDTPolicy(prompt_dt(device), **options),
    "MTDT that knows tasks": lambda device="cpu", **options: PromptDTPolicy(
        prompt_dt(device, prompt_length=0, **KNOWING), **options
    ),
}


def play(policy: PromptedPolicy) -> tuple[np.ndarray, np.ndarray]:
    """Actions [4, STEPS, 5, ACTION] and skills of four episodes: padded prompts, then full ones, then both again."""
    random = np.random.default_rng(0)
    actions, skills = [], []
    for number, shown in enumerate((PADDED, FULL, PADDED, FULL)):
        policy.reset(ROWS, shown, seed=number)
        for _ in range(STEPS if policy._horizon > 1 else STEPS // 3):
            seen = random.normal(size=(len(ROWS), OBSERVATION)).astype(np.float32)
            actions.append(policy.act(seen))
            policy.observe(random.uniform(0, 1, len(ROWS)).astype(np.float32))
        skills.append(getattr(policy, "skill_history", np.zeros(0)))
    return np.stack(actions), np.stack(skills)


@pytest.mark.parametrize("name", POLICIES)
def test_recorded_steps_run_again_give_the_actions_of_eager_steps(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that a step depends on is in Python, and nothing in it waits for the host."""
    expected = play(POLICIES[name](chunk=3))
    steps = RecordedSteps()
    policy = POLICIES[name](chunk=3)
    monkeypatch.setattr(policy, "_new_steps", lambda: steps)
    for one, other in zip(play(policy), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
    assert not steps._eager
    assert steps.captured > 0
    assert steps.replayed > steps.eager


def test_an_episode_of_another_size_is_captured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[RecordedSteps] = []
    policy = POLICIES["GO-Skill"]()

    def new_steps() -> RecordedSteps:
        made.append(RecordedSteps())
        return made[-1]

    monkeypatch.setattr(policy, "_new_steps", new_steps)
    for rows in (2, 2, 3):
        policy.reset(ROWS[:rows], FULL)
        for _ in range(9):
            policy.act(np.zeros((rows, OBSERVATION), dtype=np.float32))
    assert len(made) == 2
    # Four steps of a skill, and decisions after none and one; the third came only in the first skill's place.
    assert [steps.captured for steps in made] == [6, 3]
    # New weights lie elsewhere.
    policy.networks.load_state_dict({key: value + 0 for key, value in policy.networks.state_dict().items()})
    policy.reset(ROWS[:3], FULL)
    assert len(made) == 2
    policy.networks.decoder.action_head.weight = torch.nn.Parameter(torch.zeros(ACTION, 16))
    policy.reset(ROWS[:3], FULL)
    assert len(made) == 3


def test_a_step_that_cannot_be_captured_runs_eagerly_with_one_warning() -> None:
    steps, ran = RecordedSteps(), []
    value = torch.ones(1)

    def reads_on_the_host() -> None:
        ran.append(value.item())

    steps.run("step", reads_on_the_host)
    with pytest.warns(RuntimeWarning, match=r"without CUDA graphs: .*_local_scalar_dense.* needs the host"):
        steps.run("step", reads_on_the_host)
    steps.run("step", reads_on_the_host)
    assert ran == [1.0] * 3
    strict = RecordedSteps()
    strict._required = True
    strict.run("step", reads_on_the_host)
    with pytest.raises(RuntimeError, match="cuda_graphs='off' acts without"):
        strict.run("step", reads_on_the_host)


def test_the_warning_says_what_went_wrong_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA raises again at the end of a capture that something else has spoilt."""
    steps = RecordedSteps()

    def fail(step: Callable[[], None]) -> Callable[[], None]:
        try:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nSearch for it.")
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    monkeypatch.setattr(steps, "_capture", fail)
    steps.run("step", lambda: None)
    with pytest.warns(
        RuntimeWarning, match=r"without CUDA graphs: .* not permitted when stream is capturing$"
    ):
        steps.run("step", lambda: None)


def test_on_needs_cuda_and_goal_hooks_stay_without() -> None:
    policy = GoSkillPolicy(go_skill(), cuda_graphs="on")
    with pytest.raises(InputError, match="cuda_graphs: 'on' needs networks on a CUDA device, got cpu"):
        policy.reset(ROWS, FULL)
    with pytest.raises(InputError, match="cuda_graphs: expected 'auto', 'on' or 'off', got 'maybe'"):
        PromptDTPolicy(prompt_dt(), cuda_graphs="maybe")
    hooked = GoSkillNetworks(
        small_settings(), Normalize(torch.zeros(OBSERVATION), torch.ones(OBSERVATION)), ACTION, torch.tanh
    )
    assert GoSkillPolicy(hooked)._cuda_graphs == "off"
    assert GoSkillPolicy(hooked, cuda_graphs="on")._cuda_graphs == "on"


@pytest.mark.parametrize("name", POLICIES)
def test_steps_mix_no_devices(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On meta tensors whatever looks at a value, or meets a tensor of another device, raises."""
    monkeypatch.setattr(
        torch, "is_autocast_enabled", lambda device: False
    )  # it does not know of meta tensors
    policy = POLICIES[name]()
    policy.networks.to("meta")
    with torch.inference_mode():
        group = policy.new_group(len(ROWS), EagerSteps())
        group.returns_to_go = torch.zeros(len(ROWS), dtype=torch.float64)
        for _ in range(STEPS // 2):
            assert group.act(torch.zeros(len(ROWS), OBSERVATION)).is_meta


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", POLICIES)
def test_graphs_give_the_actions_of_eager_steps_over_whole_episodes(name: str, precision: str) -> None:
    eager = play(POLICIES[name]("cuda", chunk=3, precision=precision, cuda_graphs="off"))
    graphed = play(POLICIES[name]("cuda", chunk=3, precision=precision, cuda_graphs="on"))
    for one, other in zip(graphed, eager, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_two_threads_capture_and_replay_side_by_side() -> None:
    from concurrent.futures import ThreadPoolExecutor

    policy = POLICIES["GO-Skill"]("cuda", cuda_graphs="on")
    expected = play(POLICIES["GO-Skill"]("cuda", cuda_graphs="off"))
    with ThreadPoolExecutor(2) as threads:
        for got in threads.map(play, [policy.fork(), policy.fork()]):
            for one, other in zip(got, expected, strict=True):
                np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_capture_that_failed_leaves_torch_as_it_was() -> None:
    """Streams, random numbers and other captures go on; the warning names the cause."""
    device = torch.device("cuda", 0)
    value, out = torch.ones(4, device=device), torch.zeros(4, device=device)
    before = torch.cuda.current_stream(device)
    failing, good = GraphedSteps(device), GraphedSteps(device, required=True)

    def reads_on_the_host() -> None:
        out.copy_(value * value.sum().item())

    failing.run("step", reads_on_the_host)
    with pytest.warns(RuntimeWarning, match="without CUDA graphs: (?!.*previous error)"):
        failing.run("step", reads_on_the_host)
    assert out.tolist() == [4.0] * 4
    assert torch.cuda.current_stream(device) == before
    assert 0 <= float(torch.rand((), device=device)) < 1
    torch.cuda.empty_cache()
    for expected in ([2.0] * 4, [3.0] * 4, [4.0] * 4):
        good.run("step", lambda: value.add_(1))
        assert value.tolist() == expected
    assert good._replays["step"] is not None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_graphs_are_freed_with_their_steps() -> None:
    """No cycle waits for the garbage collector, which might run amid another capture."""
    steps, value = GraphedSteps(torch.device("cuda", 0), required=True), torch.ones(4, device="cuda")
    for _ in range(3):
        steps.run("step", lambda: value.add_(1))
    freed = weakref.ref(steps)
    gc.disable()
    try:
        del steps
        assert freed() is None
    finally:
        gc.enable()
