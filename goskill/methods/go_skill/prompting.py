"""Demonstrations as prompts of the skill policy."""

from __future__ import annotations

from collections.abc import Sequence

from goskill.methods.go_skill.labelling import label_episodes
from goskill.methods.go_skill.networks import GoSkillNetworks
from goskill.methods.sequence.prompting import last_decisions
from goskill.models import Decisions
from goskill.rollouts.policy import Demonstration


def read_prompts(networks: GoSkillNetworks, demonstrations: Sequence[Demonstration]) -> Decisions:
    """The last decision points of each demonstration (``last_decisions``), [len(demonstrations), P, ...].

    Skills are labelled by the networks' own skill model.
    """
    settings = networks.settings
    return last_decisions(
        demonstrations,
        networks.policy_input(label_episodes(networks, list(demonstrations))),
        networks.normalize,
        length=settings.prompt_length,
        horizon=settings.horizon,
        return_scale=settings.return_scale,
    )
