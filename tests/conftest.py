"""What makes every run of the suite alike, however it was started and however busy the machine is."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

# A background job of a shell ignores Ctrl-C, and so would the processes that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Other examples are drawn with --hypothesis-profile=default.
settings.register_profile(
    "repeatable", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")
