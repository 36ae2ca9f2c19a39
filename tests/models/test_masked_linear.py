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
from goskill.ops.masking import mask_weights, sum_masked


@pytest.mark.parametrize("count", [1, 7, 8, 9, 61])
def test_bits_are_numpys(count: int) -> None:
    values = np.random.default_rng(0).random((3, count)) < 0.5
    bits = pack_bits(torch.from_numpy(values))
    np.testing.assert_array_equal(bits.numpy(), np.packbits(values, axis=1, bitorder="little"))
    np.testing.assert_array_equal(unpack_bits(bits, count).numpy(), values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_product_equals_a_masked_copy_for_each_task_and_so_do_its_gradients(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = MaskedLinear(5, 3, tasks=4).to(dtype)
    layer.set_mask(torch.rand(4, 3, 5) < 0.6)
    layer.order = torch.tensor([2, 0, 3])
    x = torch.randn(6, 7, 5, dtype=dtype, requires_grad=True)
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


@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (3, 5), (16, 8), (37, 113)])
def test_weights_are_masked_and_gradients_summed_in_cpp_as_numpy_does(outputs: int, inputs: int) -> None:
    random = np.random.default_rng(0)
    weights = random.standard_normal((outputs, inputs), dtype=np.float32)
    masks = random.random((5, outputs, inputs)) < 0.5
    order = np.array([4, 0, 0, 2])
    gradients = random.standard_normal((4, outputs, inputs), dtype=np.float32)
    masked = mask_weights(*map(torch.from_numpy, (weights, masks, order)))
    np.testing.assert_array_equal(masked.numpy(), weights * masks[order])
    summed = sum_masked(*map(torch.from_numpy, (gradients, masks, order)))
    np.testing.assert_allclose(summed.numpy(), (gradients * masks[order]).sum(0), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision_are_those_rounded_and_their_gradients_are_summed_in_float32(
    dtype: torch.dtype,
) -> None:
    torch.manual_seed(0)
    weights, masks, order = torch.randn(37, 113), torch.rand(5, 37, 113) < 0.5, torch.tensor([4, 0, 0, 2])
    masked = mask_weights(weights, masks, order, dtype)
    assert torch.equal(masked, weights.to(dtype) * masks[order])
    gradients = torch.randn(4, 37, 113).to(dtype)
    expected = (gradients.float() * masks[order]).sum(0)
    torch.testing.assert_close(sum_masked(gradients, masks, order), expected, rtol=1e-6, atol=1e-6)


def test_a_layer_under_autocast_computes_in_its_type_and_gets_float32_gradients() -> None:
    torch.manual_seed(0)
    layer = MaskedLinear(16, 8, tasks=2)
    layer.set_mask(torch.rand(2, 8, 16) < 0.6)
    x = torch.randn(4, 3, 16)
    with torch.autocast("cpu", torch.bfloat16):
        result = layer(x)
    assert result.dtype == torch.bfloat16
    result.float().square().sum().backward()
    weight = layer.weight.detach().clone().requires_grad_()
    parts = [F.linear(x[2 * task : 2 * task + 2], weight * layer.mask[task], layer.bias) for task in (0, 1)]
    torch.cat(parts).square().sum().backward()
    assert layer.weight.grad is not None
    assert weight.grad is not None
    torch.testing.assert_close(result.float(), torch.cat(parts), rtol=0.02, atol=0.02)
    torch.testing.assert_close(layer.weight.grad, weight.grad, rtol=0.05, atol=0.1)


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
