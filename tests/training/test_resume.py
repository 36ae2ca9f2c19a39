"""A run that is stopped anywhere and resumed ends with the bits of one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_method import TRAINING, ToyMethod, ToySettings, folder, make

from goskill.errors import CheckpointError, InputError
from goskill.training import Checkpoints, DivergedError, RunFolder, Trainer
from goskill.training.checkpoint import state_checksum
from goskill.training.logs import Logs
from goskill.training.step import IterationStep


class Killed(BaseException):
    """Stands for a process that ends between two instructions."""


def final_bits(method: ToyMethod) -> dict[str, bytes]:
    return {
        f"{network}.{name}": tensor.numpy().tobytes()
        for network, module in method.modules.items()
        for name, tensor in module.state_dict().items()
    }


def metric_lines(run: RunFolder) -> list[dict]:
    lines = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if "second" not in name and "time/" not in name}
        for line in lines
    ]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory):
    method = make()
    run = folder(tmp_path_factory.mktemp("runs") / "whole")
    Trainer(method, run, TRAINING, progress=False).train()
    return final_bits(method), metric_lines(run), Checkpoints(run.checkpoints).newest()


@contextmanager
def before_each_iteration(trainer: Trainer, act):
    """Within, ``act`` is called before each iteration."""
    run = IterationStep.run

    def acting(step, iteration, left):
        act()
        run(step, iteration, left)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IterationStep, "run", acting)
        yield


def train_killed_at(path: Path, iterations: set[int], toy: ToySettings | None = None) -> ToyMethod:
    """Train with a kill before each of these iterations (of the whole run), resuming every time."""
    remaining = sorted(iterations)
    resume = False
    while True:
        method = make(toy)
        trainer = Trainer(method, folder(path, resume, toy=toy), TRAINING, progress=False)

        def maybe_kill(trainer=trainer):
            if remaining and trainer._step + 1 >= remaining[0]:
                remaining.pop(0)
                raise Killed

        try:
            with before_each_iteration(trainer, maybe_kill):
                trainer.train(resume=resume)
        except Killed:
            resume = True
        else:
            return method


@pytest.mark.parametrize("kills", [{1}, {9, 12}, {23}, {24}, {25, 40, 41}, {54}, set(range(2, 54, 4))])
def test_killed_at_known_iterations_and_resumed_gives_the_same_bits(kills, tmp_path, uninterrupted):
    bits, lines, checkpoint = uninterrupted
    method = train_killed_at(tmp_path / "run", kills)
    assert final_bits(method) == bits
    run = RunFolder.open(tmp_path / "run")
    assert metric_lines(run) == lines
    resumed = Checkpoints(run.checkpoints).newest()
    for name, tensor in checkpoint.optimizer_tensors().items():
        assert torch.equal(tensor, resumed.optimizer_tensors()[name])
    assert resumed.state["random"] == checkpoint.state["random"]


HELD_RUN = Path(__file__).parents[1] / "held_run.py"


def start(path: Path, held_at: int, *arguments: str) -> subprocess.Popen:
    program = Path(__file__).with_name("toy_method.py")
    return subprocess.Popen(
        [sys.executable, str(HELD_RUN), str(held_at), str(program), str(path), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def wait_for_step(run: RunFolder, step: int, process: subprocess.Popen) -> None:
    """Return once a checkpoint of at least this step is there, or the process has ended."""
    while True:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.02)
            return
        names = os.listdir(run.checkpoints) if run.checkpoints.is_dir() else []
        if any(name.startswith("step-") and int(name.split("-")[1]) >= step for name in names):
            return


@pytest.mark.parametrize(("first", "second"), [(0, 20), (10, 40)])
def test_killed_by_sigkill_and_resumed_gives_the_same_bits(first, second, tmp_path, uninterrupted):
    run = RunFolder(tmp_path / "run")
    for count, step in enumerate((first, second)):
        process = start(run.path, step + 8, *(["--resume"] if count else []))
        wait_for_step(run, step, process)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
    method = make()
    Trainer(method, folder(run.path, resume=True), TRAINING, progress=False).train(resume=True)
    assert final_bits(method) == uninterrupted[0]
    assert metric_lines(run) == uninterrupted[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_writes_a_checkpoint_of_where_the_run_was(number, tmp_path, uninterrupted):
    method = make()
    run = folder(tmp_path / "run")
    trainer = Trainer(method, run, TRAINING, progress=False)

    def send_signal():
        if trainer._step == 33:
            os.kill(os.getpid(), number)

    ends = KeyboardInterrupt if number == signal.SIGINT else SystemExit
    with before_each_iteration(trainer, send_signal), pytest.raises(ends) as raised:
        trainer.train()
    if number == signal.SIGTERM:
        assert raised.value.code == 143
    assert Checkpoints(run.checkpoints).newest().state["step"] == 34
    resumed = make()
    Trainer(resumed, folder(run.path, resume=True), TRAINING, progress=False).train(resume=True)
    assert final_bits(resumed) == uninterrupted[0]


@pytest.mark.parametrize("nohup", [True, False])
def test_when_its_terminal_closes_a_run_stops_with_a_checkpoint_but_under_nohup(
    nohup, tmp_path, uninterrupted
):
    method = make()
    run = folder(tmp_path / "run")
    trainer = Trainer(method, run, TRAINING, progress=False)

    def close_terminal():
        if trainer._step == 33:
            os.kill(os.getpid(), signal.SIGHUP)

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)
    try:
        with before_each_iteration(trainer, close_terminal):
            if nohup:
                trainer.train()
                assert final_bits(method) == uninterrupted[0]
                return
            with pytest.raises(SystemExit) as raised:
                trainer.train()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert raised.value.code == 129
    assert Checkpoints(run.checkpoints).newest().state["step"] == 34


# Spikes at steps 12 and 35, each in the first read after a checkpoint; codes that come and go.
EVENTFUL = ToySettings(spike_at=11, codes=4)


def event_lines(run: RunFolder) -> list[dict]:
    return [json.loads(line) for line in run.events_file.read_text().splitlines()]


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory):
    run = folder(tmp_path_factory.mktemp("runs") / "eventful", toy=EVENTFUL)
    Trainer(make(EVENTFUL), run, TRAINING, progress=False).train()
    found = event_lines(run)
    assert {12, 35} <= {event["step"] for event in found if event["event"] == "loss spike"}
    assert sum(event["event"] == "dead codes" for event in found) >= 4
    return found


@pytest.mark.parametrize("kills", [{11}, {12, 36}, {31, 35}, set(range(2, 54, 4))])
def test_killed_and_resumed_logs_the_same_events(kills, tmp_path, events):
    train_killed_at(tmp_path / "run", kills, EVENTFUL)
    assert event_lines(RunFolder.open(tmp_path / "run")) == events


@pytest.mark.parametrize("stops", [(33,), (35,), (11, 32, 33, 36)])
def test_stopped_between_two_reads_and_resumed_logs_the_same_events(stops, tmp_path, events):
    for count, stop in enumerate(stops):
        run = folder(tmp_path / "run", resume=count > 0, toy=EVENTFUL)
        trainer = Trainer(make(EVENTFUL), run, TRAINING, progress=False)

        def interrupt(trainer=trainer, stop=stop):
            if trainer._step == stop - 1:
                os.kill(os.getpid(), signal.SIGINT)

        with before_each_iteration(trainer, interrupt), pytest.raises(KeyboardInterrupt):
            trainer.train(resume=count > 0)
        assert Checkpoints(run.checkpoints).newest().state["step"] == stop
    run = folder(tmp_path / "run", resume=True, toy=EVENTFUL)
    Trainer(make(EVENTFUL), run, TRAINING, progress=False).train(resume=True)
    assert event_lines(run) == events


def test_a_checkpoint_from_before_the_watch_was_kept_goes_on(tmp_path, uninterrupted):
    run, method = folder(tmp_path / "run"), make()
    trainer = Trainer(method, run, TRAINING, progress=False)

    def end():
        if trainer._step == 33:
            raise Killed

    with before_each_iteration(trainer, end), pytest.raises(Killed):
        trainer.train()
    file = Checkpoints(run.checkpoints).newest_path() / "state.json"
    state = json.loads(file.read_text())
    del state["watch"]
    state["checksum"] = state_checksum(state)
    file.write_text(json.dumps(state))
    method = make()
    Trainer(method, folder(run.path, resume=True), TRAINING, progress=False).train(resume=True)
    assert final_bits(method) == uninterrupted[0]
    assert metric_lines(run) == uninterrupted[1]


def test_finished_phases_do_not_begin_again_and_a_finished_run_stays_as_it_is(tmp_path, uninterrupted):
    method = train_killed_at(tmp_path / "run", {30})
    assert method.begun == ["decode"]
    again = make()
    Trainer(again, folder(tmp_path / "run", resume=True), TRAINING, progress=False).train(resume=True)
    assert again.begun == []
    assert final_bits(again) == uninterrupted[0]


def test_another_configuration_is_refused_naming_the_setting(tmp_path):
    run = folder(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"training\.learning_rate was 0\.01 .* is 0\.5 now"):
        folder(run.path, resume=True, training=replace(TRAINING, learning_rate=0.5))
    folder(run.path, resume=True, training=replace(TRAINING, threads=2, log_every=1, keep_checkpoints=5))
    with pytest.raises(CheckpointError, match=r"toy\.poison_at was -1 .* is absent now"):
        RunFolder.create(
            run.path, {"toy": {"iterations": [23, 31], "dropout": 0.3}, "training": TRAINING}, resume=True
        )


def test_a_run_from_before_a_setting_goes_on_where_it_changes_nothing(tmp_path):
    run = folder(tmp_path / "run", training=replace(TRAINING, decay_iterations=0))
    settings = json.loads(run.settings_file.read_text())
    del settings["training"]["decay_iterations"]
    run.settings_file.write_text(json.dumps(settings))
    folder(run.path, resume=True, training=replace(TRAINING, decay_iterations=0))
    with pytest.raises(CheckpointError, match=r"training\.decay_iterations was 0 .* is 9 now"):
        folder(run.path, resume=True, training=replace(TRAINING, decay_iterations=9))


def test_a_checkpoint_of_other_phases_or_shapes_is_refused(tmp_path):
    run = folder(tmp_path / "run")
    Trainer(make(), run, TRAINING, progress=False).train()
    for iterations in ((22, 31), (23, 30), (24, 31)):
        with pytest.raises(CheckpointError, match="phases"):
            Trainer(make(ToySettings(iterations)), run, TRAINING, progress=False).train(resume=True)
    wider = make()
    wider.other = torch.nn.Linear(6, 1)
    with pytest.raises(CheckpointError, match=r"'other': weight is \(1, 5\) in the checkpoint and \(1, 6\)"):
        Trainer(wider, run, TRAINING, progress=False).train(resume=True)


def test_a_finished_run_made_longer_ends_as_one_that_was_longer_from_the_start(tmp_path):
    training = replace(TRAINING, decay_iterations=0)
    longer = ToySettings((23, 40))
    whole = make(longer)
    Trainer(whole, folder(tmp_path / "whole", training=training), training, progress=False).train()
    Trainer(make(), folder(tmp_path / "run", training=training), training, progress=False).train()
    extended = make(longer)
    run = folder(tmp_path / "run", resume=True, training=training)
    Trainer(extended, run, training, progress=False).train(resume=True)
    assert final_bits(extended) == final_bits(whole)


def test_a_folder_with_something_in_it_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(InputError, match=str(tmp_path)):
        folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(InputError, match="is not a run folder"):
        folder(tmp_path / "absent", resume=True)


def test_two_trainers_in_one_folder_are_refused(tmp_path):
    run = folder(tmp_path / "run")
    with run.lock(), pytest.raises(InputError, match=f"pid {os.getpid()}"):
        Trainer(make(), run, TRAINING, progress=False).train()
    Trainer(make(), run, TRAINING, progress=False).train()


def test_a_loss_that_is_not_a_number_ends_the_run_naming_where(tmp_path):
    run = folder(tmp_path / "run")
    with pytest.raises(
        DivergedError, match=r"'skill' became NaN at step 18: iteration 18 of phase 'encode', batch 17 of its"
    ):
        Trainer(make(ToySettings(poison_at=17)), run, TRAINING, progress=False).train()
    newest = Checkpoints(run.checkpoints).newest()
    assert newest.state["step"] == 10
    method = make()
    newest.load_modules(method.modules)
    assert all(
        torch.isfinite(tensor).all() for m in method.modules.values() for tensor in m.state_dict().values()
    )
    event = json.loads(run.events_file.read_text())
    assert (event["event"], event["step"]) == ("diverged", 18)


def test_a_batch_is_counted_from_the_beginning_of_its_phase(tmp_path):
    trainer = Trainer(make(ToySettings(poison_at=25)), folder(tmp_path / "run"), TRAINING, progress=False)
    with pytest.raises(DivergedError, match=r"step 49: iteration 26 of phase 'decode', batch 25 of its"):
        trainer.train()


def test_metrics_are_means_since_the_line_before(uninterrupted):
    lines = uninterrupted[1]
    assert [line["step"] for line in lines] == [7, 10, 14, 20, 21, 23, 30, 37, 40, 44, 50, 51, 54]
    batches = [
        np.random.default_rng([1, step]).standard_normal((8, 5)).astype(np.float32) for step in range(23)
    ]
    expected = np.mean([np.abs(batch).max() for batch in batches[14:20]])
    assert lines[3]["skill/largest"] == pytest.approx(expected, rel=1e-6)
    assert "other/loss" in lines[-1]
    assert "other/loss" not in lines[0]


def test_events_of_a_resumed_run_are_read_last(tmp_path):
    """TensorBoard reads files in the order of their names: a second, a host, a process."""
    run = RunFolder.create(tmp_path / "run", {})
    run.tensorboard.mkdir()
    (run.tensorboard / f"events.out.tfevents.{int(time.time())}.~.9.0").touch()
    Logs(run, {}, 0).close()
    first, last = sorted(file.name for file in run.tensorboard.iterdir())
    assert first.endswith(".~.9.0")
    assert int(last.split(".")[3]) > int(first.split(".")[3])


def test_tensorboard_has_every_line_once_after_a_resume(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train_killed_at(tmp_path / "run", {16, 33})
    run = RunFolder.open(tmp_path / "run")
    accumulator = EventAccumulator(str(run.tensorboard)).Reload()
    steps = [scalar.step for scalar in accumulator.Scalars("skill/loss")]
    assert steps == [line["step"] for line in metric_lines(run)]
