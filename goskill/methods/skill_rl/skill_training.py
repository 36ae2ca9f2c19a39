"""The phase in which skills and their prior are learned from episodes."""

from __future__ import annotations

from collections.abc import Sequence

from goskill.data import EpisodeStore, SegmentSampler
from goskill.methods.skill_rl.skill_loss import SkillModelLoss
from goskill.methods.skill_rl.skill_model import SkillModel
from goskill.training import Objective, OptimizerSettings, Phase, TrainingSettings, distributed
from goskill.training.placement import placement, sampled_objective


def skills_phase(model: SkillModel, store: EpisodeStore, training: TrainingSettings) -> Phase:
    """Windows drawn uniformly from all steps of ``store``; what is declared per task is not looked at."""
    settings = model.settings

    def begin() -> Sequence[Objective]:
        windows = SegmentSampler(
            store,
            horizon=settings.horizon,
            batch_size=distributed.share(settings.skill_batch_size),
            balance="transition",
            seed=training.seed,
            threads=training.threads or 1,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
            **placement(training, store),
        )
        trained = [model.encoder, model.decoder, model.prior_network]
        objective = sampled_objective("skills", windows, SkillModelLoss(model), trained)
        objective.optimizer = OptimizerSettings(settings.skill_learning_rate, "radam", gradient_clip=1.0)
        return [objective]

    return Phase("skills", settings.skill_iterations, begin, "learns skills and their prior")
