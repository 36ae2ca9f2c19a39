"""Compare every fast environment with the stock one for whole episodes: ``python sweep_parity.py [seeds]``.

All tasks, 500 steps of scripted, random and extreme actions, resets in between. Takes minutes per seed.
"""

import sys
import warnings

from envs_stock import first_difference

from goskill.envs import tasks_of

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    seeds = range(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    kinds = ["scripted", "random", "extreme", "scripted"]
    runs = [first_difference(task, seed, kinds, 500) for seed in seeds for task in tasks_of("mt50")]
    found = [difference for difference in runs if difference]
    print(f"{len(seeds)} seeds x 50 tasks x {len(kinds)} episodes x 500 steps: {len(found)} differences")
    print(*found, sep="\n")
    sys.exit(bool(found))
