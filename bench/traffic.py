"""Counts what the operations of a step read and write, by kind."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "_addmm_activation", "linear_gelu", "addmv", "dot"}
NO_WORK = {
    "detach",
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "lift_fresh",
    "set_",
    "_unsafe_view",
    "_record_function_enter_new",
    "_record_function_exit",
}
KINDS = ("products", "attention", "rest")


class Traffic(TorchDispatchMode):
    """Within, every operation that is no view counts: what it reads and writes once each, if nothing is cached.

    ``products`` are matrix products, ``attention`` is what attends, ``rest`` is everything else. Operations stand
    for launches: one that launches several kernels counts once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.by_operation: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if func.is_view or name in NO_WORK:
            return result
        moved = sum(map(_size, _once(args) + _once(kwargs)))
        # What is written into an argument is written as well as read; most operations return it.
        moved += sum(
            map(_size, _once(result if func._schema.returns else _written(func, args, kwargs or {})))
        )
        if moved == 0:
            return result
        kind = "products" if name in PRODUCTS else "attention" if "attention" in name else "rest"
        self.bytes[kind] += moved
        self.calls[kind] += 1
        self.by_operation[name] += moved
        return result

    def summary(self) -> dict[str, Any]:
        """Operations, gigabytes by kind, and the ten operations of the rest that move most."""
        return {
            "operations": sum(self.calls.values()),
            **{f"{kind}_gb": round(self.bytes[kind] / 1e9, 3) for kind in KINDS},
            "most": {name: round(moved / 1e9, 3) for name, moved in self.by_operation.most_common(10)},
        }


def _once(values: Any) -> list[Tensor]:
    return list({id(leaf): leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)}.values())


def _written(func: Any, args: Any, kwargs: Any) -> list[Any]:
    given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
    return [
        given[argument.name]
        for argument in func._schema.arguments
        if argument.alias_info is not None and argument.alias_info.is_write and argument.name in given
    ]


def _size(tensor: Tensor) -> int:
    """Bytes of a tensor's elements; those that an expanded dimension repeats count once."""
    count = 1
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= length if stride else min(length, 1)
    return count * tensor.element_size()
