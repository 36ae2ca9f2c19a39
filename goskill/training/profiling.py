"""A trace of a few iterations, for chrome://tracing or Perfetto."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

SKIPPED, WARMUP, RECORDED = 5, 2, 5  # iterations


class PhaseProfile:
    """Records iterations 8 to 12 of the ``left`` ones and writes them to ``file`` when they are through.

    Where there are fewer than 12 it records the last ones.
    """

    def __init__(self, file: Path, device: torch.device, left: int) -> None:
        spare = max(left - RECORDED, 0)
        warmup = min(WARMUP, spare)
        file.parent.mkdir(exist_ok=True)
        activities = [ProfilerActivity.CPU]
        if device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._profile = profile(
            activities=activities,
            schedule=schedule(wait=min(SKIPPED, spare - warmup), warmup=warmup, active=RECORDED, repeat=1),
            on_trace_ready=lambda trace: trace.export_chrome_trace(str(file)),
        )
        self._profile.start()

    def iteration(self) -> None:
        """One iteration is through."""
        self._profile.step()

    def close(self) -> None:
        self._profile.stop()
