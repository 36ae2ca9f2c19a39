"""Runs on huggingface.co: pushed from here, and fetched by name. Needs huggingface_hub."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from goskill.errors import InputError, optional
from goskill.experiments.export import CARD, card, export, read_origin
from goskill.files import write_atomically

PREFIX = "hf://"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
# Nothing else is fetched, whatever a repository holds besides.
FILES = ("settings.json", "origin.json", "README.md", "results.json", "checkpoints/*", "prompts/*")


def push(
    path: str | Path,
    repository: str,
    *,
    half: bool = True,
    private: bool = False,
    checkpoint: str | None = None,
) -> str:
    """Export a run (:func:`goskill.experiments.export.export`) into a model repository, ``USER/NAME``.

    The repository is made if there is none. Returns the address that ``load_policy`` takes. Raises InputError for a
    name that is none, without huggingface_hub, and when the Hub cannot be reached or refuses; and as ``export`` does.
    """
    from goskill.data.hub import reaching

    name = _checked(repository)
    hub = optional("huggingface_hub", "sharing runs needs", "'goskill[hub]'")
    with tempfile.TemporaryDirectory(prefix="goskill-") as scratch:
        folder = export(path, Path(scratch) / "model", half=half, checkpoint=checkpoint)
        shown = card(read_origin(folder), name.split("/")[1]).replace("hf://USER/NAME", f"{PREFIX}{name}")
        write_atomically(folder / CARD, shown)
        with reaching(f"{PREFIX}{name}: cannot be pushed to"):
            api = hub.HfApi()
            api.create_repo(name, private=private, exist_ok=True, repo_type="model")
            api.upload_folder(repo_id=name, folder_path=str(folder), repo_type="model")
    return f"{PREFIX}{name}"


def is_address(path: str | Path) -> bool:
    """Whether a path names a repository on huggingface.co."""
    return isinstance(path, str) and path.startswith(PREFIX)


def fetch(address: str) -> Path:
    """The folder of a run on huggingface.co, ``hf://USER/NAME`` or ``hf://USER/NAME@REVISION``, in its cache.

    Raises InputError for an address that is none, without huggingface_hub, and when it cannot be fetched.
    """
    from goskill.data.hub import reaching

    name, _, revision = address[len(PREFIX) :].partition("@")
    hub = optional("huggingface_hub", "sharing runs needs", "'goskill[hub]'")
    with reaching(f"{address}: cannot be fetched from"):
        folder = hub.snapshot_download(_checked(name), revision=revision or None, allow_patterns=list(FILES))
    return Path(folder)


def _checked(name: str) -> str:
    name = name.removeprefix(PREFIX)
    if not _NAME.fullmatch(name):
        raise InputError(f"repository: expected USER/NAME, got {name!r:.80}")
    return name
