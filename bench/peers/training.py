"""A plain PyTorch training step of GO-Skill and of Prompt-DT: the same networks and loss, written the
straightforward way.

Batches are built sample by sample, padding is a mask tensor in attention, every token passes every layer, the
encoder runs once for the skill and once for the reached goals, and metrics are read with ``.item()``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from vector_quantize_pytorch import VectorQuantize

from goskill.data import EpisodeStore
from goskill.methods.go_skill import GoSkillNetworks, GoSkillSettings
from goskill.methods.prompt_dt import PromptDTNetworks, PromptDTSettings
from goskill.models import CausalTransformer, DecisionTransformer

Batch = dict[str, Tensor]


def stock_codebook(networks: GoSkillNetworks) -> VectorQuantize:
    """The networks' codebook in the stock package."""
    settings = networks.settings
    codebook = VectorQuantize(
        settings.embedding_size,
        codebook_size=settings.codebook_size,
        decay=settings.codebook_decay,
        commitment_weight=settings.commitment_weight,
        rotation_trick=False,
    )
    assert networks.codebook is not None
    state = {key: value.clone() for key, value in networks.codebook.state_dict().items()}
    codebook.load_state_dict({**codebook.state_dict(), **state})
    return codebook


def skill_loss(networks: GoSkillNetworks, codebook: VectorQuantize, frozen: bool, batch: Batch) -> Tensor:
    """Action error plus VQ loss, or with ``frozen`` encoder and codebook the action error."""
    normalized = networks.normalize(batch["observations"])
    with torch.set_grad_enabled(not frozen):
        embedding = networks.encoder(normalized[:, -1] - normalized[:, 0])
        reached = networks.encoder(normalized[:, :-1] - normalized[:, :1])
        skill, _, vq_loss = codebook(embedding, freeze_codebook=frozen)
    decoder = networks.decoder
    step = decoder.embed_step.weight
    parts = [
        decoder.embed_skill(reached) + step,
        decoder.embed_state(normalized[:, :-1]) + step,
        decoder.embed_action(batch["actions"]) + step,
    ]
    steps = torch.stack(parts, dim=2).flatten(1, 2)
    tokens = decoder.embedding_norm(torch.cat([decoder.embed_skill(skill)[:, None], steps], dim=1))
    mask = F.pad(batch["mask"].repeat_interleave(3, dim=1), (1, 0), value=True)
    hidden = _transform(decoder.transformer, tokens, mask)
    predicted = torch.tanh(decoder.action_head(hidden[:, 2::3]))
    valid = batch["mask"].reshape(-1)
    error = F.mse_loss(
        predicted.reshape(-1, decoder.action_dim)[valid],
        batch["actions"].reshape(-1, decoder.action_dim)[valid],
    )
    return error if frozen else error + vq_loss.sum()


def policy_loss(networks: GoSkillNetworks, batch: Batch) -> Tensor:
    """Focal loss of the skills at the decision points that are not padding."""
    policy = networks.policy
    choices = {prefix: networks.vectors(batch[f"{prefix}skills"]) for prefix in ("prompt_", "")}
    scores = policy.skill_head(_at_states(policy, networks.normalize, choices, batch))
    valid = batch["mask"].reshape(-1)
    log_p = F.log_softmax(scores.reshape(-1, scores.shape[-1])[valid], dim=-1)
    log_p = log_p.gather(1, batch["skills"].reshape(-1, 1)[valid])
    return -((1 - log_p.exp()) ** networks.settings.focal_gamma * log_p).mean()


def action_loss(networks: PromptDTNetworks, batch: Batch) -> Tensor:
    """Action error at the steps that are not padding."""
    policy = networks.policy
    choices = {prefix: batch[f"{prefix}actions"] for prefix in ("prompt_", "")}
    predicted = torch.tanh(policy.action_head(_at_states(policy, networks.normalize, choices, batch)))
    valid = batch["mask"]
    return F.mse_loss(predicted[valid], batch["actions"][valid])


def _at_states(
    policy: DecisionTransformer, normalize: nn.Module, choices: dict[str, Tensor], batch: Batch
) -> Tensor:
    """Hidden states at the history's state tokens behind the prompt: [B, K, width]."""
    parts, masks = [], []
    for prefix, embedding in (("prompt_", policy.prompt_embedding), ("", policy.embedding)):
        assert embedding is not None
        rows = [
            embedding.return_to_go(batch[f"{prefix}returns_to_go"]),
            embedding.state(normalize(batch[f"{prefix}observations"])),
            embedding.choice(choices[prefix]),
        ]
        time = embedding.time(batch[f"{prefix}timesteps"])
        tokens = (torch.stack(rows, dim=2) + time[:, :, None]).flatten(1, 2)
        parts.append(tokens if prefix else policy.embedding_norm(tokens))
        masks.append(batch[f"{prefix}mask"].repeat_interleave(3, dim=1))
    hidden = _transform(policy.transformer, torch.cat(parts, dim=1), torch.cat(masks, dim=1))
    history = 3 * batch["mask"].shape[1]
    return hidden[:, -history:][:, 1::3]


