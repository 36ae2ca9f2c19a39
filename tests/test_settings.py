"""Settings are built from untrusted mappings, and every mistake is refused by name."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goskill.errors import InputError
from goskill.experiments.runs import read_settings
from goskill.settings import from_mapping, parse_override, to_mapping


@dataclass(frozen=True)
class Example:
    rate: float = 0.1
    count: int = 3
    kind: Literal["red", "blue"] = "red"
    on: bool = False
    limit: int | None = None
    dimensions: tuple[int, ...] = ()


@given(
    rate=st.floats(allow_nan=False, allow_infinity=False),
    count=st.integers(),
    kind=st.sampled_from(["red", "blue"]),
    on=st.booleans(),
    limit=st.none() | st.integers(),
    dimensions=st.lists(st.integers()),
)
def test_settings_survive_json(**values: object) -> None:
    settings = from_mapping(Example, values, "example")
    again = from_mapping(Example, json.loads(json.dumps(to_mapping(settings))), "example")
    assert again == settings
    assert isinstance(again.dimensions, tuple)


def test_integers_are_taken_for_floats() -> None:
    assert from_mapping(Example, {"rate": 2}, "example").rate == 2.0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rat": 1.0}, r"unknown setting example\.rat: did you mean 'rate'\?"),
        ({"rate": "fast"}, r"example\.rate: expected float, got 'fast'"),
        ({"rate": math.nan}, r"example\.rate: expected a finite number, got nan"),
        ({"rate": -math.inf}, r"example\.rate: expected a finite number, got -inf"),
        ({"count": 1.5}, r"example\.count: expected int, got 1\.5"),
        ({"count": True}, r"example\.count: expected int, got True"),
        ({"on": 1}, r"example\.on: expected bool, got 1"),
        ({"kind": "green"}, r"example\.kind: expected one of 'red', 'blue', got 'green'"),
        ({"dimensions": 3}, r"example\.dimensions: expected a list, got 3"),
        ({"dimensions": [1, "x"]}, r"example\.dimensions\[1\]: expected int, got 'x'"),
    ],
)
def test_mistakes_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_mapping(Example, values, "example")


@pytest.mark.parametrize(
    ("section", "setting", "value"),
    [
        ("data", "episodes", 0),
        ("method", "horizon", 0),
        ("training", "seed", -1),
        ("evaluation", "episodes", 0),
    ],
)
def test_values_out_of_range_are_named_with_their_section(section: str, setting: str, value: int) -> None:
    with pytest.raises(InputError, match=rf"^{section}\.{setting}: expected .*, got {value}$"):
        read_settings("quickstart", [f"{section}.{setting}={value}"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("method.horizon=5", ("method.horizon", 5)),
        ("a.b=true", ("a.b", True)),
        ("a.b=[1, 2]", ("a.b", [1, 2])),
        ("a.b=gradient", ("a.b", "gradient")),
        ("a.b=x=y", ("a.b", "x=y")),
        pytest.param(f"a.b={'[' * 60_000}", ("a.b", "[" * 60_000), id="nested too deeply"),
        pytest.param(f"a.b={'1' * 5_000}", ("a.b", "1" * 5_000), id="too many digits"),
    ],
)
def test_overrides_are_json_or_text(text: str, expected: tuple[str, object]) -> None:
    assert parse_override(text) == expected


@pytest.mark.parametrize("text", ["horizon", "=5"])
def test_overrides_need_key_and_value(text: str) -> None:
    with pytest.raises(InputError, match=r"section\.key=value"):
        parse_override(text)
