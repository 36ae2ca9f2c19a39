"""Samplers in loaders: the stream of no workers, in every epoch and after every resume."""

from __future__ import annotations

import gc
import pickle
import warnings
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from goskill.data import ContextSampler, EpisodeStore, SegmentSampler, TransitionSampler
from goskill.data.mixed_sampler import MixedSampler
from goskill.data.replay import ReplayBuffer, ReplaySampler
from goskill.data.sampler import StoreSampler
from goskill.errors import InputError

stateful = pytest.importorskip("torchdata.stateful_dataloader", reason="needs torchdata")


def segments(store: EpisodeStore) -> StoreSampler:
    return SegmentSampler(store, 4, 4, seed=3)


def contexts(store: EpisodeStore) -> StoreSampler:
    return ContextSampler(store, 4, 3, 2, 4, seed=3)


def transitions(store: EpisodeStore) -> StoreSampler:
    return TransitionSampler(store, 4, terminated="never", columns=["sub_task"], seed=3)


@pytest.fixture(scope="module")
def numbers(declaring: EpisodeStore) -> dict[tuple[int, ...], int]:
    """The step of a batch of any of these samplers."""
    return {
        known(make(declaring).batch(step)): step
        for make in (segments, contexts, transitions)
        for step in range(60)
    }


def known(batch: dict[str, torch.Tensor]) -> tuple[int, ...]:
    return (len(batch), *batch["episode"].tolist(), *batch["start"].tolist())


WORKERS = [
    {"num_workers": 0},
    {"num_workers": 2},
    {"num_workers": 2, "persistent_workers": True},
    {"num_workers": 3, "prefetch_factor": 4, "persistent_workers": True},
    {"num_workers": 1},
]


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("make", [segments, contexts, transitions])
def test_every_epoch_goes_on_where_the_consumer_stopped(declaring, numbers, make, workers: dict) -> None:
    sampler = make(declaring)
    loader = DataLoader(sampler, batch_size=None, **workers)
    seen: list[int] = []
    for epoch in (5, 1, 0, 3):
        seen += [numbers[known(batch)] for batch in islice(loader, epoch)]
        assert seen == list(range(len(seen)))
        assert sampler.state_dict() == {"step": len(seen), "seed": 3}


def test_epochs_go_on_in_workers_that_are_spawned(declaring, numbers) -> None:
    loader = DataLoader(
        segments(declaring),
        batch_size=None,
        num_workers=1,
        multiprocessing_context="spawn",
        persistent_workers=True,
    )
    assert [[numbers[known(b)] for b in islice(loader, 3)] for _ in range(2)] == [[0, 1, 2], [3, 4, 5]]


def test_a_loop_that_skips_what_it_takes_has_taken_it(declaring) -> None:
    sampler = segments(declaring)
    iterator = iter(DataLoader(sampler, batch_size=None, num_workers=2))
    for taken in range(1, 8):
        next(iterator)
        assert sampler.state_dict()["step"] == taken


@pytest.mark.parametrize("workers", WORKERS[:3])
def test_a_sampler_resumes_where_its_loader_stopped(declaring, numbers, workers: dict) -> None:
    sampler = segments(declaring)
    list(islice(DataLoader(sampler, batch_size=None, **workers), 7))
    state = sampler.state_dict()
    resumed = SegmentSampler(declaring, 4, 4, seed=0)
    loader = DataLoader(resumed, batch_size=None, **workers)
    list(islice(loader, 1))  # workers of another seed
    resumed.load_state_dict(state)
    for epoch in range(2):
        found = [numbers[known(batch)] for batch in islice(loader, 3)]
        assert found == [7 + 3 * epoch + i for i in range(3)]


def test_moving_a_sampler_under_its_workers_is_an_error(declaring) -> None:
    sampler = segments(declaring)
    loader = DataLoader(sampler, batch_size=None, num_workers=2)
    iterator = iter(loader)
    next(iterator)
    sampler.load_state_dict({"step": 20, "seed": 3})
    with pytest.raises(InputError, match=r"moved from step 1 to 20 .*: begin again with iter\(loader\)"):
        next(iterator)
    assert known(next(iter(loader))) == known(sampler.batch(20))


def test_batches_of_batches_are_refused_with_workers(declaring) -> None:
    with pytest.raises(InputError, match="batch_size=None"):
        next(iter(DataLoader(segments(declaring), batch_size=2, num_workers=2)))
    batch = next(iter(DataLoader(segments(declaring), num_workers=2)))
    assert batch["observations"].shape[0] == 1  # torch's own default adds an axis


