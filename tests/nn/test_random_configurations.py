"""Random configurations of VectorQuantize beside vector_quantize_pytorch: every number after every step.

``python tests/nn/test_random_configurations.py 600`` runs more of them. What DIFFERENCES.md lists is left out of the
comparison, and nothing else.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from goskill.nn import VectorQuantize

package = pytest.importorskip("vector_quantize_pytorch")

STEPS = 10


@dataclass
class Configuration:
    dim: int
    codes: int
    layout: str  # rows, sequences, channels, image, volume
    masking: str  # none, mask, lens
    dtype: torch.dtype
    scale: float
    requires_grad: bool
    arguments: dict[str, Any] = field(default_factory=dict)


def draw(seed: int) -> Configuration:
    generator = torch.Generator().manual_seed(seed)

    def pick(*choices: Any) -> Any:
        return choices[int(torch.randint(len(choices), (1,), generator=generator))]

    dim, codes = pick(1, 2, 3, 8, 17, 32), pick(1, 2, 5, 16, 40)
    arguments: dict[str, Any] = {
        "decay": pick(0.0, 0.5, 0.8, 0.99, 1.0),
        "eps": pick(1e-5, 1e-3),
        "kmeans_init": pick(False, False, True),
        "kmeans_iters": pick(1, 3, 10),
        "threshold_ema_dead_code": pick(0, 0, 0, 1, 2),
        "commitment_weight": pick(0.0, 0.25, 1.0, 3.0),
        "freeze_codebook": pick(False, False, False, True),
        "use_cosine_sim": False,
        "heads": 1,
    }
    if pick(False, False, True):
        arguments |= {"learnable_codebook": True, "ema_update": False}
    elif pick(False, False, False, True):
        arguments["ema_update"] = False
    layout = pick("rows", "sequences", "sequences", "channels", "image", "volume")
    masking = pick("none", "mask", "lens") if layout == "sequences" else "none"
    if masking == "none" and pick(False, True):
        arguments["codebook_dim"] = pick(1, 4, dim)  # that package cannot mask projected rows
    arguments |= {
        "channels": {"channel_last": False},
        "image": {"accept_image_fmap": True},
        "volume": {"accept_3d_fmap": True},
    }.get(layout, {})
    # Without it, that package's gradients of projections and learnable codebooks take another way.
    requires_grad = (
        "codebook_dim" in arguments or "learnable_codebook" in arguments or pick(True, True, False)
    )
    dtype = pick(torch.float32, torch.float32, torch.float32, torch.bfloat16, torch.float64)
    if "codebook_dim" in arguments:
        dtype = torch.float32
    return Configuration(dim, codes, layout, masking, dtype, pick(1.0, 0.05, 30.0), requires_grad, arguments)


def batch(configuration: Configuration, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    dim = configuration.dim
    shape = {
        "rows": (23, dim),
        "sequences": (3, 11, dim),
        "channels": (3, dim, 11),
        "image": (2, dim, 3, 4),
        "volume": (2, dim, 2, 3, 2),
    }[configuration.layout]
    x = (torch.randn(shape, generator=generator) * configuration.scale).to(configuration.dtype)
    if configuration.masking == "mask":
        mask = torch.rand(3, 11, generator=generator) > 0.4
        mask[0, 0] = True
        return x, {"mask": mask}
    if configuration.masking == "lens":
        return x, {"lens": torch.randint(1, 12, (3,), generator=generator)}
    return x, {}


def step(module: Any, x: Tensor, options: dict[str, Tensor], weight: Tensor, seed: int) -> dict[str, Tensor]:
    """What a training step gives: outputs and gradients; the parameters move, by so little that rounding stays."""
    torch.manual_seed(seed)
    leaf = x.clone().requires_grad_(module.requires_grad_of_input)
    quantized, indices, loss = module(leaf, **options)
    result = {"quantized": quantized.detach(), "indices": indices, "loss": loss.detach()}
    total = (quantized * weight).sum() + loss
    module.zero_grad()
    if module.training and total.requires_grad and module.requires_grad_of_input:
        total.backward()
        result["gradient of x"] = leaf.grad
        for name, parameter in module.named_parameters():
            if parameter.grad is not None:
                result[f"gradient of {name}"] = parameter.grad.clone()
                parameter.data -= 1e-4 * parameter.grad / parameter.grad.norm().clamp(min=1)
    return result


def is_close(ours: Tensor, theirs: Tensor, tolerance: float, size: float = 1.0) -> bool:
    """Whether they differ by no more than a share of the largest number or of ``size``."""
    if ours.shape != theirs.shape:
        return False
    largest = max([size, *theirs.double().abs().flatten().tolist()])
    return bool(((ours.double() - theirs.double()).abs() <= tolerance * largest).all())


def equally_near(module: VectorQuantize, x: Tensor, ours: Tensor, theirs: Tensor) -> bool:
    """Whether both indices are of codes that are equally near up to the rounding of |x|^2 + |e|^2 - 2 x.e in float32.

    Asked before the codebook moves.
    """
    rows = module.project_in(x if module.channel_last or x.ndim == 2 else x.movedim(1, -1)).double()
    codes = module.codebook.double()
    a, b = ((rows - codes[indices.clamp(min=0)]).square().sum(-1) for indices in (ours, theirs))
    size = rows.square().sum(-1) + codes.square().sum(-1).max()
    return bool(((ours < 0) == (theirs < 0)).all()) and bool(((a - b).abs() <= 2e-6 * size).all())


def differences(seed: int) -> list[str]:
    """What differs in one configuration, by step and name."""
    configuration = draw(seed)
    modules = []
    for kind in (VectorQuantize, package.VectorQuantize):
        torch.manual_seed(seed)
        module = kind(configuration.dim, configuration.codes, rotation_trick=False, **configuration.arguments)
        module.requires_grad_of_input = configuration.requires_grad
        modules.append(module)
    ours, theirs = modules
    threshold = configuration.arguments["threshold_ema_dead_code"]
    found: list[str] = []
    for number in range(STEPS):
        generator = torch.Generator().manual_seed(1000 * seed + number)
        x, options = batch(configuration, generator)
        weight = torch.randn(x.shape, generator=generator).to(x.dtype)
        for module in modules:
            module.train(number % 4 != 3)
        before = copy.deepcopy(ours)
        results = [step(module, x, options, weight, 10 * seed + number) for module in modules]
        # That package computes float64 in float32, and losses of bfloat16 in that. Its codes are x + (e - x).
        tolerance = 2e-2 if configuration.dtype == torch.bfloat16 else 2e-5
        of_codes = {"quantized", "gradient of project_out.weight"}
        indices = [result["indices"] for result in results]
        if not torch.equal(*indices) and equally_near(before, x, *indices):
            ours.load_state_dict(theirs.state_dict())
            continue
        for name in sorted(results[0].keys() | results[1].keys()):
            pair = [result.get(name) for result in results]
            if pair[0] is None or pair[1] is None:
                found.append(f"step {number}: {name} is {pair}")
            elif name == "indices":
                if not torch.equal(*pair):
                    found.append(f"step {number}: {int((pair[0] != pair[1]).sum())} indices")
            elif not is_close(*pair, tolerance, float(x.abs().max()) if name in of_codes else 1.0):
                found.append(f"step {number}: {name} {float((pair[0] - pair[1]).abs().max())}")
        state, other = ours.state_dict(), theirs.state_dict()
        if state.keys() != other.keys():
            found.append(f"state {state.keys() ^ other.keys()}")
        kept = slice(None)
        if threshold > 0:
            # Replaced codes: as many, of other rows.
            sizes = [s["_codebook.cluster_size"][0] for s in (state, other)]
            replaced = [size == threshold for size in sizes]
            if replaced[0].sum() != replaced[1].sum():
                found.append(f"step {number}: replaced {replaced}")
            kept = ~(replaced[0] | replaced[1])
        for name, value in other.items():
            mine = state[name]
            if name.startswith("_codebook.") and value.ndim > 1:
                mine, value = mine[0][kept], value[0][kept]
            if not is_close(mine, value, tolerance):
                found.append(f"step {number}: {name} {float((mine.double() - value.double()).abs().max())}")
        ours.load_state_dict(other)
    return found


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_ten_random_configurations_equal_the_package_for_ten_steps(first: int) -> None:
    for seed in range(first, first + 10):
        assert differences(seed) == [], draw(seed)


if __name__ == "__main__":
    total = 0
    for seed in range(int(sys.argv[1])):
        try:
            found = differences(seed)
        except Exception as error:
            found = [repr(error)[:300]]
        if found:
            total += 1
            print(seed, draw(seed), *found[:6], sep="\n    ", flush=True)
    print(f"{total} of {sys.argv[1]} configurations differ")
