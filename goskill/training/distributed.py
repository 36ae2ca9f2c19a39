"""Several ranks under torchrun: what training, samplers and losses need to know about each other.

Everything here also works, and does nothing, in a process of its own.
"""

from __future__ import annotations

import atexit
import gc
import os
from typing import Any, TypeVar

import torch
import torch.distributed

# DistributedDataParallel loads it, and loaded after the group was made it holds that for ever in default arguments.
import torch.distributed.nn.functional
from torch import Tensor

from goskill.errors import InputError

T = TypeVar("T")


def rank() -> int:
    """Which rank this is: 0 alone."""
    return int(os.environ.get("RANK", "0")) if world_size() > 1 else 0


def local_rank() -> int:
    """Which rank of this machine this is: 0 alone."""
    return int(os.environ.get("LOCAL_RANK", "0")) if world_size() > 1 else 0


def world_size() -> int:
    """How many ranks torchrun started: 1 alone."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "MASTER_ADDR" in os.environ else 1


def start(device: torch.device) -> None:
    """Join the other ranks, once. Alone this does nothing."""
    if world_size() == 1 or torch.distributed.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    atexit.register(_leave)


def _leave() -> None:
    """End the threads of the group: one that lets go of a tensor while Python ends would abort the process."""
    gc.collect()  # what is left of a DistributedDataParallel holds the group
    torch.distributed.destroy_process_group()


def share(batch_size: int) -> int:
    """A rank's part of a global batch. Raises InputError if the ranks cannot share it equally."""
    if batch_size % world_size():
        raise InputError(f"batch size: expected a multiple of the {world_size()} ranks, got {batch_size}")
    return batch_size // world_size()


def workers(count: int | None) -> int | None:
    """Worker processes of this rank: ``count`` if given, else alone None and among ranks its share of the cores."""
    if count is not None or world_size() == 1:
        return count
    return max(len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)


def average(value: Tensor) -> Tensor:
    """The mean of ``value`` over the ranks, without gradient."""
    if world_size() == 1:
        return value.detach()
    total = value.detach().clone()
    torch.distributed.all_reduce(total)
    return total / world_size()


def global_mean(total: Tensor, count: Tensor) -> Tensor:
    """A rank's share in the mean over the global batch: ``total`` over the ranks' mean ``count``.

    ``total`` is a sum (or several) over the entries of the rank's batch that count, ``count`` their number. The
    mean of the result over the ranks is the mean over the global batch, and averaged gradients are its
    gradient; where nothing counts it is 0. Alone it is the plain mean.
    """
    return total / average(count.float()).clamp(min=1 / world_size())


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether ``flag`` is True on any rank."""
    if world_size() == 1:
        return flag
    value = torch.tensor(float(flag), device=device)
    torch.distributed.all_reduce(value, op=torch.distributed.ReduceOp.MAX)
    return bool(value.item() > 0)


def gather(value: T) -> list[T]:
    """Every rank's ``value``, in the order of the ranks."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait until every rank is here."""
    if world_size() > 1:
        torch.distributed.barrier()
