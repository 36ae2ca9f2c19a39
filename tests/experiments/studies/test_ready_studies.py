"""The studies that come with the package can be planned as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from goskill.errors import InputError
from goskill.evaluation.rows import read_rows
from goskill.evaluation.study import parse_study
from goskill.experiments.studies import names, read_study
from goskill.experiments.studies.plan import Data, check_rows, jobs_of

RUNS = {
    "paper-ablations": 6 * 2 * 5,
    "paper-hyperparameters": 14 * 5,
    "paper-ml45": 5 * 2 * 5,
    "paper-mt30": 10 * 2 * 5,
    "paper-mt50": 10 * 2 * 5,
    "small-mt10": 10 * 2 * 3,
    "srtd-mt10": 8 * 10 * 3,
    "srtd-small": 5 * 3 * 2,
    "small-mt10-transformers": 8 * 2 * 3,
}


@pytest.mark.parametrize("name", names())
def test_a_ready_study_names_methods_and_settings_that_exist(name: str) -> None:
    study = read_study(name)
    data = {one: Data(one, one, one, ("reach",), True) for one in study.data}
    jobs = jobs_of(study, data)
    assert len(jobs) == RUNS[name]
    assert len({job.name for job in jobs}) == len(jobs)
    assert len({(job.settings, *job.schedule.values()) for job in jobs}) == len(study.contenders)
    if name.startswith("paper"):
        assert all(source.store and source.suite for source in study.data.values())
        assert {job.iterations for job in jobs} == {100_000}


def test_the_rows_that_are_kept_are_those_of_the_ready_study() -> None:
    folder = Path(__file__).parents[3] / "bench" / "results" / "small-mt10"
    study = parse_study((folder / "study.toml").read_text(), "small-mt10")
    assert study.contenders == read_study("small-mt10").contenders
    rows = read_rows(folder / "rows.jsonl")
    data = {}
    for name in study.training_data:
        (fingerprint,) = {row["fingerprint"] for row in rows if row["data"] == name}
        tasks = tuple(sorted({row["task"] for row in rows}))
        data[name] = Data(name, name, fingerprint, tasks, True)
    jobs = jobs_of(study, data)
    check_rows(rows, jobs, folder / "rows.jsonl")
    found = {(row["contender"], row["data"], row["seed"], row["task"], row["budget"]) for row in rows}
    assert found == {
        (job.contender, job.data, job.seed, task, budget)
        for job in jobs
        for task in job.tasks
        for budget in ("iterations", "seconds")
    }


def test_the_file_of_a_ready_study_is_a_study_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(read_study("small-mt10").text)
    assert read_study(file).contenders == read_study("small-mt10").contenders


BASE = 'seeds = [0]\nreference = "a"\n[data.near]\nstore = "x"\n[[contenders]]\nmethod = "a"\n'


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[0]", "[0", "study s: "),
        ("seeds", "sedes", "did you mean 'seeds'"),
        ('[[contenders]]\nmethod = "a"', "", "at least one of contenders, data and seeds"),
        ('store = "x"', "episodes = 3", "data.near.store: expected a store, or suite or tasks"),
        ("[0]", "[0, 0]", "seeds: expected different ones"),
        ("[data", "[training]\nseed = 3\n[data", "training.seed: the study's seeds decide it"),
        ("[0]", "[-1]", "seeds: expected an integer"),
        ('reference = "a"', 'reference = "b"', "reference: no contender is named 'b'"),
        ('reference = "a"', 'reference = "a"\nbaseline = "b"', "baseline: no contender is named 'b'"),
        ('"x"', '"x"\nsuite = "mt10"\ntasks = ["a"]', "data.near.suite: expected suite or tasks, got both"),
        ('method = "a"', "settings = {}", r"contenders\[0\].method: expected one, found nothing"),
        ('method = "a"', 'method = "a"\n[[contenders]]\nmethod = "a"', "two are named 'a'"),
        ('method = "a"', 'method = "a"\nname = "../b"', r"contenders\[0\].name: expected letters"),
        ('method = "a"', 'method = "a"\nbudgets = ["hours"]', "expected one of 'iterations', 'seconds'"),
        (
            "[data",
            '[finetuning]\npreset = "x"\ndata = "y"\n[data',
            "finetuning.data: expected one of the study's",
        ),
        (
            "[data",
            '[[sweeps]]\nsetting = "x"\ndefault = 1\nvalues = [2]\nsettings = [{}, {}]\n[data',
            "sweep of x: expected 1",
        ),
    ],
)
def test_a_wrong_study_is_refused_by_name(old: str, new: str, message: str) -> None:
    assert parse_study(BASE, "s").reference == "a"
    with pytest.raises(InputError, match=message):
        parse_study(BASE.replace(old, new), "s")


def test_an_unknown_study_is_named_with_what_is_near() -> None:
    with pytest.raises(InputError, match="did you mean 'small-mt10'"):
        read_study("smal-mt10")
    with pytest.raises(InputError, match="no such file"):
        read_study("nowhere.toml")


def test_a_study_that_is_not_utf_8_is_refused_in_a_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(b'title = "caf\xe9"\n')
    with pytest.raises(InputError, match=r"mine\.toml: expected a study in UTF-8"):
        read_study(file)
