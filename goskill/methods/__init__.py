"""Methods: a folder each, and how they are registered and found by name."""

from goskill.methods.method import Diagnosable, FineTunable, HasSkills, Method, Networks, Sources
from goskill.methods.registry import Entry, built_in_names, find, method_names, register

__all__ = [
    "Diagnosable",
    "Entry",
    "FineTunable",
    "HasSkills",
    "Method",
    "Networks",
    "Sources",
    "built_in_names",
    "find",
    "method_names",
    "register",
]
