"""How MTDIFF-P is trained: one network, on plans of all tasks at random steps of the diffusion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from goskill.data import ContextSampler, EpisodeStore
from goskill.data.selection import best_share, select_episodes
from goskill.errors import InputError
from goskill.methods.method import Networks
from goskill.methods.mtdiff.acting import MTDiffPolicy
from goskill.methods.mtdiff.networks import MTDiffNetworks, networks_from_state
from goskill.methods.mtdiff.settings import OBSERVATIONS, MTDiffSettings
from goskill.methods.registry import register
from goskill.methods.sequence.checking import check_dimensions, check_trained
from goskill.methods.store_method import FineTunableStoreMethod, normalize_of
from goskill.training import Batch, Objective, Phase, TrainingSettings, distributed
from goskill.training.placement import sampled_objective, sampling
from goskill.training.randomness import seeded

# What may change when trained networks go on or act: it is in no network.
FREE = frozenset(
    {"iterations", "batch_per_task", "best_share", "prompt_episodes", "prompts", "sampling_steps", "guidance"}
    | {"noise_scale", "actions_per_plan", "return_dropout", "first_action_weight"}
)


@register("mtdiff")
class MTDiff(FineTunableStoreMethod):
    """MTDIFF-P on a store of episodes.

    Args:
        settings: of the method.
        store: the training episodes. None: to act only, with ``networks``.
        training: seed and threads are used here.
        networks: trained networks to go on from (fine-tuning) or to act with. None makes new ones.

    Raises InputError for settings, networks and store that do not fit together.
    """

    Settings = MTDiffSettings
    settings: MTDiffSettings
    networks: MTDiffNetworks

    def __init__(
        self,
        settings: MTDiffSettings,
        store: EpisodeStore | None,
        training: TrainingSettings | None = None,
        *,
        networks: MTDiffNetworks | None = None,
    ) -> None:
        super().__init__(settings, store, training, networks=networks)
        if store is None:
            return
        longest = int(store.episode_length.max())
        if longest < settings.plan:
            raise InputError(
                f"plan: expected at most {longest}, the longest episode's steps, got {settings.plan}"
            )
        if networks is None:
            with seeded(self.training.seed):
                networks = MTDiffNetworks(settings, normalize_of(store), store.action_dim)
        else:
            check_trained(settings, networks.settings, FREE)
        check_dimensions(networks, store)
        networks.settings = settings
        self.store, self.networks = store, networks

    @classmethod
    def restore(cls, settings: MTDiffSettings, networks: Networks) -> MTDiff:
        """A trained method, to act and to fine-tune."""
        return cls(settings, None, networks=networks_from_state(settings, networks))

    def policy(self, precision: str = "float32") -> MTDiffPolicy:
        """Plans anew as its settings say."""
        return MTDiffPolicy(self.networks, precision=precision)

    def phases(self) -> Sequence[Phase]:
        about = "learns which noise is in noisy plans of all tasks"
        return [Phase("diffusion", self.settings.iterations, self._begin, about)]

    def _begin(self) -> Sequence[Objective]:
        device = self.networks.normalize.mean.device
        lengths = torch.as_tensor(np.array(self.store.episode_length, dtype=np.int64), device=device)
        loss = PlanLoss(self.networks, lengths)
        return [sampled_objective("diffusion", self._contexts(), loss, [self.networks.denoiser])]

    def _contexts(self) -> ContextSampler:
        """Windows of a plan and the observation before it, behind the last steps of a demonstration."""
        settings, store = self.settings, self.store
        tasks_with_episodes = len(np.unique(store.episode_task))
        return ContextSampler(
            store,
            horizon=1,
            context=settings.plan + OBSERVATIONS - 1,
            prompt=settings.prompt_length,
            batch_size=distributed.share(settings.batch_per_task * tasks_with_episodes),
            prompt_episodes=select_episodes(store, settings.prompts, settings.prompt_episodes),
            return_scale=settings.reward_scale,
            actions=True,
            episodes=best_share(store, settings.best_share),
            **sampling(self.training, store),
        )


class PlanLoss(nn.Module):
    """Huber error of the noise in plans, the first action's weighted more, as released."""

    weights: Tensor

    def __init__(self, networks: MTDiffNetworks, lengths: Tensor) -> None:
        """``lengths`` int64 [episodes of the store], on the networks' device."""
        super().__init__()
        self.networks = networks
        self.lengths = lengths
        weights = torch.ones(networks.settings.plan, 1, device=lengths.device)
        weights[0] = networks.settings.first_action_weight
        self.weights = weights

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """A batch of ``ContextSampler`` with horizon 1 and actions, not normalised -> loss, metrics."""
        networks, actions = self.networks, batch["actions"][:, OBSERVATIONS - 1 :]
        step = torch.randint(networks.diffusion.steps, (len(actions),), device=actions.device)
        told = (
            torch.rand(len(actions), 1, device=actions.device) >= networks.settings.return_dropout
        ).float()
        return self.error(batch, step, told, torch.randn_like(actions))

    def error(
        self, batch: Batch, step: Tensor, told: Tensor, noise: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """With given diffusion steps int64 [B], who is told the return [B, 1], and noise [B, plan, action_dim].

        Plans that would begin before the episode do not count.
        """
        networks, now = self.networks, OBSERVATIONS - 1
        actions = batch["actions"][:, now:]
        left = self.lengths.index_select(0, batch["episode"])[:, None] - batch["timesteps"][:, now : now + 1]
        wanted = networks.denoiser.embed_return(batch["returns_to_go"][:, now] / left, told)
        prompt = networks.embed_prompt(
            batch["prompt_observations"], batch["prompt_actions"], batch["prompt_mask"]
        )
        states = networks.embed_states(
            batch["observations"][:, :OBSERVATIONS], batch["mask"][:, :OBSERVATIONS]
        )
        noisy = networks.diffusion.noised(actions, noise, step)
        predicted = networks.denoiser(noisy, step, wanted, prompt, states).float()
        error = F.smooth_l1_loss(predicted, noise, reduction="none") * self.weights
        begins = batch["mask"][:, now].float()
        mean = distributed.global_mean((error.mean((1, 2)) * begins).sum(), begins.sum())
        return mean, {"noise_error": (predicted - noise).square().mean().detach()}
