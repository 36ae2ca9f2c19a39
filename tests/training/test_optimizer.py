"""The optimiser is AdamW with the warm-up and clipping that were asked for, over phases."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from toy_method import TRAINING, folder, make

from goskill.errors import InputError
from goskill.training import Trainer, TrainingSettings
from goskill.training.optimizer import ObjectiveOptimizer, learning_rate


def test_the_rate_warms_up_linearly_and_stays():
    settings = TrainingSettings(learning_rate=3e-4, warmup_iterations=5000)
    rates = [learning_rate(settings, steps, 1) for steps in (0, 1, 2499, 4999, 5000, 100_000)]
    assert rates == pytest.approx([3e-4 / 5000, 6e-4 / 5000, 1.5e-4, 3e-4, 3e-4, 3e-4])
    assert learning_rate(replace(settings, warmup_iterations=0), 0, 1) == 3e-4


def test_the_rate_falls_linearly_to_the_end_of_a_phase():
    settings = TrainingSettings(learning_rate=1e-3, warmup_iterations=4, decay_iterations=10)
    rates = [learning_rate(settings, 100 + done, 20 - done) for done in range(20)]
    assert rates == pytest.approx([1e-3] * 10 + [1e-3 * left / 10 for left in range(10, 0, -1)])
    # Where both ends of a short phase overlap the lower rate counts.
    rates = [learning_rate(settings, done, 6 - done) for done in range(6)]
    assert rates == pytest.approx([2.5e-4, 5e-4, 4e-4, 3e-4, 2e-4, 1e-4])


def test_the_rate_of_a_run_is_logged_and_falls_in_every_phase(tmp_path):
    settings = replace(TRAINING, learning_rate=1e-2, warmup_iterations=0, decay_iterations=4, log_every=1)
    run = folder(tmp_path / "run")
    method = make()
    Trainer(method, run, settings, progress=False).train()
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == sum(method.settings.iterations)
    for phase in {line["phase"] for line in lines}:
        rates = [
            [value for name, value in line.items() if name.endswith("/learning_rate")]
            for line in lines
            if line["phase"] == phase
        ]
        for left, found in enumerate(reversed(rates), 1):
            assert found
            assert found == pytest.approx([1e-2 * min(left / 4, 1)] * len(found))


def test_steps_are_those_of_adamw_written_out():
    """Against the textbook update in float64, clipping and warm-up included."""
    settings = TrainingSettings(learning_rate=0.1, warmup_iterations=3, gradient_clip=1.0, weight_decay=0.01)
    random = np.random.default_rng(0)
    weights = random.standard_normal(6)
    parameter = nn.Parameter(torch.tensor(weights, dtype=torch.float32))
    optimizer = ObjectiveOptimizer(settings.optimizer())
    optimizer.begin({"w": parameter})
    first, second = np.zeros(6), np.zeros(6)
    for step in range(1, 8):
        gradient = random.standard_normal(6) * 10.0 ** (step % 3 - 1)
        parameter.grad = torch.tensor(gradient, dtype=torch.float32)
        optimizer.set_learning_rate(left=1)
        norm = optimizer.step()
        optimizer.steps += 1
        expected_norm = np.linalg.norm(gradient)
        assert float(norm) == pytest.approx(expected_norm, rel=1e-5)
        gradient = gradient * min(1.0, 1.0 / (expected_norm + 1e-6))
        rate = 0.1 * min(step / 3, 1.0)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        weights = weights * (1 - rate * 0.01)
        weights = weights - rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        np.testing.assert_allclose(parameter.detach().numpy(), weights, rtol=1e-4, atol=1e-6)
        assert parameter.grad is None


def test_moments_go_on_over_a_phase_in_which_a_parameter_rests():
    settings = TrainingSettings(warmup_iterations=0, weight_decay=0.0)
    kept, resting = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    optimizer = ObjectiveOptimizer(settings.optimizer())
    optimizer.begin({"kept": kept, "resting": resting})
    kept.grad, resting.grad = torch.ones(3), torch.ones(2)
    optimizer.set_learning_rate(left=1)
    optimizer.step()
    before = {name: tensor.clone() for name, tensor in optimizer.tensors().items()}
    optimizer.begin({"kept": kept})
    kept.grad = torch.ones(3)
    optimizer.set_learning_rate(left=1)
    optimizer.step()
    optimizer.begin({"kept": kept, "resting": resting})
    after = optimizer.tensors()
    assert set(after) == set(before)
    assert torch.equal(after["resting/exp_avg"], before["resting/exp_avg"])
    assert (float(after["kept/step"]), float(after["resting/step"])) == (2.0, 1.0)


def test_frozen_parameters_are_left_alone(tmp_path):
    method = make()
    seen = []
    begin = method._begin_decode

    def remember():
        seen.append({key: tensor.clone() for key, tensor in method.encoder.linear.state_dict().items()})
        return begin()

    method._begin_decode = remember
    Trainer(method, folder(tmp_path / "run"), TRAINING, progress=False).train()
    for key, tensor in method.encoder.linear.state_dict().items():
        assert torch.equal(tensor, seen[0][key])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("gradient_clip", -1.0),
        ("weight_decay", -1e-4),
        ("warmup_iterations", -1),
        ("decay_iterations", -1),
        ("log_every", 0),
        ("checkpoint_every", 0),
        ("keep_checkpoints", 0),
        ("threads", -1),
        ("precision", "float8"),
        ("cuda_graphs", "perhaps"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(name, value):
    with pytest.raises(InputError, match=f"^{name}: expected .*, got {value!r}"):
        TrainingSettings(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("device", "quantum"),
        ("device", "meta"),
        ("device", "cuda:99"),
        ("precision", "tf32"),
        ("cuda_graphs", "on"),
    ],
)
def test_a_device_that_is_not_there_is_refused_by_name(name, value, tmp_path):
    with pytest.raises(InputError, match=name):
        Trainer(make(), folder(tmp_path / "run"), replace(TRAINING, **{name: value}), progress=False)
