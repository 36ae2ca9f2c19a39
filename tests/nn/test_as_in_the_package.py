"""What vector_quantize_pytorch's own tests of ``VectorQuantize`` ask, asked of ours; and copies of it."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from goskill.errors import InputError
from goskill.nn import VectorQuantize

DEFAULTS = {"use_cosine_sim": False, "heads": 1, "separate_codebook_per_head": False}


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_shapes_dtypes_and_a_loss_of_one_number() -> None:
    module = VectorQuantize(dim=32, codebook_size=64, decay=0.8, commitment_weight=1.0, **DEFAULTS)
    x = normal(1, 48, 32)
    quantized, indices, loss = module(x)
    assert (quantized.shape, indices.shape, indices.dtype) == (x.shape, (1, 48), torch.int64)
    assert loss.numel() == 1


def test_evaluation_gives_codes_and_the_same_ones_again() -> None:
    module = VectorQuantize(dim=8, codebook_size=16).eval()
    x = normal(1, 20, 8)
    quantized, indices, loss = module(x)
    assert float(loss) == 0
    assert torch.equal(quantized, module.codebook[indices])
    assert torch.equal(module.get_codes_from_indices(indices), quantized)
    assert torch.equal(module(quantized)[1], indices)


def test_a_code_space_of_another_size() -> None:
    module = VectorQuantize(dim=16, codebook_size=24, codebook_dim=4)
    quantized, indices, _ = module(normal(1, 30, 16))
    assert quantized.shape == (1, 30, 16)
    assert module.codebook.shape == (24, 4)
    module.eval()
    quantized, indices, _ = module(normal(1, 30, 16))
    torch.testing.assert_close(module.get_output_from_indices(indices), quantized)


@pytest.mark.parametrize(
    ("options", "shape", "indices"),
    [
        ({"accept_image_fmap": True}, (2, 8, 4, 5), (2, 4, 5)),
        ({"accept_3d_fmap": True}, (2, 8, 3, 4, 5), (2, 3, 4, 5)),
        ({"channel_last": False}, (2, 8, 9), (2, 9)),
        ({}, (7, 8), (7,)),
    ],
)
def test_layouts(options: dict[str, Any], shape: tuple[int, ...], indices: tuple[int, ...]) -> None:
    quantized, found, _ = VectorQuantize(dim=8, codebook_size=6, **options)(normal(*shape))
    assert (quantized.shape, found.shape) == (shape, indices)


@pytest.mark.parametrize("as_lens", [False, True])
def test_rows_that_do_not_count_are_zero_and_teach_nothing(as_lens: bool) -> None:
    x, lens = normal(3, 10, 4), torch.tensor([10, 4, 1])
    mask = torch.arange(10) < lens[:, None]
    found = []
    for rest in (0.0, 1e3):
        torch.manual_seed(0)
        module = VectorQuantize(dim=4, codebook_size=5, kmeans_init=True)
        changed = torch.where(mask.unsqueeze(-1), x, rest)
        options = {"lens": lens} if as_lens else {"mask": mask}
        quantized, indices, loss = module(changed, **options)
        assert (indices[~mask] == -1).all()
        assert (quantized[~mask] == 0).all()
        found.append((quantized, indices, loss, module.codebook.clone()))
    torch.testing.assert_close(*found)
    positional = VectorQuantize(dim=4, codebook_size=5)(x, None, mask)[1]
    assert ((positional == -1) == ~mask).all()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(5, dtype=torch.bool), r"mask must have shape \[2, 5\], got \[5\]"),
        (torch.ones(2, dtype=torch.bool), r"mask must have shape \[2, 5\], got \[2\]"),
        (torch.ones(2, 5), "mask must be a bool tensor, got torch.float32"),
    ],
)
def test_masks_of_another_shape_or_type_are_refused(training: bool, mask: Any, message: str) -> None:
    module = VectorQuantize(dim=4, codebook_size=6).train(training)
    with pytest.raises(InputError, match=message):
        module(normal(2, 5, 4), mask=mask)


@pytest.mark.parametrize("codebook_dim", [4, 3])
def test_indices_lead_back_to_the_output_also_of_rows_that_do_not_count(codebook_dim: int) -> None:
    module = VectorQuantize(dim=4, codebook_size=6, codebook_dim=codebook_dim).eval()
    quantized, indices, _ = module(normal(2, 5, 4), mask=torch.arange(5).expand(2, 5) < 3)
    torch.testing.assert_close(module.get_output_from_indices(indices), quantized)
    assert (module.get_codes_from_indices(indices)[:, 3:] == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codebook_size": 8.0}, "codebook_size must be a whole number of at least 1, got 8.0"),
        ({"codebook_dim": "3"}, "codebook_dim must be a whole number of at least 1, got '3'"),
        ({"commitment_weight": math.inf}, "commitment_weight must be finite and at least 0, got inf"),
        ({"commitment_weight": torch.ones(())}, "commitment_weight must be a number, got a tensor"),
        ({"eps": math.nan}, "eps must be finite and at least 0, got nan"),
        ({"threshold_ema_dead_code": math.nan}, "threshold_ema_dead_code must be finite, got nan"),
    ],
)
def test_arguments_that_would_spoil_a_codebook_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        VectorQuantize(**{"dim": 4, "codebook_size": 6, **options})


def test_outputs_may_be_changed_in_place() -> None:
    x = normal(1, 20, 8).requires_grad_()
    module = VectorQuantize(dim=8, codebook_size=4)
    quantized, indices, loss = module(x)
    indices.fill_(0)
    (torch.relu_(quantized.mul_(2)).sum() + loss).backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def trained(**options: Any) -> VectorQuantize:
    torch.manual_seed(0)
    module = VectorQuantize(dim=4, codebook_size=6, kmeans_init=True, **options)
    for _ in range(3):
        module(normal(1, 40, 4))
    return module


def copies(module: VectorQuantize) -> dict[str, VectorQuantize]:
    """Each way in which a module's state becomes that of another."""
    averaged = AveragedModel(trained(), multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    averaged.update_parameters(module)
    loaded, copied = (VectorQuantize(dim=4, codebook_size=6, kmeans_init=True) for _ in range(2))
    loaded.load_state_dict(module.state_dict())
    for mine, other in zip(copied.buffers(), module.buffers(), strict=True):
        mine.copy_(other)
    return {
        "loaded": loaded,
        "buffers copied": copied,
        "deep copy": copy.deepcopy(module),
        "pickle": pickle.loads(pickle.dumps(module)),
        "moving average": averaged.module,
    }


@pytest.mark.parametrize("name", ["loaded", "buffers copied", "deep copy", "pickle", "moving average"])
@pytest.mark.parametrize("training", [False, True])
def test_a_codebook_that_was_copied_stays(name: str, training: bool) -> None:
    """k-means begins only where no state says that there are codes, whichever way the state came."""
    module = trained()
    copied = copies(module)[name].train(training)
    before = copied.codebook.clone()
    torch.testing.assert_close(before, module.codebook)
    copied(100 + normal(1, 40, 4), freeze_codebook=True)
    assert bool(copied._codebook.initted)
    assert torch.equal(copied.codebook, before)


def test_a_step_without_a_row_that_counts_changes_nothing() -> None:
    module = trained(decay=0.0)
    before = copy.deepcopy(module.state_dict())
    quantized, indices, loss = module(normal(1, 40, 4), mask=torch.zeros(1, 40, dtype=torch.bool))
    assert float(loss) == 0
    assert (quantized == 0).all()
    assert (indices == -1).all()
    assert all(value.isfinite().all() for value in module.state_dict().values())
    assert torch.equal(module.codebook, before["_codebook.embed"][0])
