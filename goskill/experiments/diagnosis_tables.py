"""A diagnosis as tables for a terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from goskill.terminal import amount


def tables(document: dict[str, Any]) -> Group:
    """A diagnosis as tables for a terminal."""
    parts = [_actions_table(document)] if "actions" in document else []
    if "policy" in document:
        parts.append(_skills_table(document))
    if "rollouts" in document:
        parts.append(_rollouts_table(document["rollouts"]))
    return Group(*parts, *(f"{part} left out: {reason}" for part, reason in document["left_out"].items()))


def _actions_table(document: dict[str, Any]) -> Table:
    actions, policy = document["actions"], document.get("policy")
    dimensions = ", ".join(f"{error:.4f}" for error in actions["by_dimension"])
    caption = f"error by dimension {dimensions}; the best constant has {actions['variance']:.4f}"
    if policy is not None:
        constants = (
            f"{policy['majority']:.0%} without and {policy['majority_of_task']:.0%} with the task known"
        )
        caption += f"\nalways the most frequent skill is right in {constants}"
    table = Table(title=document["run"], caption=caption, box=box.SIMPLE_HEAD)
    table.add_column("task", overflow="fold")
    table.add_column("action error", justify="right")
    if policy is not None:
        table.add_column("skill accuracy", justify="right")
    for task, error in [*actions["by_task"].items(), ("all tasks", actions["error"])]:
        row = [escape(task), f"{error:.4f}"]
        if policy is not None:
            accuracy = policy["accuracy"] if task == "all tasks" else policy["by_task"].get(task)
            row.append("" if accuracy is None else f"{accuracy:.0%}")
        if task == "all tasks":
            table.add_section()
        table.add_row(*row)
    return table


def _skills_table(document: dict[str, Any]) -> Table:
    codebook, policy = document["codebook"], document["policy"]
    errors = {one["skill"]: one["error"] for one in document["actions"]["by_skill"]}
    accuracies = {one["skill"]: one["accuracy"] for one in policy["by_skill"]}
    title = f"skills: perplexity {codebook['perplexity']:.1f} of {codebook['size']}"
    caption = "tasks: exp of the entropy of the tasks' shares in a skill's steps"
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD)
    for column in ("skill", "share", "tasks", "mostly", "action error", "accuracy", "mistaken for"):
        table.add_column(column, justify="left" if column == "mostly" else "right", overflow="fold")
    for one in codebook["skills"]:
        skill = one["skill"]
        others = {other: n for other, n in enumerate(policy["confusion"][skill]) if other != skill and n}
        main = max(one["tasks"], key=lambda task: float(one["tasks"][task]))
        table.add_row(
            str(skill),
            f"{one['share']:.1%}",
            f"{one['effective_tasks']:.1f}",
            f"{escape(main)} {one['tasks'][main]:.0%}",
            f"{errors[skill]:.4f}" if skill in errors else "",
            f"{accuracies[skill]:.0%}" if skill in accuracies else "",
            str(max(others, key=lambda other: others[other])) if others else "",
        )
    return table


def _rollouts_table(rollouts: dict[str, Any]) -> Table:
    names = [name for name in ("demonstrations", "oracle", "policy") if name in rollouts]
    caption = f"{rollouts['episodes']} episodes per task, reset with {rollouts['seeds']} seeds"
    if "exact_starts" in rollouts:
        caption += f"; {rollouts['exact_starts']:.0%} of the oracle's starts are its demonstration's"
    table = Table(title="return (success)", caption=caption, box=box.SIMPLE_HEAD)
    table.add_column("task", overflow="fold")
    for name in names:
        table.add_column("oracle's skills" if name == "oracle" else name, justify="right")
    for task in rollouts["demonstrations"]["tasks"]:
        table.add_row(escape(task), *(_return_and_success(rollouts[name]["tasks"][task]) for name in names))
    table.add_section()
    table.add_row(
        "all tasks", *(_return_and_success(rollouts[name]["overall"]) for name in names), style="bold"
    )
    return table


def _return_and_success(summary: dict[str, Any]) -> str:
    success = summary["success"]
    return amount(summary["return_mean"]) + ("" if success is None else f" ({success:.0%})")
