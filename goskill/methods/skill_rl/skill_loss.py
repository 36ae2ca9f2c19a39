"""What skills and their prior are learned by."""

from __future__ import annotations

from torch import Tensor, nn

from goskill.methods.sequence.losses import masked_mean
from goskill.methods.skill_rl.skill_model import SkillModel
from goskill.training import Batch


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