def _transform(transformer: CausalTransformer, tokens: Tensor, mask: Tensor) -> Tensor:
    B, L, W = tokens.shape
    causal = torch.ones(L, L, dtype=torch.bool, device=tokens.device).tril()
    itself = torch.eye(L, dtype=torch.bool, device=tokens.device)
    allowed = (causal & mask[:, None, None, :]) | itself
    dropout, training = transformer.dropout, transformer.training
    tokens = F.dropout(tokens, dropout, training)
    for block in transformer.blocks:
        projected = block.query_key_value(block.attention_norm(tokens)).split(W, dim=-1)
        query, key, value = (part.view(B, L, block.heads, -1).transpose(1, 2) for part in projected)
        attended = F.scaled_dot_product_attention(
            query, key, value, attn_mask=allowed, dropout_p=dropout if training else 0.0
        )
        output = block.attention_output(attended.transpose(1, 2).reshape(B, L, W))
        tokens = tokens + F.dropout(output, dropout, training)
        hidden = F.relu(block.feedforward_input(block.feedforward_norm(tokens)))
        tokens = tokens + F.dropout(block.feedforward_output(hidden), dropout, training)
    result: Tensor = transformer.final_norm(tokens)
    return result


@torch.no_grad()
def plain_labels(
    networks: GoSkillNetworks, codebook: VectorQuantize, store: EpisodeStore
) -> np.ndarray[Any, Any]:
    """The skill of every step, int64 [num_steps], a trajectory at a time."""
    horizon, labels = networks.settings.horizon, []
    for index in range(store.num_episodes):
        observations = networks.normalize(torch.tensor(np.asarray(store.episode(index).observations)))
        steps = len(observations) - 1
        later = (torch.arange(steps) + horizon).clamp(max=steps)
        embedding = networks.encoder(observations[later] - observations[:steps])
        labels.append(codebook(embedding, freeze_codebook=True)[1].numpy())
    return np.concatenate(labels)


class ReleasedLabels:
    """Labelling step by step as the released code has it: trajectories in memory, fifty of a task at a time.

    Its windows are built sample by sample; the encoder reads every transition twice, once for the skill and once
    for the change from the first state of the window to itself, which nobody uses; gradients are recorded; and the
    index of each class is gathered trajectory by trajectory. Only its slip in the last windows of a trajectory,
    where the last next state stays un-normalised, is left out, so that the labels are those of the others.
    """

    TRAJECTORIES = 50

    def __init__(self, networks: GoSkillNetworks, codebook: VectorQuantize, store: EpisodeStore) -> None:
        self._networks, self._codebook = networks, codebook
        self._mean, self._std = networks.normalize.mean.numpy()[None], networks.normalize.std.numpy()[None]
        self._tasks: list[list[dict[str, Any]]] = [[] for _ in store.tasks]
        for index in range(store.num_episodes):
            observations = np.array(store.episode(index).observations)
            trajectory = {"observations": observations[:-1], "next_observations": observations[1:]}
            self._tasks[store.episode_task[index]].append(trajectory)

    def run(self) -> np.ndarray[Any, Any]:
        """The skill of every step, int64 [num_steps], in the order of the tasks."""
        classes = self._networks.settings.codebook_size
        places: list[list[np.ndarray[Any, Any]]] = [[] for _ in range(classes)]
        for task, trajectories in enumerate(self._tasks):
            for begin in range(0, len(trajectories), self.TRAJECTORIES):
                several = trajectories[begin : begin + self.TRAJECTORIES]
                lengths = [len(trajectory["observations"]) for trajectory in several]
                states, goals = self._windows(several)
                skill = self._networks.encoder(goals[:, -1] - states[:, 0])
                self._networks.encoder(states - states[:, :1])
                found = self._codebook(skill[:, None], freeze_codebook=True)[1][:, 0]
                labels = np.split(found.detach().cpu().numpy(), np.cumsum(lengths)[:-1])
                for trajectory, own in zip(several, labels, strict=True):
                    trajectory["skills"] = own
                for skill_class in range(classes):
                    for place, own in enumerate(labels):
                        steps = np.argwhere(own == skill_class)
                        if len(steps):
                            where = np.ones_like(steps)
                            rows = [where * task, where * (begin + place), steps]
                            places[skill_class].append(np.concatenate(rows, axis=1))
        for rows in places:
            if rows:
                np.concatenate(rows, axis=0)
        return np.concatenate([trajectory["skills"] for task in self._tasks for trajectory in task])

    def _windows(self, trajectories: list[dict[str, Any]]) -> tuple[Tensor, Tensor]:
        """First states and goal states of the windows of all steps: float32 [steps, 1, observation_dim] each."""
        H = self._networks.settings.horizon
        total = sum(len(trajectory["observations"]) for trajectory in trajectories)
        states = np.zeros((total, 1, self._mean.shape[1]), np.float32)
        goals, mask = np.zeros_like(states), np.zeros((total, 1), np.float32)
        row = 0
        for trajectory in trajectories:
            length = len(trajectory["observations"])
            for step in range(length):
                at = np.arange(step, min(step + H, length), H)
                states[row] = (trajectory["observations"][at] - self._mean) / self._std
                later = np.minimum(at + H - 1, length - 1)
                goals[row] = (trajectory["next_observations"][later] - self._mean) / self._std
                mask[row] = 1
                row += 1
        return torch.from_numpy(states), torch.from_numpy(goals)


