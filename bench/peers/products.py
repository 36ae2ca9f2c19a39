"""The matrix products of updates and nothing else, into memory that is there already: what no update can do without."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor


class Products:
    """Products of multilayer perceptrons of these sizes, gathered by the methods and carried out by a call.

    Products with a gradient by the input of a network are left out unless they are asked for.
    """

    def __init__(self, batch: int, dtype: torch.dtype) -> None:
        self._random = torch.Generator().manual_seed(0)
        self._batch, self._dtype = batch, dtype
        self._products: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, sizes: Sequence[int]) -> None:
        """Outputs of each layer."""
        for i, o in pairwise(sizes):
            left, right = self._matrix(self._batch, i), self._matrix(i, o)
            self._products.append((left, right, self._matrix(self._batch, o)))

    def weights(self, sizes: Sequence[int]) -> None:
        """Gradients by the weights."""
        for i, o in pairwise(sizes):
            left, right = self._matrix(self._batch, i).T, self._matrix(self._batch, o)
            self._products.append((left, right, self._matrix(i, o)))

    def inputs(self, sizes: Sequence[int], *, of_network: bool = False) -> None:
        """Gradients by the inputs of layers, by those of the first one only if asked for."""
        for i, o in pairwise(sizes if of_network else sizes[1:]):
            left, right = self._matrix(self._batch, o), self._matrix(i, o).T
            self._products.append((left, right, self._matrix(self._batch, i)))

    def learn(self, sizes: Sequence[int]) -> None:
        """Forward and backward of a network that is trained."""
        self.forward(sizes)
        self.weights(sizes)
        self.inputs(sizes)

    def _matrix(self, rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=self._random).to(self._dtype)

    def __call__(self) -> None:
        for left, right, out in self._products:
            torch.mm(left, right, out=out)


def products_of_td3_bc(
    state: int, action: int, width: int, layers: int, batch: int, dtype: torch.dtype
) -> Products:
    """Two updates of TD3+BC, of which one moves the actor, led by one critic."""
    hidden = [width] * layers
    actor, critic = [state, *hidden, action], [state + action, *hidden, 1]
    products = Products(batch, dtype)
    for _ in range(2):
        for target in (actor, critic, critic):
            products.forward(target)
        products.learn(critic)
        products.learn(critic)
    products.learn(actor)
    products.forward(critic)
    products.inputs(critic, of_network=True)
    return products


def products_of_actor_critic(
    actor: Sequence[int], critic: Sequence[int], batch: int, dtype: torch.dtype, *, prior: bool
) -> Products:
    """An update of soft actor-critic with two critics, and with a prior of the actor's shape."""
    products = Products(batch, dtype)
    for target in (actor, critic, critic, *([actor, actor] if prior else [])):
        products.forward(target)
    products.learn(critic)
    products.learn(critic)
    products.learn(actor)
    for _ in range(2):
        products.forward(critic)
        products.inputs(critic, of_network=True)
    return products
