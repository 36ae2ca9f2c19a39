"""One rank of test_codebook_on_ranks.py: quantises its share of the batches and saves what it then holds."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed

from goskill.nn import VectorQuantize

STEPS, ROWS, DIM, CODES = 5, 60, 6, 7


def batches() -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [steps, rows, D] and which of them count; the second half has few that do."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(STEPS, ROWS, DIM, generator=generator)
    mask = torch.rand(STEPS, ROWS, generator=generator) > 0.3
    mask[:, ROWS // 2 + 2 :] = False
    return x, mask


def quantizer(threshold: int) -> VectorQuantize:
    torch.manual_seed(0)
    return VectorQuantize(DIM, CODES, kmeans_init=True, threshold_ema_dead_code=threshold)


def train(module: VectorQuantize, rank: int, world: int) -> None:
    share = slice(rank * ROWS // world, (rank + 1) * ROWS // world)
    x, mask = batches()
    for step in range(STEPS):
        module(x[step, share], mask=mask[step, share])


def main(folder: Path) -> None:
    torch.distributed.init_process_group("gloo")
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    for threshold in (0, 9):
        module = quantizer(threshold)
        train(module, rank, world)
        torch.save(module.state_dict(), folder / f"{threshold}-{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
