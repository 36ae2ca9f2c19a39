"""How SRTD is trained: skills and tasks first, then latents and demonstrations are written, then actor and critics."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from goskill.data import EpisodeStore, TransitionSampler
from goskill.data.mixed_sampler import MixedSampler
from goskill.errors import InputError
from goskill.methods.method import NOTHING, Networks, Sources
from goskill.methods.registry import register
from goskill.methods.sequence.checking import check_dimensions
from goskill.methods.srtd.acting import SRTDPolicy
from goskill.methods.srtd.latent_stores import AUGMENTED, EMBEDDED, episode_quality, write_stores
from goskill.methods.srtd.losses import SRTDSkillLoss, SRTDTaskLoss
from goskill.methods.srtd.networks import SRTDNetworks, networks_from_state
from goskill.methods.srtd.settings import SRTDSettings
from goskill.methods.store_method import StoreMethod, normalize_of
from goskill.methods.td3_bc import TD3BCActorLoss, TD3CriticLoss
from goskill.training import Objective, OptimizerSettings, Phase, TrainingSettings, distributed
from goskill.training.placement import placement, sampled_objective, sampling
from goskill.training.randomness import seeded

NAMES = {"none": "SRTD", "imaginary": "SRTD+ID", "noise": "SRTD+N"}


@register("srtd")
@register("srtd_id", augmentation="imaginary")
class SRTD(StoreMethod):
    """SRTD on the episodes of a store.

    Args:
        settings: of the method.
        store: the training episodes. None: to act only, with ``networks``.
        training: seed and threads are used here.
        folder: where the states with their latents and the imaginary demonstrations are kept, as stores; None: in a
            temporary folder that goes with the method.
        networks: trained networks to act with.

    Raises InputError for settings and a store that do not fit together, and for a store that does not say where
    episodes end unless ``settings.ends`` is "never".
    """

    Settings = SRTDSettings
    settings: SRTDSettings
    networks: SRTDNetworks
    section = "srtd"
    schedule = ("decomposition_iterations", "iterations")
    ablations: ClassVar[Mapping[str, Mapping[str, Any]]] = MappingProxyType(
        {
            "te": {"skill_regularization": 0.0},
            "no-quality": {"quality_weight": False},
            "gaussian-noise": {"augmentation": "noise"},
        }
    )

    def __init__(
        self,
        settings: SRTDSettings,
        store: EpisodeStore | None,
        training: TrainingSettings | None = None,
        folder: Path | None = None,
        *,
        networks: SRTDNetworks | None = None,
    ) -> None:
        super().__init__(settings, store, training, networks=networks)
        if store is None or networks is not None:
            return
        longest = int(store.episode_length.max(initial=0))
        if settings.history > longest:
            raise InputError(
                f"history: expected at most {longest}, the steps of the longest episode of {store.path}, "
                f"got {settings.history}"
            )
        self.store = store
        with seeded(self.training.seed):
            self.networks = SRTDNetworks(settings, normalize_of(store), store.action_dim)
        check_dimensions(self.networks, store)
        self._temporary = tempfile.TemporaryDirectory(prefix="goskill-srtd-") if folder is None else None
        self._folder = folder or Path(self._temporary.name)  # type: ignore[union-attr]
        self._windows()  # refuses what does not fit before anything is written

    @classmethod
    def create(cls, settings: SRTDSettings, sources: Sources, training: TrainingSettings) -> SRTD:
        """A new method to train on a store."""
        return cls(settings, sources.episodes(), training, sources.folder)

    @classmethod
    def restore(cls, settings: SRTDSettings, networks: Networks) -> SRTD:
        """A trained method, to act."""
        return cls(settings, None, networks=networks_from_state(settings, networks))

    def policy(self, precision: str = "float32") -> SRTDPolicy:
        """Acts deterministically, on what it was paid."""
        return SRTDPolicy(self.networks, NAMES[self.settings.augmentation], precision=precision)

    def phases(self) -> Sequence[Phase]:
        settings = self.settings
        about = "learns skills, and tasks as what they have in common with good ones"
        return [
            Phase("decomposition", settings.decomposition_iterations, self._begin_decomposition, about),
            Phase("embedding", 0, self._embed, "writes latents and demonstrations"),
            Phase("learning", settings.iterations, self._begin_learning, "learns values and actions"),
        ]

    def _begin_decomposition(self) -> Sequence[Objective]:
        networks, settings = self.networks, self.settings
        device = networks.normalize.mean.device
        task = SRTDTaskLoss(networks, episode_quality(self.store, settings).to(device))
        plain = OptimizerSettings(settings.learning_rate, "adam")
        # Adam adds the decay to the gradient, and the gradient of w² is 2w.
        decayed = OptimizerSettings(settings.learning_rate, "adam", weight_decay=2 * settings.weight_penalty)
        skills = [networks.skill_encoder, networks.skill_decoder]
        tasks = [networks.task_encoder, networks.task_decoder]
        return [
            sampled_objective(
                "skills",
                self._windows(placement(self.training, self.store)),
                SRTDSkillLoss(networks),
                skills,
                optimizer=plain,
            ),
            Objective("tasks", "skills", task, tasks, optimizer=decayed),
        ]

    def _embed(self) -> Sequence[Objective]:
        self._made()
        return []

    def _begin_learning(self) -> Sequence[Objective]:
        self._made()
        learner, settings = self.networks.learner, self.settings
        counts = {
            EMBEDDED: settings.batch_size - settings.augmented_batch,
            AUGMENTED: settings.augmented_batch,
        }
        stores = {part: EpisodeStore.open(self._folder / part) for part, count in counts.items() if count}
        place = placement(self.training, *stores.values())
        sampler = MixedSampler(
            [self._transitions(store, counts[part], place) for part, store in stores.items()]
        )
        adam = OptimizerSettings(settings.learning_rate, "adam")
        return [
            sampled_objective(
                "critic", sampler, TD3CriticLoss(learner, None), [learner.critic], optimizer=adam
            ),
            Objective(
                "actor",
                "critic",
                TD3BCActorLoss(learner, None),
                [learner.actor],
                every=settings.policy_every,
                optimizer=adam,
                after=learner.update_targets,
            ),
        ]

    def _made(self) -> None:
        """Write the stores, if they are not there."""
        if distributed.rank() == 0:
            write_stores(self.networks, self.store, self._folder, self.training.seed)
        distributed.barrier()

    def _windows(self, place: Mapping[str, Any] = NOTHING) -> TransitionSampler:
        n = self.settings.history
        return TransitionSampler(
            self.store,
            distributed.share(self.settings.decomposition_batch),
            terminated=self.settings.ends,
            window=(n + 1, n),
            normalize=True,
            balance="task",
            **sampling(self.training),
            **place,
        )

    def _transitions(self, store: EpisodeStore, count: int, place: Mapping[str, Any]) -> TransitionSampler:
        return TransitionSampler(
            store,
            distributed.share(count),
            gamma=self.settings.discount,
            balance="task",
            **sampling(self.training),
            **place,
        )
