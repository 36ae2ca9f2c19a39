"""The errors that goskill raises for wrong input. The command line prints them as one line."""

from __future__ import annotations


class InputError(ValueError):
    """Something that the caller gave is wrong: the message names it, what was expected and what came."""


class StoreError(InputError):
    """An episode store on disk is missing, damaged, of another version, or does not fit."""


class CheckpointError(InputError):
    """A checkpoint on disk is missing, damaged, or belongs to another configuration."""
