"""Steps of Adam and AdamW on the CPU: one call for all parameters, which clips and measures their gradients too."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from goskill import _core


def fits(parameters: Sequence[nn.Parameter]) -> bool:
    """Whether :func:`step` can update them: contiguous float32 on the CPU."""
    return all(
        parameter.dtype == torch.float32 and parameter.device.type == "cpu" and parameter.is_contiguous()
        for parameter in parameters
    )


def step(optimizer: torch.optim.Optimizer, clip: float | None) -> Tensor:
    """What ``optimizer.step()`` of ``torch.optim.Adam`` or ``AdamW`` does, to rounding, with its state and settings.

    Gradients are clipped to the norm ``clip`` if there is one, as ``clip_grad_norm_`` does, but stay as they are.
    Returns the norm before clipping, float32 [].
    """
    (group,) = optimizer.param_groups
    trained = [parameter for parameter in group["params"] if parameter.grad is not None]
    gradients = [parameter.grad.contiguous() for parameter in trained]
    addresses = []
    for parameter, gradient in zip(trained, gradients, strict=True):
        state = optimizer.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device="cpu")
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        tensors = (parameter, gradient, state["exp_avg"], state["exp_avg_sq"], state["step"])
        addresses.append(tuple(tensor.data_ptr() for tensor in tensors))
    beta1, beta2 = group["betas"]
    norm = _core.adam(
        parameters=addresses,
        sizes=[gradient.numel() for gradient in gradients],
        learning_rate=group["lr"],
        beta1=beta1,
        beta2=beta2,
        epsilon=group["eps"],
        weight_decay=group["weight_decay"],
        decoupled=isinstance(optimizer, torch.optim.AdamW),
        clip=clip,
        threads=torch.get_num_threads(),
    )
    torch.autograd.graph.increment_version(trained)  # as PyTorch's own step does
    return torch.tensor(norm, dtype=torch.float32, device="cpu")
