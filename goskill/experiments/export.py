"""A finished run as a small folder to hand on: weights without optimisers, demonstrations, and where it comes from."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from goskill.errors import CheckpointError, InputError
from goskill.experiments.run_prompts import copy_episodes
from goskill.experiments.runs import find_checkpoint, settings_of
from goskill.files import parse_json, read_bytes, read_text, write_atomically
from goskill.terminal import amount

if TYPE_CHECKING:
    from torch import Tensor

    from goskill.evaluation import Results
    from goskill.training import Checkpoint, RunFolder

ORIGIN = "origin.json"
CARD = "README.md"
# In full precision: they are small, and what they scale or compare is not.
FULL = ("normalize", "codebook")


def export(
    path: str | Path,
    folder: str | Path,
    *,
    half: bool = True,
    checkpoint: str | None = None,
    commit: str | None = None,
) -> Path:
    """Write a run to ``folder``, which can be evaluated and loaded as the run itself, but not trained on.

    It holds ``settings.json``, one checkpoint of networks only, the demonstrations, ``results.json`` where there is
    one, ``origin.json`` (commit, data, versions, results) and a model card, ``README.md``; no path of this machine.
    ``half`` keeps weights in 16 bits; they are float32 again when they are loaded. ``checkpoint`` is as for
    ``load_policy``. ``commit`` is the one that trained the run, by default the checkout's that goskill runs from.

    Raises InputError for a folder without a run or one to write that is not empty, CheckpointError for a run that is
    not finished.
    """
    from goskill.evaluation import Results
    from goskill.experiments.studies import provenance
    from goskill.training import RunFolder

    run, target = RunFolder.open(path), Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} exists already: give another folder")
    found = find_checkpoint(run, checkpoint)
    unfinished = target.parent / f".exporting-{target.name}"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        settings = run.settings
        settings["data"]["path"] = PurePath(str(settings["data"].get("path", ""))).name
        for part in ("method", "finetuning"):  # which may name runs of skills, and the run before
            if part in settings:
                settings[part] = _without_folders(settings[part])
        write_atomically(unfinished / "settings.json", json.dumps(settings, indent=2) + "\n")
        _write_networks(found, unfinished / "checkpoints" / found.path.name, half)
        if run.prompts.exists():
            _copy_prompts(run.prompts, unfinished / "prompts")
        file = run.results_found(found)
        results = None if file is None else Results.load(file)
        if file is not None:
            write_atomically(unfinished / "results.json", read_bytes(file))
        origin = {**_origin(run, found, settings, results, half), "commit": commit or provenance.commit()}
        write_atomically(unfinished / ORIGIN, json.dumps(origin, indent=1) + "\n")
        write_atomically(unfinished / CARD, card(origin))
        if target.exists():
            target.rmdir()
        os.replace(unfinished, target)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return target


def read_origin(folder: Path) -> dict[str, Any]:
    """What an exported folder says of itself. Raises CheckpointError for a file that is missing or damaged."""
    try:
        origin = parse_json(read_text(folder / ORIGIN))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / ORIGIN} cannot be read: {error}") from None
    if not isinstance(origin, dict):
        raise CheckpointError(f"{folder / ORIGIN}: expected an object, got {type(origin).__name__}")
    return origin


def card(origin: Mapping[str, Any], title: str | None = None) -> str:
    """A model card in Markdown, with the front matter that huggingface.co reads."""
    data, results = origin["data"], origin["results"]
    lines = [
        *("---", "library_name: goskill", "pipeline_tag: reinforcement-learning", "tags:"),
        *("- reinforcement-learning", "- offline-rl", "- multi-task", f"- {origin['method']}", "---", ""),
        f"# {title or origin['method']} on {', '.join(data['tasks'])}",
        "",
        f"A policy trained with goskill {origin['versions'].get('goskill', '')} "
        f"(commit {origin['commit'] or 'of an installed wheel'}), method `{origin['method']}`, "
        f"{origin['iterations']} iterations, seed {origin['seed']}.",
        "",
        f"Data: {data['episodes']} episodes, {data['steps']} steps{_in_words(data['provenance'])}. "
        "Results on data that scripted policies made do not stand beside those on other data.",
        "",
    ]
    if results:
        lines += [
            f"Evaluation: {results['episodes']} new episodes of each task, seed {results['seed']}.",
            "",
            "| task | return | success |",
            "|---|---|---|",
            *(_row(name, one) for name, one in results["tasks"].items()),
            _row("mean", results["mean"]),
            "",
        ]
    lines += [
        "```python",
        "import goskill",
        "",
        'policy = goskill.load_policy("hf://USER/NAME")  # or the path of this folder',
        f'policy.reset(["{data["tasks"][0] if data["tasks"] else "TASK"}"] * 8)',
        "actions = policy.act(observations)",
        "```",
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, one: Mapping[str, Any]) -> str:
    success = "unknown" if one["success"] is None else f"{100 * one['success']:.0f} %"
    return f"| {name} | {amount(one['return'])} | {success} |"


def _in_words(provenance: list[Mapping[str, Any]]) -> str:
    told = [
        ", ".join(f"{key} {value}" for key, value in one.items() if isinstance(value, str | int) and value)
        for one in provenance
    ]
    return "".join(f"; {one}" for one in told if one)


def _write_networks(checkpoint: Checkpoint, folder: Path, half: bool) -> None:
    import safetensors.torch
    import torch

    from goskill.training.checkpoint import state_checksum

    def lowered(name: str, tensor: Tensor) -> Tensor:
        return tensor.half() if half and name not in FULL and tensor.dtype == torch.float32 else tensor

    folder.mkdir(parents=True)
    files = {}
    for name, tensors in checkpoint.networks().items():
        contents = safetensors.torch.save({key: lowered(name, value) for key, value in tensors.items()})
        (folder / f"{name}.safetensors").write_bytes(contents)
        files[f"{name}.safetensors"] = hashlib.sha256(contents).hexdigest()
    kept = ("format", "step", "phase", "iteration", "phases", "versions")
    state = {**{key: checkpoint.state[key] for key in kept if key in checkpoint.state}, "files": files}
    state["checksum"] = state_checksum(state)
    (folder / "state.json").write_bytes(json.dumps(state, indent=1).encode())


def _copy_prompts(source: Path, target: Path) -> None:
    """The store of demonstrations, without locks and without where they came from on this machine."""
    from goskill.data import EpisodeStore

    store = EpisodeStore.open(source)
    origin = [_without_folders(one) for one in store.provenance]
    for one in origin:
        if "source" in one:  # the store, by the path that was given
            one["source"] = PurePath(str(one["source"])).name
    copy_episodes(store, target, range(store.num_episodes), origin[0] if origin else None)
    (target / ".lock").unlink(missing_ok=True)


def _origin(
    run: RunFolder, checkpoint: Checkpoint, settings: Mapping[str, Any], results: Results | None, half: bool
) -> dict[str, Any]:
    data = settings["data"]
    return {
        "method": settings_of(run).name,
        "versions": checkpoint.state.get("versions", {}),
        "iterations": checkpoint.state["step"],
        "seed": settings["training"].get("seed"),
        "weights": "float16" if half else "float32",
        "data": {
            **{key: data.get(key) for key in ("suite", "tasks", "episodes", "steps")},
            **_data_origin(run),
        },
        "results": None if results is None else _summary(results),
    }


def _data_origin(run: RunFolder) -> dict[str, Any]:
    """What the training data says of itself, if it is still where it was."""
    from goskill.data import EpisodeStore
    from goskill.errors import StoreError
    from goskill.experiments.runs import data_path

    try:
        store = EpisodeStore.open(data_path(run))
    except (InputError, StoreError, OSError):
        return {"fingerprint": None, "provenance": []}
    return {"fingerprint": store.fingerprint, "provenance": _without_folders(store.provenance)}


def _without_folders(told: Any) -> Any:
    """What provenance tells, with names in place of absolute paths, or of several with commas between them."""
    if isinstance(told, Mapping):
        return {key: _without_folders(value) for key, value in told.items()}
    if isinstance(told, list):
        return [_without_folders(value) for value in told]
    if isinstance(told, str) and os.path.isabs(told):
        return ", ".join(PurePath(path).name for path in re.split(f", (?={os.sep})", told))
    return told


def _summary(results: Results) -> dict[str, Any]:
    def plain(summary: Any) -> dict[str, Any]:
        found = summary.to_json()
        return {"return": found["return_mean"], "success": found["success"]}

    return {
        "episodes": results.protocol.episodes,
        "seed": results.protocol.seed,
        "tasks": {task: plain(results.summary(task)) for task in results.tasks},
        "mean": plain(results.overall),
    }
