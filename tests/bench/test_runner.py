"""What the runner of benchmarks keeps."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from goskill.bench import runner


def test_no_row_is_lost_when_several_write_one_file(tmp_path: Path) -> None:
    file = tmp_path / "results" / "rows.jsonl"

    def write(writer: int) -> None:
        for number in range(20):
            runner.append([{"writer": writer, "number": number}], file)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, range(4)))
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert sorted((row["writer"], row["number"]) for row in rows) == [
        (writer, number) for writer in range(4) for number in range(20)
    ]
    assert [path.name for path in file.parent.iterdir()] == [file.name]
