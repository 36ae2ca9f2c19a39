"""How skills and their prior are learned from episodes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from goskill.data import EpisodeStore, SegmentSampler
from goskill.methods.sequence.losses import masked_mean
from goskill.methods.skill_rl.skill_model import SkillModel
from goskill.training import Batch, Objective, OptimizerSettings, Phase, TrainingSettings, distributed
from goskill.training.placement import sampled_objective, sampling


class SkillModelLoss(nn.Module):
    """A beta-VAE of windows, and the prior's likelihood of their skills (SPiRL, Eq. 2 and 3), as released.

    Each term is a mean over elements; actions have unit variance. The prior learns from the skills and does not
    change them.
    """

    def __init__(self, model: SkillModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """A batch of ``SegmentSampler``, not normalised -> loss, metrics."""
        model, mask = self.model, batch["mask"]
        states = batch["observations"][:, :-1]
        posterior = model.encode(states, batch["actions"], mask.sum(1))
        skill = posterior.sample()
        error = (model.decode(states, skill).float() - batch["actions"]).square().mean(-1)
        action_error = masked_mean(error, mask)
        divergence = posterior.divergence_from_standard().mean()
        prior = model.prior(batch["observations"][:, 0])
        surprise = -prior.log_density(skill.detach()).mean()
        loss = 0.5 * action_error + model.settings.beta * divergence + surprise
        metrics = {
            "action_error": action_error.detach(),
            "divergence": divergence.detach(),
            "prior_nll": surprise.detach(),
        }
        return loss, metrics


def skills_phase(model: SkillModel, store: EpisodeStore, training: TrainingSettings) -> Phase:
    """Windows drawn uniformly from all steps of ``store``; what is declared per task is not looked at."""
    settings = model.settings

    def begin() -> Sequence[Objective]:
        windows = SegmentSampler(
            store,
            horizon=settings.horizon,
            batch_size=distributed.share(settings.skill_batch_size),
            balance="transition",
            **sampling(training, store),
        )
        trained = [model.encoder, model.decoder, model.prior_network]
        objective = sampled_objective("skills", windows, SkillModelLoss(model), trained)
        objective.optimizer = OptimizerSettings(
            settings.skill_learning_rate,
            "radam",
            decay_iterations=settings.skill_decay_iterations,
            gradient_clip=1.0,
        )
        return [objective]

    return Phase("skills", settings.skill_iterations, begin, "learns skills and their prior")
