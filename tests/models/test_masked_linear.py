"""Masked linear layers: bits, and one batched product equal to a masked copy for each task."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from goskill.models import CausalTransformer
from goskill.models.masked_linear import (
    MaskedLinear,
    mask_transformer,
    masked_layers,
    pack_bits,
    unpack_bits,
)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 61])
def test_bits_are_numpys(count: int) -> None:
    values = np.random.default_rng(0).random((3, count)) < 0.5
    bits = pack_bits(torch.from_numpy(values))
    np.testing.assert_array_equal(bits.numpy(), np.packbits(values, axis=1, bitorder="little"))
    np.testing.assert_array_equal(unpack_bits(bits, count).numpy(), values)


def test_one_product_equals_a_masked_copy_for_each_task_and_so_do_its_gradients() -> None:
    torch.manual_seed(0)
    layer = MaskedLinear(5, 3, tasks=4).double()
    layer.set_mask(torch.rand(4, 3, 5) < 0.6)
    layer.order = torch.tensor([2, 0, 3])
    x = torch.randn(6, 7, 5, dtype=torch.float64, requires_grad=True)
    result = layer(x)
    result.square().sum().backward()
    weight = layer.weight.detach().clone().requires_grad_()
    again = x.detach().clone().requires_grad_()
    parts = [
        F.linear(again[2 * i : 2 * i + 2], weight * layer.mask[t], layer.bias.detach())
        for i, t in enumerate((2, 0, 3))
    ]
    torch.cat(parts).square().sum().backward()
    torch.testing.assert_close(result, torch.cat(parts))
    torch.testing.assert_close(layer.weight.grad, weight.grad)
    torch.testing.assert_close(x.grad, again.grad)


def test_a_state_dict_holds_masks_as_bits_and_gives_them_back() -> None:
    first, second = (CausalTransformer(8, 2, 2, 0.0) for _ in range(2))
    for one in (first, second):
        mask_transformer(one, 3)
    for layer in masked_layers(first):
        layer.set_mask(torch.rand(layer.mask.shape) < 0.5)
    state = first.state_dict()
    held = [name for name, value in state.items() if "mask" in name]
    assert len(held) == 8
    assert all(name.endswith("mask_bits") and state[name].dtype == torch.uint8 for name in held)
    second.load_state_dict(state)
    for mine, theirs in zip(masked_layers(first), masked_layers(second), strict=True):
        assert torch.equal(mine.mask, theirs.mask)
        assert not mine.mask.all()
