"""Studies in environments: collect data, learn skills from it, learn tasks with them; curves become rows."""

from goskill.experiments.online_studies.running import rows_of_study, run_online_study, show_online_study
from goskill.experiments.online_studies.specification import (
    OnlineStudy,
    is_online_study,
    online_names,
    read_online_study,
)

__all__ = [
    "OnlineStudy",
    "is_online_study",
    "online_names",
    "read_online_study",
    "rows_of_study",
    "run_online_study",
    "show_online_study",
]
