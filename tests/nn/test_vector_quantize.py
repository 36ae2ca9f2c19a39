"""goskill.nn.VectorQuantize against vector_quantize_pytorch and against its own promises."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from goskill.errors import InputError
from goskill.nn import VectorQuantize

package = pytest.importorskip("vector_quantize_pytorch")

# The package's default gradient is the rotation trick; everything else is at its default.
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "kmeans": {"kmeans_init": True},
    "slow": {"decay": 0.99, "eps": 1e-3, "commitment_weight": 0.25},
    "projected": {"codebook_dim": 8},
    "learnable": {"learnable_codebook": True, "ema_update": False},
    "channel_first": {"channel_last": False},
    "frozen": {"freeze_codebook": True},
}


def pair(dim: int, codes: int, **settings: Any) -> tuple[VectorQuantize, Any]:
    torch.manual_seed(0)
    ours = VectorQuantize(dim, codes, rotation_trick=False, **settings)
    torch.manual_seed(0)
    theirs = package.VectorQuantize(dim, codes, rotation_trick=False, **settings)
    return ours, theirs


def assert_same_state(ours: VectorQuantize, theirs: Any, atol: float) -> None:
    state = ours.state_dict()
    assert state.keys() == theirs.state_dict().keys()
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(state[name], value, atol=atol, rtol=1e-5, msg=name)


@pytest.mark.parametrize("name", SETTINGS)
def test_hundred_steps_equal_the_package(name: str) -> None:
    """Same start, same inputs: same indices, losses, outputs, gradients and buffers after each step."""
    settings = SETTINGS[name]
    dim, codes, rows = 16, 12, 20
    ours, theirs = pair(dim, codes, **settings)
    assert_same_state(ours, theirs, atol=0)
    optimizers = [torch.optim.SGD([*m.parameters(), torch.zeros(1)], lr=2e-3) for m in (ours, theirs)]
    channel_first = not settings.get("channel_last", True)
    for step in range(100):
        generator = torch.Generator().manual_seed(step)
        shape = (3, dim, rows) if channel_first else (3, rows, dim)
        x, weight = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
        mask = None
        if step % 2 and "codebook_dim" not in settings:  # the package cannot mask projected inputs
            mask = torch.rand(3, rows, generator=generator) > 0.3
        results, gradients = [], []
        for module, optimizer in zip((ours, theirs), optimizers, strict=True):
            leaf = x.clone().requires_grad_()
            torch.manual_seed(step)
            quantized, indices, loss = module(leaf, mask=mask)
            optimizer.zero_grad()
            ((quantized * weight).sum() + loss).backward()
            optimizer.step()
            results.append((quantized.detach(), indices, loss.detach()))
            gradients.append(leaf.grad)
        assert torch.equal(results[0][1], results[1][1])
        torch.testing.assert_close(results[0][0], results[1][0], atol=2e-6, rtol=1e-5)
        torch.testing.assert_close(results[0][2], results[1][2], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-4)
    assert_same_state(ours, theirs, atol=1e-5)


def test_evaluation_equals_the_package_and_changes_nothing() -> None:
    ours, theirs = pair(8, 5)
    x = torch.randn(4, 6, 8)
    ours(x), theirs(x)
    ours.eval(), theirs.eval()
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    for mine, other in zip(ours(x), theirs(x), strict=True):
        torch.testing.assert_close(mine, other)
    for name, value in ours.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_state_dicts_travel_both_ways() -> None:
    ours, theirs = pair(8, 5, kmeans_init=True)
    x = torch.randn(40, 8)
    theirs(x)
    ours.load_state_dict(theirs.state_dict())
    torch.manual_seed(1)
    mine = ours(x)[1]
    torch.manual_seed(2)
    assert torch.equal(mine, theirs(x)[1])
    theirs.load_state_dict(ours.state_dict())


def test_codes_from_indices_equal_the_package() -> None:
    for settings in ({}, {"channel_last": False}, {"codebook_dim": 3}):
        ours, theirs = pair(8, 5, **settings)
        indices = torch.randint(0, 5, (4, 6))
        torch.testing.assert_close(
            ours.get_codes_from_indices(indices), theirs.get_codes_from_indices(indices)
        )
    torch.testing.assert_close(ours.get_output_from_indices(indices), theirs.get_output_from_indices(indices))


def test_images_equal_the_package() -> None:
    ours, theirs = pair(8, 5, accept_image_fmap=True)
    x = torch.randn(2, 8, 3, 4)
    for mine, other in zip(ours(x), theirs(x), strict=True):
        torch.testing.assert_close(mine, other)


def test_masked_kmeans_ignores_masked_rows() -> None:
    torch.manual_seed(0)
    module = VectorQuantize(4, 3, kmeans_init=True)
    x = torch.randn(2, 30, 4)
    x[:, 15:] = 1e6
    mask = torch.arange(30).expand(2, 30) < 15
    module(x, mask=mask)
    assert module.codebook.abs().max() < 10


def test_dead_codes_are_replaced_by_distinct_rows_of_the_batch() -> None:
    torch.manual_seed(0)
    module = VectorQuantize(4, 8, threshold_ema_dead_code=2)
    module.codebook = torch.cat([torch.zeros(1, 4), torch.full((7, 4), 100.0)])
    module._codebook.cluster_size.fill_(2.0)
    x = torch.randn(50, 4)
    module(x)
    replaced = module.codebook[1:]
    assert len({tuple(code) for code in replaced.tolist()}) == 7
    assert all((x == code).all(-1).any() for code in replaced)
    assert (module._codebook.cluster_size[0, 1:] == 2.0).all()
    torch.testing.assert_close(module._codebook.embed_avg[0, 1:], replaced * 2.0)


def test_more_dead_codes_than_rows_replaces_each_row_once() -> None:
    module = VectorQuantize(4, 8, threshold_ema_dead_code=2)
    module.codebook = torch.full((8, 4), 100.0)
    module._codebook.cluster_size.zero_()
    x = torch.randn(5, 4)
    mask = torch.tensor([True, True, False, True, False])
    module(x, mask=mask)
    taken = [[bool((code == row).all()) for row in x] for code in module.codebook]
    assert torch.tensor(taken).sum(0).tolist() == [1, 1, 0, 1, 0]


@pytest.mark.parametrize("learnable", [False, True])
def test_frozen_codebook_stays_and_gets_no_gradient(learnable: bool) -> None:
    module = VectorQuantize(4, 8, learnable_codebook=learnable, threshold_ema_dead_code=0)
    before = module.codebook.detach().clone()
    x = torch.randn(20, 4, requires_grad=True)
    quantized, _, loss = module(x, freeze_codebook=True)
    (quantized.sum() + loss).backward()
    assert torch.equal(module.codebook, before)
    assert all(parameter.grad is None for parameter in module.parameters())
    assert x.grad is not None


def test_same_seed_gives_the_same_codebook_bit_for_bit() -> None:
    books = []
    for _ in range(2):
        torch.manual_seed(3)
        module = VectorQuantize(8, 6, kmeans_init=True, threshold_ema_dead_code=2)
        for _ in range(5):
            module(torch.randn(64, 8))
        books.append(module.codebook.clone())
    assert torch.equal(books[0], books[1])


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"heads": 2}, "heads"),
        ({"use_cosine_sim": True, "affine_param": True}, "affine_param, use_cosine_sim"),
        ({"rotation_trick": True}, "rotation_trick"),
        ({"decay": 1.5}, "decay"),
        ({"learnable_codebook": True, "ema_update": True}, "ema_update"),
        ({"codebook_dim": 0}, "codebook_dim"),
    ],
)
def test_unsupported_arguments_are_refused_by_name(arguments: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        VectorQuantize(4, 8, **arguments)


def test_wrong_inputs_are_refused_by_name() -> None:
    module = VectorQuantize(4, 8)
    with pytest.raises(InputError, match=r"x .*4.*\[3, 5\]"):
        module(torch.zeros(3, 5))
    with pytest.raises(InputError, match="mask"):
        module(torch.zeros(3, 4), mask=torch.ones(4, dtype=torch.bool))
    with pytest.raises(InputError, match="codebook"):
        module.codebook = torch.zeros(7, 4)
