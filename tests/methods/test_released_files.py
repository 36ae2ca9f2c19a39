"""Released files of every method, damaged, hostile or of other values: a CheckpointError, whatever they are."""

from __future__ import annotations

import contextlib
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import test_go_skill_released as go_skill
import test_harmodt_released as harmodt
import test_prompt_dt_released as prompt_dt
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from goskill.errors import CheckpointError
from goskill.methods import go_skill as go_skill_method
from goskill.methods import harmodt as harmodt_method
from goskill.methods import prompt_dt as prompt_dt_method

WEIGHT = "transformer.h.0.attn.c_attn.weight"
OPTIONS = harmodt.OPTIONS


def load_policy(path: Path) -> Any:
    """GO-Skill's second file; its first one is as it should be."""
    torch.save(go_skill.skill_model(), path.with_name("skill_model.pt"))
    return go_skill_method.load_released(
        path.with_name("skill_model.pt"), path, heads=go_skill.HEADS, prompt_length=go_skill.PROMPT
    )


METHODS: dict[str, tuple[Callable[[], dict[str, Any]], Callable[[Path], Any]]] = {
    "go_skill": (go_skill.skill_policy, load_policy),
    "prompt_dt": (prompt_dt.model, lambda path: prompt_dt_method.load_released(path, **OPTIONS)),
    "harmodt": (harmodt.released, lambda path: harmodt_method.load_released(path, **OPTIONS)),
}
every_method = pytest.mark.parametrize("method", METHODS)


def state_of(content: dict[str, Any]) -> dict[str, Any]:
    return content.get("model", content)


@every_method
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {1: torch.ones(1)}, "expected a state dict of numbers by names"),
        (lambda state: {WEIGHT: 3}, "expected a state dict of numbers by names"),
        (lambda state: {WEIGHT: state[WEIGHT].to_sparse()}, "expected a state dict of numbers by names"),
        (lambda state: {WEIGHT: state[WEIGHT].to("meta")}, "expected a state dict of numbers by names"),
        (lambda state: {WEIGHT: state[WEIGHT] + 1j}, "expected a state dict of numbers by names"),
        (lambda state: {WEIGHT: state[WEIGHT] * float("nan")}, f"key {WEIGHT}: expected finite values"),
        (lambda state: {WEIGHT: state[WEIGHT] + float("inf")}, f"key {WEIGHT}: expected finite values"),
    ],
)
def test_values_of_another_kind_are_named(
    tmp_path: Path, method: str, change: Callable[[Any], dict[Any, Any]], message: str
) -> None:
    make, load = METHODS[method]
    content = make()
    state_of(content).update(change(state_of(content)))
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=rf"released file .*model\.pt: {message}"):
        load(tmp_path / "model.pt")


@every_method
def test_what_asks_for_more_than_tensors_is_not_run(tmp_path: Path, method: str) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.system, (f"touch {tmp_path / 'ran'}",))

    make, load = METHODS[method]
    content = make()
    for payload in (Payload(), content | {"more": Payload()}):
        torch.save(payload, tmp_path / "model.pt")
        with pytest.raises(
            CheckpointError, match=r"expected tensors alone, it asks for (posix|os|nt)\.system$"
        ):
            load(tmp_path / "model.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("value", [0.5, float("nan"), 2])
def test_masks_of_other_values_are_named(tmp_path: Path, value: float) -> None:
    content = harmodt.released()
    content["env_masks"]["push-v2"][WEIGHT][0, 0] = value
    file = harmodt.write(tmp_path, content)
    for load in (
        lambda: harmodt_method.load_released(file, **OPTIONS),
        lambda: harmodt_method.load_released_task(file, "push-v2", **OPTIONS),
    ):
        with pytest.raises(
            CheckpointError, match=f"env_masks: push-v2: {WEIGHT}: expected the values 0 and 1"
        ):
            load()


def test_tasks_that_are_no_names_are_refused(tmp_path: Path) -> None:
    content = harmodt.released()
    content["env_masks"] = dict(enumerate(content["env_masks"].values()))
    with pytest.raises(CheckpointError, match="env_masks: expected masks by task and parameter"):
        harmodt_method.load_released(harmodt.write(tmp_path, content), **OPTIONS)


def test_heads_of_several_shapes_are_named(tmp_path: Path) -> None:
    state = prompt_dt.model(multi_head=True)
    state["predict_action.1.0.weight"] = torch.ones(3, 5)
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(
        CheckpointError,
        match=r"key predict_action\.1\.0\.weight: expected the shape of the first head's, \(3, 16\), got \(3, 5\)",
    ):
        prompt_dt_method.load_released(tmp_path / "model.pt", tasks=prompt_dt.TASKS, **OPTIONS)


def rewritten(raw: bytes, pickled: bytes) -> bytes:
    """The archive with another pickle."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as archive, zipfile.ZipFile(stream, "w") as other:
        for member in archive.infolist():
            other.writestr(
                member.filename, pickled if member.filename.endswith("data.pkl") else archive.read(member)
            )
    return stream.getvalue()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_changed_and_cut_files_are_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    file = tmp_path / "model.pt"
    torch.save(prompt_dt.model(), file)
    raw = file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        pickled = bytearray(archive.read("model/data.pkl"))
    if data.draw(st.integers(0, 3)) == 0:
        file.write_bytes(raw[: data.draw(st.integers(0, len(raw) - 1))])
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            pickled[data.draw(st.integers(0, len(pickled) - 1))] = data.draw(st.integers(0, 255))
        file.write_bytes(rewritten(raw, bytes(pickled)))
    with contextlib.suppress(CheckpointError):
        prompt_dt_method.load_released(file, **OPTIONS)
