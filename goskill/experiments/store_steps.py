"""The steps that only concern episode stores: mix, convert, merge, download, show and verify them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from goskill.errors import InputError
from goskill.terminal import amount, console, progress_bar

PathLike = str | Path


def mix(
    data: PathLike,
    out: PathLike | None = None,
    *,
    config: Sequence[int],
    limits: Sequence[int] = (),
    steps: int | None = None,
    seed: int = 0,
) -> None:
    """Say which task gets data of which quality, and write the mix; see :func:`goskill.data.mixing.write_mix`.

    ``limits``: how many episodes of a task at most, by quality. Raises InputError.
    """
    from goskill.data import EpisodeStore
    from goskill.data.mixing import QUALITIES, RULES, mixed, write_mix

    if limits and (len(limits) != len(QUALITIES) or min(limits) < 1):
        raise InputError(
            f"limits: expected {len(QUALITIES)} positive numbers, got {','.join(map(str, limits))}"
        )
    store = EpisodeStore.open(data)
    most = dict(zip(QUALITIES, limits, strict=True)) if limits else None
    if out is None:
        parts = mixed(store, config, seed=seed, limits=most, steps=steps)
    else:
        parts = write_mix(store, out, config, seed=seed, limits=most, steps=steps)
    table = Table("task", "quality", "episodes")
    for part in parts:
        table.add_row(part.task, part.quality, f"{len(part.episodes)} of {part.experienced}")
    console.print(table)
    for quality, rule in RULES.items():
        console.print(f"{quality}: {rule}", highlight=False)
    sources = {str(origin.get("source", "unknown")) for origin in store.provenance}
    console.print(f"cut out of {data}, {', '.join(sorted(sources))} data", highlight=False, markup=False)


def convert(layout: str, source: str, out: PathLike, *, workers: int | None = None, **options: Any) -> None:
    """Convert a source of any layout into a store; see :func:`goskill.data.convert.convert`, also for the options."""
    from goskill.data.convert import convert as convert_source

    with progress_bar("converting") as report:
        found = convert_source(layout, source, out, workers or 0, report, **options)
    console.print_json(json.dumps(found.to_json()))


def merge(stores: Sequence[PathLike], out: PathLike, *, workers: int | None = None) -> None:
    """Copy the episodes of several stores into a new one; see :func:`goskill.data.merge`."""
    from goskill.data import merge as merge_stores

    with progress_bar("merging") as report:
        found = merge_stores(stores, out, workers or 0, report)
    console.print_json(json.dumps(found.to_json()))


def download(
    name: str | None,
    folder: PathLike | None = None,
    *,
    store: PathLike | None = None,
    keep: bool = True,
    tasks: Sequence[str] | None = None,
    workers: int | None = None,
) -> None:
    """Download a public dataset by name, or list their names; see :func:`goskill.data.hub.download`."""
    from goskill.data.hub import DATASETS
    from goskill.data.hub import download as download_dataset

    if name is None:
        table = Table("name", "dataset")
        for known, dataset in DATASETS.items():
            table.add_row(known, dataset.about)
        console.print(table)
        return
    target = Path("downloads") / name if folder is None else folder
    with progress_bar("downloading") as report:
        found = download_dataset(name, target, store, keep, tasks, workers or 0, report)
    if found is None:
        console.print(f"{target}: all files of {name}, with the checksums that they are listed with")
    else:
        console.print_json(json.dumps(found.to_json()))


def show_store(data: PathLike, *, as_json: bool = False) -> None:
    """Print what an episode store holds."""
    from goskill.data import EpisodeStore

    facts = EpisodeStore.open(data).info()
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("task", overflow="fold")
    for column in ("episodes", "steps", "mean return", "best return"):
        table.add_column(column, justify="right", overflow="fold")
    for name, task in facts["tasks"].items():
        returns = ("" if task[key] is None else amount(task[key]) for key in ("return_mean", "return_best"))
        table.add_row(escape(name), str(task["episodes"]), str(task["steps"]), *returns)
    console.print(table)
    if facts["unfinished"]:
        console.print("unfinished: run the command again that was writing it")
    for name in ("episodes", "steps", "observation_dim", "action_dim", "shards", "bytes"):
        console.print(f"{name.replace('_', ' ')}: {facts[name]:,}")
    if facts["actions_outside"]:
        console.print(f"steps with actions outside [-1, 1]: {facts['actions_outside']:,}", markup=False)
    console.print(f"labels: {', '.join(facts['labels']) or 'none'}")
    if facts["prompts"] is not None:
        console.print(f"prompts: {_prompts_in_words(facts['prompts'])}", markup=False)
    for origin in filter(None, facts["provenance"]):
        console.print(
            "from: " + ", ".join(f"{key} {value}" for key, value in origin.items()),
            highlight=False,
            markup=False,
        )


def _prompts_in_words(facts: dict[str, Any]) -> str:
    if "fault" in facts:
        return f"damaged: {facts['fault']}"
    unfinished = ", unfinished: run the command again that was writing them" if facts["unfinished"] else ""
    return f"{facts['episodes']:,} episodes, {facts['steps']:,} steps, {facts['bytes']:,} bytes{unfinished}"


def verify(data: PathLike) -> None:
    """Hold every byte of a store to its checksums. Raises StoreError that names what is damaged."""
    from goskill.data import EpisodeStore

    store = EpisodeStore.open(data)
    with progress_bar("verifying") as report:
        checked = store.verify(report)
    console.print(f"{data}: {checked['files']} columns, {checked['bytes']:,} bytes, all as they were written")