class PlainBatches:
    """Builds batches sample by sample from episodes in memory."""

    def __init__(
        self,
        store: EpisodeStore,
        settings: GoSkillSettings | PromptDTSettings,
        *,
        horizon: int,
        labels: str | None,
    ) -> None:
        """Contexts hold skills with ``labels``, actions without."""
        self._horizon, self._context, self._prompt = horizon, settings.context, settings.prompt_length
        self._scale = settings.return_scale
        self._choice = "actions" if labels is None else "skills"
        every = np.zeros(store.num_steps) if labels is None else store.labels(labels)
        ends = np.cumsum(store.episode_length)
        self._episodes: list[dict[str, Any]] = []
        for index, end in enumerate(ends):
            episode = store.episode(index)
            T = len(episode.actions)
            self._episodes.append(
                {
                    "observations": np.asarray(episode.observations),
                    "actions": np.asarray(episode.actions),
                    "returns": np.cumsum(episode.rewards[::-1].astype(np.float64))[::-1] / self._scale,
                    "skills": every[end - T : end].astype(np.int64),
                }
            )

    def segments(self, episodes: np.ndarray[Any, Any], starts: np.ndarray[Any, Any]) -> Batch:
        """Windows that begin at ``starts`` [B] of ``episodes`` [B]."""
        H = self._horizon
        samples = []
        for index, start in zip(episodes, starts, strict=True):
            episode = self._episodes[index]
            actions = episode["actions"][start : start + H]
            count = len(actions)
            pad = [(0, H - count), (0, 0)]
            states = np.pad(episode["observations"][start : start + count], pad)
            goal = episode["observations"][start + count]
            samples.append((np.concatenate([states, goal[None]]), np.pad(actions, pad), np.arange(H) < count))
        return _stack(("observations", "actions", "mask"), samples)

    def contexts(
        self,
        episodes: np.ndarray[Any, Any],
        starts: np.ndarray[Any, Any],
        prompts: np.ndarray[Any, Any],
    ) -> Batch:
        """Decision points from ``starts`` [B] on, which may lie before the episode, and ends of ``prompts``."""
        H, K, P = self._horizon, self._context, self._prompt
        history = [
            self._decisions(self._episodes[index], int(start), K)
            for index, start in zip(episodes, starts, strict=True)
        ]
        shown = []
        for index in prompts:
            T = len(self._episodes[index]["actions"])
            shown.append(
                self._decisions(self._episodes[index], T - P * H if P * H <= T else T - T // H * H, P)
            )
        names = ("observations", "returns_to_go", "timesteps", self._choice, "mask")
        return {**_stack(names, history), **_stack([f"prompt_{name}" for name in names], shown)}

    def _decisions(self, episode: dict[str, Any], start: int, count: int) -> tuple[np.ndarray[Any, Any], ...]:
        T = len(episode["actions"])
        times = np.array(
            [t for t in range(start, start + count * self._horizon, self._horizon) if 0 <= t < T]
        )
        missing = count - len(times)

        def padded(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            return np.concatenate([np.zeros((missing, *rows.shape[1:]), rows.dtype), rows])

        return (
            padded(episode["observations"][times]),
            padded(episode["returns"][times, None].astype(np.float32)),
            padded(times // self._horizon),
            padded(episode[self._choice][times]),
            np.arange(count) >= missing,
        )


class PlainStep:
    """One optimisation step as it is usually written. ``run`` returns what a progress bar would show."""

    def __init__(
        self, loss: Callable[[Batch], Tensor], modules: list[nn.Module], device: torch.device
    ) -> None:
        self._loss = loss
        self._device = device
        self._parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(self._parameters, lr=3e-4, weight_decay=1e-4)

    def run(self, batch: Batch) -> tuple[float, float]:
        batch = {name: tensor.to(self._device) for name, tensor in batch.items()}
        loss = self._loss(batch)
        self._optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        return loss.item(), norm.item()


def _stack(names: Any, samples: list[tuple[np.ndarray[Any, Any], ...]]) -> Batch:
    return {
        name: torch.from_numpy(np.stack(rows))
        for name, rows in zip(names, zip(*samples, strict=True), strict=True)
    }
