"""What the action policy gets right with the true history given."""

from __future__ import annotations

import numpy as np
import torch

from goskill.data import EpisodeStore
from goskill.methods.prompt_dt.contexts import contexts
from goskill.methods.prompt_dt.networks import PromptDTNetworks
from goskill.methods.sequence.checking import check_dimensions
from goskill.methods.sequence.predictions import BATCH, ActionPredictions, as_array, batches, repeat


@torch.inference_mode()
def predict_actions(
    networks: PromptDTNetworks, store: EpisodeStore, samples: int, seed: int = 0
) -> ActionPredictions:
    """Actions after the true states, returns and actions so far, behind the store's own prompts.

    ``samples`` contexts, the same number from each task. Raises InputError for a store of other observations or
    actions than the networks', and for tasks that they would have to know and do not.
    """
    check_dimensions(networks, store)
    settings = networks.eval().settings
    places = networks.task_index(store.tasks)
    sampler = contexts(settings, store, min(BATCH, samples), seed=seed)
    parts = []
    for batch, rows in batches(sampler, networks.normalize.mean.device, samples):
        actions = networks.predict(batch, places, store.tasks)
        valid = batch["mask"].cpu().numpy()[:rows]
        of_task = repeat(batch["task"], valid.shape[1])[:rows][valid]
        parts.append(
            ActionPredictions(
                as_array(actions)[:rows][valid],
                as_array(batch["actions"])[:rows][valid],
                of_task,
                np.zeros_like(of_task),
                None,
            )
        )
    return ActionPredictions.join(parts)
