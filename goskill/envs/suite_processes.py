"""Suites in other processes: how many there are, and how a suite gets there."""

from __future__ import annotations

import io
import pickle
import sys
from typing import Any

from goskill.envs.pool_input import check_workers
from goskill.envs.suite import Suite
from goskill.envs.suite_registry import find_suite, loaded_from
from goskill.errors import InputError


def choose_workers(suite: Suite, workers: int | None) -> int:
    """How many processes step a suite's environments: ``workers``, or what is best for the suite.

    Raises InputError for a negative number, and where no other process can import the suite.
    """
    if workers is None and not suite.prefer_workers:
        return 0
    chosen = check_workers(workers)
    try:
        if chosen:
            packed(suite)
    except InputError:
        if workers is None:
            return 0
        raise
    return chosen


def packed(suite: Suite) -> bytes:
    """A suite for another process. Raises InputError for what no other process can import."""
    reason = ""
    try:
        content = pickle.dumps(suite)
        if all(_is_importable(module) for module in _Modules.of(content)):
            return content
    except Exception as error:
        reason = f": {error}"
    target = loaded_from(suite)
    if target is not None:
        return pickle.dumps(target)
    raise InputError(
        f"workers: suite {suite.name!r} cannot be sent to worker processes; define it at the top level of a module "
        f"that can be imported, not in the main script, or use workers=0{reason}"
    )


class _Modules(pickle.Unpickler):
    """The modules that a pickle imports from."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self.found: set[str] = set()

    @classmethod
    def of(cls, content: bytes) -> set[str]:
        reader = cls(content)
        reader.load()
        return reader.found

    def find_class(self, module: str, name: str) -> Any:
        self.found.add(module)
        return super().find_class(module, name)


def _is_importable(module: str) -> bool:
    """Whether another process finds a module of this one, unlike the main script, a notebook, or one made by code."""
    return module != "__main__" and getattr(sys.modules[module], "__spec__", None) is not None


def unpacked(content: bytes) -> Suite:
    """The suite that `packed` gave, in a process of the same module search path."""
    return find_suite(pickle.loads(content))
