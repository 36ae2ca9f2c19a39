"""What the interpreter of Triton can run on."""

from __future__ import annotations

import importlib.util
from importlib import metadata

import pytest


def _release(package: str) -> tuple[int, ...]:
    return tuple(int(part) for part in metadata.version(package).split("+")[0].split(".")[:2])


def interpreter_works() -> bool:
    """Up to Triton 3.6 it turns arrays of one element into numbers, which NumPy refuses from 2.4 on."""
    if importlib.util.find_spec("triton") is None:
        return True  # the tests say so themselves
    return _release("triton") >= (3, 7) or _release("numpy") < (2, 4)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if interpreter_works():
        return
    skipped = pytest.mark.skip(reason="the interpreter of Triton before 3.7 needs NumPy before 2.4")
    for item in items:
        if item.get_closest_marker("interpret"):
            item.add_marker(skipped)
