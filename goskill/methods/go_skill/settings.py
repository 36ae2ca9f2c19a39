"""Every choice that GO-Skill leaves open, with the released code's value as the default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, Literal, get_args, get_type_hints

from goskill.data.selection import check_share
from goskill.settings import BELOW_ONE, NOT_NEGATIVE, POSITIVE, check, check_distinct, refuse


@dataclass(frozen=True)
class GoSkillSettings:
    """Settings of GO-Skill's networks, losses and schedule. Raises InputError that names the setting."""

    # Skills
    horizon: int = 10  # H: environment steps that a skill lasts
    codebook_size: int = 16  # M: number of skills
    embedding_size: int = 64  # length of a skill's vector
    codebook: Literal["ema", "gradient", "none"] = "ema"  # moving average | Eq. 3 | no VQ: continuous skills
    codebook_decay: float = 0.8  # of the moving average
    kmeans_iterations: int = 10  # of the codebook's initialisation on the first batch
    dead_code_threshold: float = 0.0  # codes used less than this often a batch are replaced; 0: never
    commitment_weight: float = 1.0  # alpha of Eq. 3
    goal_dimensions: tuple[int, ...] | None = (
        None  # observation dimensions whose change is the goal; None: all
    )
    skill_source: Literal["goal", "actions"] = (
        "goal"  # what the encoder sees: the change of state | the actions
    )
    reached_goal: bool = True  # the decoder sees the goal reached so far at each step
    multi_head_decoder: bool = False  # MH-GO-Skill: an output layer per skill
    tell_task: bool = False  # the decoder is told the task (one-hot), as bc is; the paper's is not
    told_tasks: tuple[str, ...] = ()  # that it is told apart; those of the store are added

    # Networks
    encoder_width: int = 256  # of the goal encoder's hidden layers
    encoder_layers: int = 3  # hidden layers of the goal encoder
    decoder: Literal["transformer", "mlp"] = (
        "transformer"  # sees what was done since the skill began | sees one step, at a fifth of the cost
    )
    decoder_width: int = 256  # of the skill decoder's tokens, or of its hidden layers
    decoder_layers: int = 6  # transformer blocks of the skill decoder, or its hidden layers
    decoder_heads: int = 8  # attention heads of each block; they divide the width
    policy_width: int = 256  # of the skill policy's tokens
    policy_layers: int = 6  # transformer blocks of the skill policy
    policy_heads: int = 8  # attention heads of each; they divide the width
    dropout: float = 0.1  # of embeddings, attention and residuals, in both transformers
    table_std: float = 1.0  # of the embeddings of steps and times before training; 1: as released
    policy_skill_input: Literal["vector", "index"] = (
        "vector"  # the policy sees codebook vectors | has its own table
    )

    # Skill policy
    context: int = 20  # decision points of history
    prompt_length: int = 10  # decision points of prompt; 0: no prompt
    prompt_episodes: int = 4  # episodes of a task that serve as its prompts
    prompts: str = (
        "best"  # which: best, successful, shortest, a column of the episodes, or a .json file of indices
    )
    max_decisions: int = 1000  # rows of the time tables; episodes may last this many decisions
    return_scale: float = 1000.0  # returns-to-go are divided by this
    policy_loss: Literal["focal", "cross_entropy"] = "focal"  # continuous skills are regressed instead
    focal_gamma: float = 2.0  # focusing parameter of Eq. 9

    # Data and schedule
    best_share: float = 1.0  # of each task's episodes by return, that all of it is learned from; 1: all
    extraction_iterations: int = 30_000  # of encoder, codebook and decoder
    policy_iterations: int = 70_000  # afterwards, each one step of the decoder and, where due, of the policy
    policy_every: int = 1  # a step of the policy is due every so many of these iterations
    skill_batch_per_task: int = 16  # windows per task in a batch of the skill model
    policy_batch_per_task: int = 8  # contexts per task in a batch of the policy
    resampling: bool = (
        True  # enhancement draws equally from all skills; needs a codebook, else from all tasks
    )
    skill_noise: float = 0.0  # share of windows in enhancement shown the skill of another of their task
    action_loss: Literal["mean", "sum"] = "mean"  # over action dimensions: as released | as in the paper

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            value, options = getattr(self, field.name), get_args(hints[field.name])
            if isinstance(field.default, str) and options and value not in options:
                refuse(self, field.name, f"one of {', '.join(map(repr, options))}")
        self._check_ranges()
        self._check_combinations()

    def _check_ranges(self) -> None:
        check(self, POSITIVE, "horizon", "codebook_size", "embedding_size", "kmeans_iterations", "context")
        check(self, POSITIVE, "encoder_width", "encoder_layers", "prompt_episodes", "max_decisions")
        check(self, POSITIVE, "decoder_width", "decoder_layers", "decoder_heads", "table_std")
        check(self, POSITIVE, "policy_width", "policy_layers", "policy_heads", "policy_every", "return_scale")
        check(self, POSITIVE, "skill_batch_per_task", "policy_batch_per_task")
        check(self, NOT_NEGATIVE, "extraction_iterations", "policy_iterations", "prompt_length")
        check(self, NOT_NEGATIVE, "focal_gamma", "commitment_weight", "dead_code_threshold")
        check(self, BELOW_ONE, "dropout", "skill_noise", "codebook_decay")
        check_share("best_share", self.best_share)
        dimensions = self.goal_dimensions
        if dimensions is not None and (
            not dimensions or min(dimensions) < 0 or len(set(dimensions)) < len(dimensions)
        ):
            refuse(self, "goal_dimensions", "a list of different dimensions from 0 on")

    def _check_combinations(self) -> None:
        for network in ("decoder", "policy"):
            width, heads = getattr(self, f"{network}_width"), getattr(self, f"{network}_heads")
            if width % heads:
                refuse(self, f"{network}_heads", f"a divisor of {network}_width = {width}")
        if self.skill_source == "actions" and self.reached_goal:
            refuse(self, "reached_goal", "False with skill_source = 'actions', which has no goal to reach")
        if self.skill_source == "actions" and self.goal_dimensions is not None:
            refuse(self, "goal_dimensions", "None with skill_source = 'actions', which sees no goal")
        check_distinct(self, "told_tasks")
        if self.told_tasks and not self.tell_task:
            refuse(self, "told_tasks", "none with tell_task = False")
        if not self.discrete and self.multi_head_decoder:
            refuse(self, "multi_head_decoder", "False with codebook = 'none', which has no skill index")
        if not self.discrete and self.skill_noise:
            refuse(self, "skill_noise", "0 with codebook = 'none', which has no other skills to draw")
        if not self.discrete and self.policy_skill_input == "index":
            refuse(self, "policy_skill_input", "'vector' with codebook = 'none', which has no skill index")

    @property
    def discrete(self) -> bool:
        """Whether skills come from a codebook."""
        return self.codebook != "none"


ABLATIONS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "no-reached-goal": {"reached_goal": False},
        "no-vq": {"codebook": "none", "skill_noise": 0.0},
        "action-encoder": {"skill_source": "actions", "reached_goal": False},
        "no-resampling": {"resampling": False},
        "no-focal": {"policy_loss": "cross_entropy"},
    }
)
"""The paper's ablations (Tables 1 and 2) as the settings that each changes."""
