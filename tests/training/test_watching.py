"""What a person can see of a run: precision said, events, time shares, traces, W&B."""

from __future__ import annotations

import functools
import json
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_method import TRAINING, ToySettings, folder, make

from goskill.errors import InputError
from goskill.training import Trainer, devices
from goskill.training.metrics import Watch
from goskill.training.timing import PARTS, StepTimer

NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def train(path, toy=None, **changes):
    settings = replace(TRAINING, **changes)
    method, run = make(toy), folder(path / "run", training=settings)
    trainer = Trainer(method, run, settings, progress=False)
    trainer.train()
    return method, run, trainer


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_time_shares_name_every_part_and_sum_to_one(tmp_path):
    _, run, _ = train(tmp_path)
    for line in lines(run.metrics_file):
        shares = {
            name.removeprefix("time/"): value for name, value in line.items() if name.startswith("time/")
        }
        assert set(shares) == set(PARTS) - {"step", "interaction"}
        assert sum(shares.values()) == pytest.approx(1.0)
        assert line["samples_per_second"] > line["steps_per_second"]


def test_the_timer_adds_up_what_lies_between_marks(monkeypatch):
    times = iter([0.0, 1.0, 4.0, 10.0, 11.0, 13.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    timer = StepTimer(torch.device("cpu"))
    for part in ("sampling", "forward", None, "sampling", "forward", None):
        timer.mark(part)
    assert timer.read() == {"sampling": 2 / 7, "forward": 5 / 7}
    assert timer.read() == {}


def test_a_profile_is_a_trace_per_phase(tmp_path):
    _, run, _ = train(tmp_path, ToySettings(iterations=(23, 3)), profile=True)
    assert sorted(path.name for path in run.profile.iterdir()) == ["decode.json", "encode.json"]
    for phase in ("encode", "decode"):  # the second is shorter than what is recorded
        events = json.loads((run.profile / f"{phase}.json").read_text())["traceEvents"]
        assert any("linear" in event.get("name", "") for event in events)


def test_spikes_and_dead_codes_are_events():
    watch, names = Watch(), ("loss", "gradient_norm", "usage/0", "usage/1", "usage/2")
    usual = np.array([[1.0, 1, 0.5, 0, 0.5], [1.1, 1, 0, 1, 0], [1.0, 1, 1, 0, 0]], dtype=np.float32)
    spiked = np.array([[1.0, 1, 0, 1, 0], [1.7, 1, 0, 1, 0], [1.0, 1, 0, 1, 0]], dtype=np.float32)
    assert list(watch.look("skill", names, usual)) == []
    events = list(watch.look("skill", names, spiked))
    assert [(event["event"], event["ago"]) for event in events] == [("loss spike", 1), ("dead codes", 0)]
    assert "1.7" in events[0]["message"]
    assert events[1]["message"].endswith("nothing chose in 3 iterations: 0, 2")
    (alive,) = watch.look("skill", names, usual)
    assert alive["message"].endswith(": none")


def test_events_name_the_step_they_happened_at(tmp_path):
    _, run, _ = train(tmp_path, ToySettings(spike_at=17))
    event = lines(run.events_file)[0]
    assert (event["step"], event["event"], event["phase"]) == (18, "loss spike", "encode")


def test_a_vector_is_a_list_in_the_lines_and_scalars_elsewhere(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, run, _ = train(tmp_path)
    logged = lines(run.metrics_file)
    first = np.random.default_rng([1, 0]).standard_normal((8, 5)).astype(np.float32)
    _, single, _ = train(tmp_path / "single", log_every=1)
    assert lines(single.metrics_file)[0]["skill/means"] == pytest.approx(first.mean(0), rel=1e-5)
    accumulator = EventAccumulator(str(run.tensorboard)).Reload()
    for index in range(5):
        drawn = [scalar.value for scalar in accumulator.Scalars(f"skill/means/{index}")]
        assert drawn == pytest.approx([line["skill/means"][index] for line in logged])


def test_wandb_gets_every_line(tmp_path, monkeypatch):
    logged, given = [], {}
    stub = types.ModuleType("wandb")
    stub.init = lambda **arguments: given.update(arguments) or stub
    stub.log = lambda scalars, step: logged.append((step, scalars["skill/loss"]))
    stub.finish = lambda: given.update(finished=True)
    monkeypatch.setitem(sys.modules, "wandb", stub)
    _, run, _ = train(tmp_path, wandb="skills")
    assert logged == [(line["step"], line["skill/loss"]) for line in lines(run.metrics_file)]
    assert (given["project"], given["finished"], given["config"]) == ("skills", True, run.settings)


def test_wandb_that_is_not_installed_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"goskill\[wandb\]"):
        train(tmp_path, wandb="skills")


@pytest.mark.parametrize(("fast", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_the_precision_is_chosen_by_looking_and_said(fast, precision, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(devices, "fast_at_bfloat16", lambda device: fast)
    settings = replace(TRAINING, precision="auto")
    Trainer(make(), folder(tmp_path / "run", training=settings), settings).train()
    assert f"training on cpu (1 thread), {precision}" in capsys.readouterr().err


def test_bfloat16_reaches_the_losses_of_float32(tmp_path):
    _, exact, _ = train(tmp_path / "a")
    _, rounded, _ = train(tmp_path / "b", precision="bfloat16")
    for there, here in zip(lines(exact.metrics_file), lines(rounded.metrics_file), strict=True):
        assert here["skill/loss"] != there["skill/loss"]
        assert here["skill/loss"] == pytest.approx(there["skill/loss"], rel=0.02)


def test_compiled_losses_train_to_the_same_weights(tmp_path, monkeypatch):
    plain, *_ = train(tmp_path / "a")
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    compiled, *_ = train(tmp_path / "b", compile=True)
    for name, module in plain.modules.items():
        for key, tensor in module.state_dict().items():
            torch.testing.assert_close(compiled.modules[name].state_dict()[key], tensor)


@pytest.mark.gpu
@NEEDS_GPU
def test_whole_step_graphs_train_to_the_weights_of_eager_steps(tmp_path):
    toy = ToySettings(dropout=0.0)
    eager, *_ = train(tmp_path / "a", toy, device="cuda", cuda_graphs="off")
    graphed, _, trainer = train(tmp_path / "b", toy, device="cuda", cuda_graphs="on")
    assert trainer._execution.graphs
    for name, module in eager.modules.items():
        for key, tensor in module.state_dict().items():
            torch.testing.assert_close(graphed.modules[name].state_dict()[key], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@NEEDS_GPU
def test_a_step_does_not_wait_for_the_gpu_between_reads(tmp_path):
    """Raises inside PyTorch at the first synchronisation."""
    from goskill.training.step import IterationStep

    run = IterationStep.run

    def strict(step, iteration, left):
        torch.cuda.set_sync_debug_mode("error")
        try:
            run(step, iteration, left)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IterationStep, "run", strict)
        train(tmp_path, device="cuda", cuda_graphs="off")