def test_an_order_that_is_not_the_streams_is_said(declaring) -> None:
    with pytest.warns(RuntimeWarning, match="in_order=False"):
        iter(DataLoader(segments(declaring), batch_size=None, num_workers=2, in_order=False))


class Wrapped(IterableDataset):
    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[Any]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            iterator = iter(self.sampler)
        yield [str(warning.message) for warning in caught]
        yield from iterator


def test_a_sampler_that_another_dataset_reads_in_workers_says_so(declaring) -> None:
    loader = DataLoader(Wrapped(segments(declaring)), batch_size=None, num_workers=1)
    (message,) = next(iter(loader))
    assert "read by another dataset" in message
    assert next(iter(DataLoader(Wrapped(segments(declaring)), batch_size=None))) == []


def test_samplers_that_workers_cannot_read_refuse_it(declaring) -> None:
    """Without a copy that counts along, each worker would give all batches."""
    buffer = ReplayBuffer(8, 3, 2)
    for sampler in (ReplaySampler(buffer, 4), MixedSampler([segments(declaring)])):
        loader = DataLoader(Wrapped(sampler), batch_size=None, num_workers=1)
        with pytest.raises(
            InputError, match=rf"{type(sampler).__name__}: expected to be read by the loop itself"
        ):
            next(iter(loader))


def test_other_datasets_load_as_before() -> None:
    class Numbers(IterableDataset):
        def __iter__(self) -> Iterator[int]:
            return iter(range(4))

    loader = DataLoader(Numbers(), batch_size=None, num_workers=1, persistent_workers=True)
    assert [list(loader), list(loader)] == [[0, 1, 2, 3]] * 2


def test_a_copy_of_a_sampler_has_a_position_of_its_own(declaring, numbers) -> None:
    sampler = segments(declaring)
    copy = pickle.loads(pickle.dumps(sampler))
    loaders = [
        DataLoader(s, batch_size=None, num_workers=1, persistent_workers=True) for s in (sampler, copy)
    ]
    for first in (0, 2):
        for loader in loaders:
            assert [numbers[known(batch)] for batch in islice(loader, 2)] == [first, first + 1]
    gc.collect()


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("workers", WORKERS)
def test_a_stateful_loader_resumes_in_the_middle(declaring, numbers, workers: dict, every: int) -> None:
    def loader() -> Any:
        return stateful.StatefulDataLoader(
            segments(declaring), batch_size=None, snapshot_every_n_steps=every, **workers
        )

    first = loader()
    iterator = iter(first)
    for _ in range(7):
        next(iterator)
    state = first.state_dict()
    assert [numbers[known(next(iterator))] for _ in range(5)] == list(range(7, 12))
    resumed = loader()
    resumed.load_state_dict(state)
    iterator = iter(resumed)
    assert [numbers[known(next(iterator))] for _ in range(5)] == list(range(7, 12))
    if every == 1 or not workers["num_workers"]:
        assert resumed.dataset.state_dict()["step"] == 12
    for first_of_epoch in (12, 15):
        assert [numbers[known(b)] for b in islice(resumed, 3)] == [first_of_epoch + i for i in range(3)]


def test_a_state_of_another_number_of_workers_is_refused(declaring) -> None:
    def loader(workers: int) -> Any:
        return stateful.StatefulDataLoader(segments(declaring), batch_size=None, num_workers=workers)

    first = loader(2)
    next(iter(first))
    other = loader(3)
    other.load_state_dict(first.state_dict())
    with pytest.raises(Exception, match="expected the state of a loader with 3 workers, got one of 2"):
        next(iter(other))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("package", ["accelerate.data_loader", "lightning.pytorch.loops", "mine"])
def test_a_loop_that_fetches_ahead_is_warned_of(declaring: EpisodeStore, package: str, workers: int) -> None:
    """A function whose globals are those of that package stands for its loop."""
    loop: dict[str, Any] = {"__name__": package}
    exec("def first(loader):\n    for batch in loader:\n        return batch", loop)
    loader = DataLoader(segments(declaring), batch_size=None, num_workers=workers)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        loop["first"](loader)
    named = [
        str(warning.message) for warning in told if "before the last one is used" in str(warning.message)
    ]
    assert [words.partition(" ")[0] for words in named] == (
        [] if package == "mine" else [package.partition(".")[0]]
    )
