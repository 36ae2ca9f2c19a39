"""Whether a decoder looks at the goal: its answer to a goal that was moved 7 cm away from the hand, on reach.

``python -P -m goskill.bench.goal_probe RUN DATA`` trains new memoryless decoders over the skills of a trained run, on
enhancement's windows, in the ways of ``WAYS``, and prints a row for each. At steps 100 to 480 of reach's best episodes
the hand is at the goal. The goal is put elsewhere, the skill says to stay, and the decoder's actions are regressed on
the scripted expert's (10 times the distance, clipped). A gain of 1 is the expert's, 0 is blind to the goal.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from goskill.bench.runner import provenance
from goskill.data import EpisodeStore
from goskill.experiments.runs import load_method
from goskill.methods.go_skill import GoSkill, GoSkillNetworks
from goskill.models import StepDecoder, scale_tables
from goskill.training import Objective, RunFolder, TrainingSettings

HAND, GOAL = slice(0, 3), slice(36, 39)
DISTANCE = 0.07  # metres
EPISODES, STEPS = 20, 20  # that are looked at
RATE = 1e-3
WAYS: Mapping[str, Mapping[str, Any]] = {
    "tables as released": {"table_std": 1.0},
    "tables as released, skills swapped": {"table_std": 1.0, "skill_noise": 0.99},
    "small tables": {},
    "small tables, skills swapped": {"skill_noise": 0.99},
    "small tables, no resampling": {"resampling": False},
}


def probe(networks: GoSkillNetworks, store: EpisodeStore) -> dict[str, list[float]]:
    """Gain and correlation of the actions in x, y and z."""
    seen, wanted = _moved_goals(store)
    networks.eval()
    assert networks.codebook is not None
    with torch.inference_mode():
        still = networks.assign(networks.encoder(torch.zeros(1, seen.shape[1])))
        skill = networks.vectors(still).expand(len(seen), -1)
        states = networks.normalize(torch.from_numpy(seen))[:, None]
        states = networks.decoder_states(states, networks.told(["reach"] * len(seen)))
        actions = networks.decoder(skill, None, None, states, torch.zeros(len(seen), 1, networks.action_dim))
    networks.train()
    acted = actions[:, 0, HAND].numpy()
    return {
        "gain": ((acted * wanted).sum(0) / np.square(wanted).sum(0)).round(3).tolist(),
        "correlation": [round(float(np.corrcoef(acted[:, k], wanted[:, k])[0, 1]), 3) for k in range(3)],
    }


def train(run: Path, store: EpisodeStore, way: Mapping[str, Any], iterations: int) -> GoSkillNetworks:
    """A run's networks with a new decoder, trained on enhancement's windows."""
    method: Any = load_method(RunFolder.open(run))
    changes = {name: value for name, value in way.items() if name != "table_std"}
    settings = replace(method.settings, extraction_iterations=0, **{"skill_noise": 0.0, **changes})
    learner = GoSkill(settings, store, TrainingSettings(seed=77, device="cpu"), networks=method.networks)
    torch.manual_seed(0)
    decoder = StepDecoder(
        store.observation_dim + len(settings.told_tasks),
        store.action_dim,
        settings.embedding_size,
        settings.horizon,
        width=settings.decoder_width,
        layers=settings.decoder_layers,
        reached_goal=settings.reached_goal,
    )
    scale_tables([decoder.embed_step], way.get("table_std", 0.02))
    learner.networks.decoder.load_state_dict(decoder.state_dict())
    _minimize(next(one for one in learner.phases()[-1].begin() if one.name == "skill"), iterations)
    return learner.networks


def _minimize(objective: Objective, iterations: int) -> None:
    parameters = [one for module in objective.modules for one in module.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(parameters, RATE)
    batches = iter(objective.sampler)  # type: ignore[arg-type]
    for iteration in range(iterations):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, 2 * (iterations - iteration) / iterations)
        optimizer.zero_grad()
        objective.loss(next(batches))[0].backward()
        optimizer.step()


def _moved_goals(store: EpisodeStore) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    random = np.random.default_rng(0)
    best = store.best_episodes("reach", EPISODES)
    seen = np.stack(
        [store.episode(index).observations[t] for index in best for t in random.integers(100, 480, STEPS)]
    )
    direction = random.normal(size=(len(seen), 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    seen[:, GOAL] = seen[:, HAND] + DISTANCE * direction
    return seen, np.clip(10 * (seen[:, GOAL] - seen[:, HAND]), -1, 1)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run of GO-Skill with decoder = 'mlp' and no reached goal")
    parser.add_argument("data", type=Path, help="its store, with reach")
    parser.add_argument("--iterations", type=int, default=600)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    store = EpisodeStore.open(chosen.data)
    for name, way in WAYS.items():
        networks = train(chosen.run, store, way, chosen.iterations)
        found = {"way": name, "iterations": chosen.iterations, **probe(networks, store), **provenance()}
        print(json.dumps(found, sort_keys=True), flush=True)


if __name__ == "__main__":
    main()
