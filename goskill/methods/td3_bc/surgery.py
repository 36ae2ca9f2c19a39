"""PCGrad: the tasks' gradients of one batch in one vectorised backward pass, and their conflicts projected out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from goskill.training import Batch

Loss = Callable[[Batch], tuple[Tensor, dict[str, Tensor]]]


def project_conflicting(gradients: Tensor, order: Tensor) -> Tensor:
    """The sum of the tasks' gradients [T, P], each without its conflicts with the others (Yu et al., Algorithm 1).

    Row i of ``order`` int64 [T, T] is the order in which task i's gradient is held against those of all tasks (itself
    changes nothing): where the inner product with the other's original gradient is negative, its projection on it is
    subtracted. Returns [P].
    """
    # Whatever is projected stays a combination of the original gradients, so that their inner products say all.
    with torch.autocast(gradients.device.type, enabled=False):
        inner_products = gradients @ gradients.T
        squares = inner_products.diagonal().clamp(min=1e-12)
        every = torch.eye(len(gradients), dtype=gradients.dtype, device=gradients.device)
        weights = every  # of the original gradients in each task's
        for step in range(order.shape[1]):
            against = order[:, step]
            inner = (weights * inner_products.index_select(0, against)).sum(1).clamp(max=0)
            itself = against == torch.arange(len(against), device=against.device)
            share = inner.masked_fill(itself, 0.0) / squares.index_select(0, against)
            weights = weights - share[:, None] * every.index_select(0, against)
        return weights.sum(0) @ gradients


class SurgeryLoss(nn.Module):
    """A loss whose gradient is the tasks' mean with conflicts projected out.

    The batch holds equally many samples of every task, one task after the other
    (``TransitionSampler(samples_per_task=...)``). ``trained`` are the modules whose gradients are meant; the value and
    the metrics are those of ``loss``.
    """

    def __init__(self, loss: nn.Module, trained: Mapping[str, nn.Module], tasks: int) -> None:
        super().__init__()
        self.loss, self.tasks = loss, tasks
        prefixes = tuple(f"{name}." for name in trained)
        self._names = [name for name, _ in loss.named_parameters() if name.startswith(prefixes)]

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a whole batch; its gradient is the projected one."""
        parameters = {name: value for name, value in self.loss.named_parameters() if name in set(self._names)}
        by_task = {
            name: value.view(self.tasks, len(value) // self.tasks, *value.shape[1:])
            for name, value in batch.items()
        }

        def of_one(trained: dict[str, Tensor], rows: Batch) -> tuple[Tensor, dict[str, Tensor]]:
            found: tuple[Tensor, dict[str, Tensor]] = functional_call(self.loss, trained, (rows,))
            return found

        detached = {name: value.detach() for name, value in parameters.items()}
        differentiate = vmap(grad_and_value(of_one, has_aux=True), in_dims=(None, 0), randomness="different")
        gradients, (losses, metrics) = differentiate(detached, by_task)
        flat = torch.cat([gradients[name].flatten(1) for name in parameters], dim=1)
        order = torch.rand(self.tasks, self.tasks, device=flat.device).argsort(1)
        projected = project_conflicting(flat, order) / self.tasks
        weights = torch.cat([value.flatten() for value in parameters.values()])
        # Its gradient is ``projected``, its value the loss.
        surrogate = (weights * projected).sum()
        total = losses.mean() + surrogate - surrogate.detach()
        return total, {name: value.mean(0) for name, value in metrics.items()}


def with_surgery(loss: nn.Module, trained: Sequence[str], tasks: int) -> SurgeryLoss:
    """``loss`` with gradient surgery over the parameters of these submodules of it, such as ``networks.critic``."""
    modules = {name: loss.get_submodule(name) for name in trained}
    return SurgeryLoss(loss, modules, tasks)
