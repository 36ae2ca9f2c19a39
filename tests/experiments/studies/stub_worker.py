"""Stands for the training of a run: JOB RUN THREADS, with the results to copy named in the environment.

It notes each start, and as its contender's name says it finishes, fails, or goes on until it is asked to end.
"""

import json
import os
import shutil
import sys
from pathlib import Path

job, run = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
run.mkdir(exist_ok=True)
with open(run / "starts", "a") as starts:
    starts.write(f"{os.environ['OMP_NUM_THREADS']}\n")
if "fails" in job["contender"] and not Path(os.environ["STUB_MENDED"]).exists():
    print("error: it cannot be done")
    sys.exit(2)
if "hangs" in job["contender"] and not Path(os.environ["STUB_MENDED"]).exists():
    while os.read(0, 4096):
        pass
    (run / "checkpoint").touch()
    sys.exit(143)
iterations = sum(job["schedule"].values())
cost = 3.0 if "slow" in job["contender"] else 1.0
line = {"step": iterations, "seconds": 2 * cost * iterations, "cpu_seconds": cost * iterations}
line["device"] = os.environ.get("STUB_DEVICE", "cpu")
(run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
shutil.copy(os.environ["STUB_RESULTS"], run / "results.json")
