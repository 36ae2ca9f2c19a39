"""MTDIFF-P acting by fewer sampling steps (DDIM) than there are: return, success and seconds of the processor.

``python -P -m goskill.bench.sampling_steps RUN --rows FILE 10 5 20`` evaluates a trained run with each number of steps,
in the same episodes, and adds a row for each to FILE; 0 is all diffusion steps, with noise, as released.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from goskill.bench import runner
from goskill.data import EpisodeStore
from goskill.experiments.run_prompts import prompts_of
from goskill.experiments.runs import load_method
from goskill.rollouts import evaluate
from goskill.training import RunFolder


def measure(run: RunFolder, sampling_steps: int, episodes: int) -> dict[str, Any]:
    """A row: how ``episodes`` episodes of each of the run's tasks went, in one batch."""
    method: Any = load_method(run)
    networks = method.networks.eval()
    networks.settings = replace(networks.settings, sampling_steps=sampling_steps)
    shown = EpisodeStore.open(run.prompts)
    tasks, prompts = list(shown.tasks), prompts_of(shown, method.prompt_episodes)
    start = time.process_time()
    results = evaluate(method.policy(), tasks, episodes, prompts=prompts, workers=1)
    seconds = time.process_time() - start
    return {
        "sampling_steps": sampling_steps or "all",
        "diffusion_steps": networks.settings.diffusion_steps,
        "seed": run.path.name,
        "data": run.path.parent.name,
        "tasks": len(tasks),
        **results.overall.to_json(),
        "seconds": round(seconds, 1),
        **runner.provenance(),
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a finished run of mtdiff")
    parser.add_argument("steps", type=int, nargs="+", help="sampling steps; 0: all")
    parser.add_argument("--episodes", type=int, default=5, help="of each task (default: 5)")
    parser.add_argument("--rows", type=Path, required=True, help="JSON-lines file that gets the rows")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    run = RunFolder.open(chosen.run)
    for steps in chosen.steps:
        row = measure(run, steps, chosen.episodes)
        runner.append([row], chosen.rows)
        print(row, flush=True)


if __name__ == "__main__":
    main()
