"""Feed training code of the Prompt-DT family from a store. Run: python prompt_dt_batches.py STORE

In code that builds its own lists of trajectories, two lines change:

    from goskill.compat.prompt_dt import get_prompt_batch       # instead of its own module
    from goskill.compat.prompt_dt import get_batch_for_skill

The calls stay: below as the released GO-Skill makes them; Prompt-DT's and HarmoDT's, with ``variant``, work as well.
"""

from __future__ import annotations

import sys

from goskill.compat.prompt_dt import from_store, get_prompt_batch
from goskill.data import EpisodeStore


def main(path: str) -> None:
    trajectories, prompts, info, tasks = from_store(EpisodeStore.open(path))
    keys = ["observations", "actions", "return_to_gos", "timesteps"]
    draw = get_prompt_batch(trajectories, prompts, info, tasks, True, False, keys=keys)
    prompt, batch = draw(batch_size=8, max_len=20, prompt_episode=1, prompt_length=5, l_blank=19)
    for name, in_prompt, in_batch in zip([*keys, "mask"], prompt or [], batch, strict=True):
        print(name, tuple(in_prompt.shape), tuple(in_batch.shape))


if __name__ == "__main__":
    main(sys.argv[1])
