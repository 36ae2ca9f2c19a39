"""TD3+BC in a training loop of one's own. Run: python td3_bc_loop.py STORE [STEPS]

The batches come from the store, the networks and losses are goskill's, everything else is here to be changed.
"""

from __future__ import annotations

import sys

import torch

from goskill.data import EpisodeStore, TransitionSampler
from goskill.methods.td3_bc import TD3BCActorLoss, TD3BCNetworks, TD3BCSettings, TD3CriticLoss
from goskill.models import Normalize


def main(path: str, steps: int = 1_000) -> TD3BCNetworks:
    store = EpisodeStore.open(path)
    settings = TD3BCSettings(tasks=tuple(store.tasks), learning_rate=3e-4, batch_size=256)
    normalization = store.normalization()
    normalize = Normalize(torch.as_tensor(normalization.mean), torch.as_tensor(normalization.std))
    networks = TD3BCNetworks(settings, normalize, store.action_dim)
    tasks = networks.task_index(store.tasks)  # where the networks are told each of the store's tasks
    critic_loss, actor_loss = TD3CriticLoss(networks, tasks), TD3BCActorLoss(networks, tasks)
    critic = torch.optim.Adam(networks.critic.parameters(), settings.learning_rate)
    actor = torch.optim.Adam(networks.actor.parameters(), settings.learning_rate)

    batches = TransitionSampler(store, settings.batch_size, gamma=settings.discount, balance="task")
    for step, batch in zip(range(steps), batches, strict=False):
        loss, found = critic_loss(batch)
        critic.zero_grad()
        loss.backward()
        critic.step()
        if step % settings.policy_every == 0:
            error, _ = actor_loss(batch)
            actor.zero_grad()
            error.backward(inputs=list(networks.actor.parameters()))  # not into the critic's
            actor.step()
            networks.update_targets()
        if step % 100 == 0:
            print(f"{step}: critic {loss.item():.3f}, value {found['value'].item():.3f}")
    return networks


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:3]))
