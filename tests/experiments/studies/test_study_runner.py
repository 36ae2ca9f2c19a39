"""A study runs what is missing, keeps what is there, and mixes nothing, whatever happens in between."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from goskill.data import StoreWriter
from goskill.errors import InputError
from goskill.evaluation.points import add_point
from goskill.evaluation.results import Protocol, Results, Skills, TaskEpisodes
from goskill.evaluation.rows import append_rows, read_rows
from goskill.evaluation.skills import DataSkills, skills_of
from goskill.evaluation.study import DataSource, parse_study
from goskill.evaluation.study_table import groups, markdown
from goskill.experiments.studies import run_study, show_study
from goskill.experiments.studies.finished import rows_of
from goskill.experiments.studies.plan import (
    FinetuningJob,
    comparable_seconds,
    open_data,
    same_seconds,
    with_seconds,
)
from goskill.experiments.studies.processes import Place, places
from goskill.experiments.studies.runner import Runner, StudyFolder
from goskill.experiments.studies.study_progress import StudyProgress

TASKS = ("reach", "door-close")
WORKER = (sys.executable, str(Path(__file__).with_name("stub_worker.py")))
CONTENDER = '[[contenders]]\nmethod = "go_skill"\nname = "{}"\n'


def text(*contenders: str, head: str = "seeds = [0, 1]", tail: str = "") -> str:
    """A study of stub contenders; ``tail`` belongs to the last one."""
    first = f'{head}\nreference = "{contenders[0]}"\n[data.near]\nstore = "replaced"\n'
    return first + "".join(CONTENDER.format(name) for name in contenders) + tail


def write_store(path: Path, seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    with StoreWriter(path, observation_dim=39, action_dim=4, tasks=TASKS) as writer:
        for task in TASKS:
            writer.append(
                task=task,
                observations=random.normal(size=(31, 39)),
                actions=random.uniform(-1, 1, (30, 4)),
                rewards=random.uniform(0, 1, 30),
            )
    return path


def some_results(versions: dict[str, str], skills: Skills | None = None) -> Results:
    episodes = {
        task: TaskEpisodes(
            np.arange(2), np.array([100.0, 300.0]), np.array([5, -1]), np.array([True, False]), np.full(2, 30)
        )
        for task in TASKS
    }
    return Results("stub", Protocol(2, 30, 0, 250), episodes, skills=skills, versions=versions)


VERSIONS = {"goskill": "1", "torch": "2", "metaworld": "3", "mujoco": "4"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("data") / "store")


@pytest.fixture(autouse=True)
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some_results(VERSIONS).save(tmp_path / "results.json")
    monkeypatch.setenv("STUB_RESULTS", str(tmp_path / "results.json"))
    monkeypatch.setenv("STUB_MENDED", str(tmp_path / "mended"))


class Silent(StudyProgress):
    """Says nothing, and interrupts when a test says so."""

    def __init__(self, until: Callable[[], bool]) -> None:
        super().__init__(Console(quiet=True), 0, 0)
        self.until = until

    def show(self, running, left) -> None:
        if self.until():
            raise KeyboardInterrupt


def runner(study: str, folder: Path, store: Path) -> Runner:
    return Runner(parse_study(study, "s"), StudyFolder(folder), {"near": open_data("near", store)}, WORKER)


def run(study: str, folder: Path, store: Path, until: Callable[[], bool] = lambda: False) -> Runner:
    made = runner(study, folder, store)
    made.run([Place(1, None), Place(1, None)], Silent(until))
    return made


def kept(folder: Path) -> list[tuple]:
    return sorted(
        (row["contender"], row["seed"], row["budget"], row["task"])
        for row in read_rows(folder / "rows.jsonl")
    )


def starts(folder: Path, name: str) -> int:
    file = folder / "runs" / name / "starts"
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_every_run_gives_a_row_per_task_and_is_made_once(tmp_path, store) -> None:
    study = text("a", "b")
    run(study, tmp_path / "out", store)
    wanted = [(c, seed, "iterations", task) for c in "ab" for seed in (0, 1) for task in sorted(TASKS)]
    assert kept(tmp_path / "out") == wanted
    row = read_rows(tmp_path / "out" / "rows.jsonl")[0]
    assert (row["return_mean"], row["success"], row["episodes"]) == (200.0, 0.5, 2)
    assert row["iterations"] == sum(row["schedule"].values())
    assert row["seconds"] == {"cpu": row["iterations"], "wall": 2 * row["iterations"]}
    assert set(row["machine"]) >= {"processor", "cores"}
    again = run(study, tmp_path / "out", store)
    assert again.failed == {}
    assert kept(tmp_path / "out") == wanted
    assert [starts(tmp_path / "out", f"{c}/near/seed-{s}") for c in "ab" for s in (0, 1)] == [1, 1, 1, 1]


def test_a_failed_run_is_named_and_the_others_go_on(tmp_path, store) -> None:
    study = text("a", "fails", "b")
    first = run(study, tmp_path / "out", store)
    assert first.failed == {f"fails/near/seed-{s}": "error: it cannot be done" for s in (0, 1)}
    assert {one[0] for one in kept(tmp_path / "out")} == {"a", "b"}
    (tmp_path / "mended").touch()
    assert run(study, tmp_path / "out", store).failed == {}
    assert {one[0] for one in kept(tmp_path / "out")} == {"a", "b", "fails"}
    assert starts(tmp_path / "out", "a/near/seed-0") == 1
    assert starts(tmp_path / "out", "fails/near/seed-0") == 2


def test_an_interruption_lets_runs_leave_a_checkpoint_and_the_next_call_goes_on(tmp_path, store) -> None:
    study = text("hangs", "b", head="seeds = [0]")
    with pytest.raises(KeyboardInterrupt):
        run(study, tmp_path / "out", store, until=lambda: bool(kept(tmp_path / "out")))
    assert (tmp_path / "out/runs/hangs/near/seed-0/checkpoint").exists()
    assert {one[0] for one in kept(tmp_path / "out")} == {"b"}
    (tmp_path / "mended").touch()
    assert run(study, tmp_path / "out", store).failed == {}
    assert {one[0] for one in kept(tmp_path / "out")} == {"hangs", "b"}
    assert starts(tmp_path / "out", "hangs/near/seed-0") == 2


def test_results_whose_rows_a_kill_prevented_get_them_without_another_run(tmp_path, store) -> None:
    study = text("a", head="seeds = [0]")
    run(study, tmp_path / "out", store)
    before = kept(tmp_path / "out")
    rows = tmp_path / "out" / "rows.jsonl"
    content = rows.read_bytes()
    # A kill within the write: the first row is whole, the second is torn.
    rows.write_bytes(content[: content.index(b"\n") + 40])
    assert len(read_rows(rows)) == 1
    run(study, tmp_path / "out", store)
    assert kept(tmp_path / "out") == before
    assert starts(tmp_path / "out", "a/near/seed-0") == 1


def test_equal_seconds_scale_iterations_by_what_the_reference_took(tmp_path, store) -> None:
    tail = 'budgets = ["iterations", "seconds"]\n'
    study = text("a", "slow", head="seeds = [0, 1]", tail=tail)
    run(study, tmp_path / "out", store)
    rows = read_rows(tmp_path / "out" / "rows.jsonl")
    taken = {(row["contender"], row["budget"]): row for row in rows}
    assert set(taken) == {(c, b) for c in ("a", "slow") for b in ("iterations", "seconds")}
    assert taken["slow", "seconds"]["iterations"] == round(taken["a", "iterations"]["iterations"] / 3)
    assert taken["a", "seconds"]["iterations"] == taken["a", "iterations"]["iterations"]
    assert starts(tmp_path / "out", "a/near/seed-0-equal-seconds") == 0
    assert starts(tmp_path / "out", "slow/near/seed-0-equal-seconds") == 1
    run(study, tmp_path / "out", store)
    assert read_rows(tmp_path / "out" / "rows.jsonl") == rows


def test_a_contender_as_fast_as_the_reference_is_not_run_twice(tmp_path, store) -> None:
    run(text("a", "b", tail='budgets = ["iterations", "seconds"]\n'), tmp_path / "out", store)
    rows = read_rows(tmp_path / "out" / "rows.jsonl")
    assert {row["budget"] for row in rows if row["contender"] == "b"} == {"iterations", "seconds"}
    assert not (tmp_path / "out/runs/b/near/seed-0-equal-seconds").exists()


def test_seconds_are_those_of_one_machine_and_of_the_clock_only_on_a_gpu(tmp_path, store) -> None:
    run(text("a", "b"), tmp_path / "out", store)
    rows = read_rows(tmp_path / "out" / "rows.jsonl")
    count = rows[0]["iterations"]
    assert {row["device"] for row in rows} == {"cpu"}
    own, reference = comparable_seconds(rows, "b", "a", "near")
    assert (own, reference) == ([count, count], [count, count])
    # A GPU in the machine is not one that the run used.
    there = [{**row, "machine": {**row["machine"], "gpus": ["one"]}} for row in rows]
    assert comparable_seconds(there, "b", "a", "near") == (own, reference)
    on_gpu = [{**row, "device": "cuda"} for row in rows]
    assert comparable_seconds(on_gpu, "b", "a", "near") == ([2 * count] * 2, [2 * count] * 2)
    for change in ({"versions": {}}, {"machine": {}}, {"device": "cuda"}):
        moved = [{**row, **change} if row["contender"] == "b" else row for row in rows]
        assert comparable_seconds(moved, "b", "a", "near") == ([], [])
        one_seed = [{**row, **change} if (row["contender"], row["seed"]) == ("b", 1) else row for row in rows]
        assert comparable_seconds(one_seed, "b", "a", "near") == ([count], [count, count])


def test_runs_that_count_for_both_budgets_are_marked(tmp_path, store) -> None:
    tail = 'budgets = ["iterations", "seconds"]\n'
    study = parse_study(text("a", "slow", tail=tail), "s")
    run(study.text, tmp_path / "out", store)
    found = groups(study, read_rows(tmp_path / "out" / "rows.jsonl"))
    assert [(line.contender, line.counted_twice) for group in found for line in group.lines] == [
        ("a", False),
        ("slow", False),
        ("a", True),
        ("slow", False),
    ]
    shown = markdown(study, found)
    assert shown.count("| a |") == shown.count("| a † |") == 1
    assert shown.count("†: runs of equal iterations, whose seconds are within 10% of the reference's") == 1


def test_rows_carry_how_often_each_skill_is_chosen(tmp_path, store) -> None:
    study = text("a", head="seeds = [0]")
    some_results(VERSIONS, Skills(3, 10, {"reach": [1, 2, 3], "door-close": [0, 0, 6]}, {})).save(
        tmp_path / "results.json"
    )
    run(study, tmp_path / "out", store)
    rows = {row["task"]: row for row in read_rows(tmp_path / "out" / "rows.jsonl")}
    assert rows["reach"]["skills"] == {"in_evaluation": [1, 2, 3]}
    folder = tmp_path / "out/runs/a/near/seed-0"
    DataSkills("column", 2, {"reach": [4, 5]}).save(folder / "data_skills.json")
    assert skills_of(folder)["in_data"] == {"reach": [4, 5]}


def test_near_enough_is_within_a_tenth(tmp_path, store) -> None:
    job = runner(text("a"), tmp_path / "out", store).jobs[0]
    for ratio, same in ((1.0, True), (1.09, True), (0.91, True), (1.12, False), (0.88, False)):
        assert same_seconds(job, with_seconds(job, [ratio], [1.0])) is same
    scaled = with_seconds(job, [1.0, 3.0, 50.0], [1.0])
    assert scaled.schedule == {name: 3 * count for name, count in job.schedule.items()}


def test_rows_of_other_data_or_settings_are_refused(tmp_path, store) -> None:
    study = text("a", head="seeds = [0]")
    run(study, tmp_path / "out", store)
    with pytest.raises(InputError, match="made on other data 'near'"):
        runner(study, tmp_path / "out", write_store(tmp_path / "other", seed=1))
    with pytest.raises(InputError, match=r"rows of a were made with other settings"):
        runner(study + "[training]\nlearning_rate = 0.5\n", tmp_path / "out", store)
    with pytest.raises(InputError, match=r"rows of a were made with other settings"):
        runner(study + "[families.go_skill]\npolicy_iterations = 7\n", tmp_path / "out", store)
    # Runs without rows are held to the same.
    (tmp_path / "out" / "rows.jsonl").unlink()
    with pytest.raises(InputError, match="its results were made with other settings"):
        runner(study + "[training]\nlearning_rate = 0.5\n", tmp_path / "out", store)


def test_more_seeds_and_contenders_may_be_added_later(tmp_path, store) -> None:
    run(text("a", head="seeds = [0]"), tmp_path / "out", store)
    run(text("a", "b", head="seeds = [0, 1]"), tmp_path / "out", store)
    assert {one[:2] for one in kept(tmp_path / "out")} == {("a", 0), ("a", 1), ("b", 0), ("b", 1)}
    assert starts(tmp_path / "out", "a/near/seed-0") == 1


def test_rows_of_other_versions_are_shown_apart(tmp_path, store, capsys) -> None:
    study = text("a", "b", head="seeds = [0]")
    run(text("a", head="seeds = [0]"), tmp_path / "out", store)
    some_results({**VERSIONS, "torch": "99"}).save(tmp_path / "results.json")
    run(study, tmp_path / "out", store)
    show_study(parse_study(study, "s"), tmp_path / "out", as_json=True)
    groups = json.loads(capsys.readouterr().out)
    assert [(group["versions"]["torch"], list(group["contenders"])) for group in groups] == [
        ("2", ["a"]),
        ("99", ["b"]),
    ]
    show_study(parse_study(study, "s"), tmp_path / "out")
    assert "different versions or data are shown apart" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('method = "go_skil"', "did you mean 'go_skill'"),
        ('method = "go_skill"\nablations = ["no-fokal"]', "did you mean 'no-focal'"),
        ('method = "go_skill"\nsettings = { horizn = 3 }', "did you mean 'horizon'"),
        ('method = "go_skill"\nsettings = { policy_iterations = 3 }', "they must be equal"),
    ],
)
def test_what_a_contender_does_not_have_is_refused_by_name(tmp_path, store, change, message) -> None:
    study = text("a") + f'[[contenders]]\nname = "b"\n{change}\n'
    with pytest.raises(InputError, match=message):
        runner(study, tmp_path / "out", store)


def test_missing_data_is_named_with_the_way_out(tmp_path) -> None:
    (tmp_path / "s.toml").write_text(text("a"))
    with pytest.raises(InputError, match=r"study s: data near: .*--data near=PATH"):
        run_study(tmp_path / "s.toml", tmp_path / "out", stores={"near": str(tmp_path / "nowhere")})
    with pytest.raises(InputError, match="--data naer: s has no such data, did you mean 'near'"):
        run_study(tmp_path / "s.toml", tmp_path / "out", stores={"naer": "x"})


def test_a_store_with_other_tasks_than_the_study_expects_is_refused(tmp_path, store) -> None:
    study = parse_study(text("a").replace('"replaced"', '"replaced"\nsuite = "mt10"'), "s")
    moved = study.with_stores({"near": str(store)})
    assert (moved.data["near"].store, moved.data["near"].suite) == (str(store), "mt10")
    (tmp_path / "s.toml").write_text(study.text)
    message = r"data near: .*expected 10 tasks, but it lacks push, pick-place, .* and 4 more and also has door-close"
    with pytest.raises(InputError, match=message):
        run_study(tmp_path / "s.toml", tmp_path / "out", stores={"near": str(store)})
    assert open_data("near", store, list(reversed(TASKS))).tasks == TASKS


def test_a_finished_collection_of_other_packages_is_gone_on_with(tmp_path, monkeypatch, capsys) -> None:
    from goskill.experiments import studies

    path, packages = tmp_path / "store", {"goskill": "0.0.1", "metaworld": "2"}
    made = {"collector": "goskill.rollouts.collection", "episodes": 1, "quality": "near-optimal", "seed": 0}
    with StoreWriter(path, 39, 4, TASKS, provenance={**made, "packages": packages}) as writer:
        for task in TASKS:
            writer.append(
                task=task, observations=np.zeros((3, 39)), actions=np.zeros((2, 4)), rewards=np.zeros(2)
            )
    collected = []
    monkeypatch.setattr(
        "goskill.experiments.pipeline.collect", lambda *_, **options: collected.append(options)
    )
    source = DataSource(tasks=TASKS, episodes=1)
    studies._collect(path, source, TASKS)
    assert collected == []
    assert "collected before, with goskill 0.0.1, metaworld 2" in " ".join(capsys.readouterr().out.split())
    for change in ({"episodes": 2}, {"seed": 1}, {"quality": "sub-optimal"}):
        studies._collect(path, replace(source, **change), TASKS)
    studies._collect(path, source, TASKS[:1])
    studies._collect(tmp_path / "none", source, TASKS)
    assert len(collected) == 5


def test_two_runners_do_not_share_a_folder(tmp_path) -> None:
    folder = StudyFolder(tmp_path / "out")
    with folder.lock(), pytest.raises(InputError, match="another process runs this study"), folder.lock():
        pass


def test_rows_that_are_there_are_not_added_again(tmp_path, store) -> None:
    run(text("a"), tmp_path / "out", store)
    file = tmp_path / "out" / "rows.jsonl"
    rows = read_rows(file)
    assert append_rows(file, rows) == []
    assert read_rows(file) == rows
    file.write_text("[]\n" + file.read_text())
    with pytest.raises(InputError, match="line 1: expected a row of a study"):
        read_rows(file)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, None) for name in ("finetuned", "sweep", "scripted", "ablations", "settings")),
        *(("seconds", value) for value in ({}, {"wall": 1.0}, {"wall": 1.0, "cpu": "1"})),
        *(("seed", value) for value in (True, "0")),
        ("commit", 3),
        ("budget", "hours"),
        ("schedule", {"iterations": "many"}),
    ],
)
def test_a_row_that_lacks_something_is_refused_by_line_and_name(tmp_path, store, name, value) -> None:
    run(text("a", head="seeds = [0]"), tmp_path / "out", store)
    file = tmp_path / "out" / "rows.jsonl"
    rows = read_rows(file)
    wrong = {**rows[0], name: value}
    file.write_text("".join(json.dumps(row) + "\n" for row in (rows[0], wrong)))
    with pytest.raises(InputError, match=rf"rows.jsonl: line 2: row\.{name}.*: expected"):
        read_rows(file)
    del wrong[name]
    file.write_text("".join(json.dumps(row) + "\n" for row in (rows[0], wrong)))
    with pytest.raises(InputError, match=rf"line 2: row\.{name}: expected one, found nothing"):
        read_rows(file)


def test_a_full_disk_is_named_with_the_file_which_stays_as_it_was(tmp_path, store) -> None:
    run(text("a"), tmp_path / "out", store)
    file = tmp_path / "out" / "rows.jsonl"
    content, rows = file.read_bytes(), read_rows(file)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(content) + 100, before[1]))
    try:
        with pytest.raises(OSError, match=r"rows\.jsonl"):
            append_rows(file, [{**row, "seed": 7} for row in rows])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert file.read_bytes() == content


def test_settings_that_no_contender_uses_are_refused(tmp_path, store) -> None:
    for families, message in (
        ("[families.go_skil]\nhorizon = 3\n", "families.go_skil: .*did you mean 'go_skill'"),
        ("[families.prompt_dt]\nlayers = 3\n", "families.prompt_dt: no contender is of that family"),
    ):
        with pytest.raises(InputError, match=f"study s: {message}"):
            runner(text("a") + families, tmp_path / "out", store)


def test_fine_tuned_rows_carry_the_versions_of_their_evaluations(tmp_path, store) -> None:
    job = runner(text("a"), tmp_path / "out", store).jobs[0]
    tuned = tmp_path / "run-finetuned"
    for at, torch in ((0, "1"), (5, "2")):
        add_point(tuned / "evaluations.jsonl", at, some_results({**VERSIONS, "torch": torch}))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1, "seconds": 1, "cpu_seconds": 1}\n')
    job = replace(job, finetuning=FinetuningJob("mt10", "store", 5))
    rows = rows_of(tmp_path / "run", job, open_data("near", store), {}, {"commit": "c", "machine": {}})
    assert [(row["iterations"], row["versions"]["torch"]) for row in rows] == [(0, "1")] * 2 + [(5, "2")] * 2


def test_places_share_cores_and_gpus(monkeypatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert places(None) == [Place(1, None)] * 8
    assert places(3) == [Place(2, None)] * 3
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert places(None) == [Place(4, "4"), Place(4, "6")]
    assert places(2)[1].environment()["CUDA_VISIBLE_DEVICES"] == "6"
    with pytest.raises(InputError, match="--processes"):
        places(0)
