"""Where episodes end: under every known name, where the caller says, or refused. Rounding is no end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from store_builders import random_episode, transitions

from goskill.data import EpisodeStore
from goskill.data.convert import ConversionReport, from_hdf5, from_npz
from goskill.data.convert.ends import FLAGS
from goskill.data.convert.transitions import jumps
from goskill.errors import InputError, StoreError

STEPS = 40
ENDS = np.arange(STEPS) % 10 == 9
NEVER = np.zeros(STEPS, bool)
LAYOUTS = ("goskill", "mtdiff", "hdf5")


def convert(folder: Path, layout: str, columns: dict[str, np.ndarray], **options) -> ConversionReport:
    """Write one file of a layout, and convert it into the store ``store``."""
    if layout == "hdf5":
        h5py = pytest.importorskip("h5py")
        folder.mkdir()
        with h5py.File(folder / "reach.hdf5", "w") as file:
            for name, values in columns.items():
                file[name] = values
        return from_hdf5(folder / "reach.hdf5", folder / "store", **options)
    below = folder / "source" / ("reach/0/dataset" if layout == "mtdiff" else "metaworld/reach")
    below.mkdir(parents=True)
    np.savez(below / "0.npz", **columns)
    return from_npz(layout, folder / "source", folder / "store", **options)


def lengths(folder: Path) -> list[int]:
    return EpisodeStore.open(folder / "store").episode_length.tolist()


def columns(**flags: np.ndarray) -> dict[str, np.ndarray]:
    """Forty steps without next observations: the last step of an episode is lost."""
    episode = random_episode(np.random.default_rng(0), STEPS)
    return {**episode, "observations": episode["observations"][:-1], **flags}


@pytest.mark.parametrize("layout", ["mtdiff", "hdf5"])
@pytest.mark.parametrize("name", FLAGS)
def test_ends_are_found_under_every_name(tmp_path: Path, layout: str, name: str) -> None:
    report = convert(tmp_path / "a", layout, columns(**{name: ENDS}))
    assert lengths(tmp_path / "a") == [9] * 4
    assert report.ends == [name]


@pytest.mark.parametrize("layout", ["mtdiff", "hdf5"])
def test_a_flag_that_is_never_set_hides_no_other(tmp_path: Path, layout: str) -> None:
    report = convert(tmp_path / "a", layout, columns(terminals=NEVER, terminations=ENDS & False, dones=ENDS))
    assert lengths(tmp_path / "a") == [9] * 4
    assert report.ends == ["dones", "terminals", "terminations"]


@pytest.mark.parametrize("layout", ["mtdiff", "hdf5"])
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, "under one of terminals, .*, got none of them: give"),
        ({"terminals": NEVER}, "terminals: .* got none"),
    ],
)
def test_one_episode_is_never_assumed(tmp_path: Path, layout: str, flags: dict, message: str) -> None:
    with pytest.raises(StoreError, match=rf"(reach\.hdf5|0\.npz): .*{message}.*ends='file'"):
        convert(tmp_path / "a", layout, columns(**flags))
    convert(tmp_path / "b", layout, columns(**flags), ends="file")
    assert lengths(tmp_path / "b") == [39]
    convert(tmp_path / "c", layout, columns(**flags), ends=8)
    assert lengths(tmp_path / "c") == [7] * 5
    with pytest.raises(StoreError, match="expected a multiple of 7 steps"):
        convert(tmp_path / "d", layout, columns(**flags), ends=7)


def test_a_file_of_one_episode_that_marks_ends_inside_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        StoreError, match=r"0\.npz: timeouts: expected one episode .* got an end at step 9 of 40"
    ):
        convert(tmp_path / "a", "goskill", columns(timeouts=ENDS))
    convert(tmp_path / "b", "goskill", columns(timeouts=ENDS), ends="marked")
    assert lengths(tmp_path / "b") == [9] * 4
    convert(tmp_path / "c", "goskill", columns(timeouts=np.arange(STEPS) == STEPS - 1))
    assert lengths(tmp_path / "c") == [39]


@pytest.mark.parametrize("value", [2, 0.5, np.nan])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_flags_of_other_values_are_refused(tmp_path: Path, layout: str, value: float) -> None:
    flags = np.where(np.arange(STEPS) == 3, value, 0.0)
    with pytest.raises(StoreError, match=r"'dones': expected the values 0(,| and) 1, got .* at step 3"):
        convert(tmp_path / "a", layout, columns(dones=flags))


@pytest.mark.parametrize("ends", ["terminals", 0, -1, True, 2.0, None])
def test_other_options_are_refused(tmp_path: Path, ends: object) -> None:
    with pytest.raises(InputError, match="ends: expected 'marked', 'file' or the number"):
        convert(tmp_path / "a", "hdf5", columns(), ends=ends)


MEAN, DEVIATION = np.float32(0.7), np.float32(0.37)
WAYS = {
    "beside float32": (lambda o: o[:-1], lambda o: o[1:].astype("f4")),
    "beside float64": (lambda o: o[:-1].astype("f4"), lambda o: o[1:]),
    "beside float16": (lambda o: o[:-1], lambda o: o[1:].astype("f2")),
    "a difference added": (lambda o: o[:-1], lambda o: o[:-1] + (o[1:] - o[:-1])),
    "a difference added in float32": (
        lambda o: o[:-1].astype("f4"),
        lambda o: o[:-1].astype("f4") + (o[1:].astype("f4") - o[:-1].astype("f4")),
    ),
    "normalised and back": (
        lambda o: o[:-1].astype("f4") + MEAN,
        lambda o: ((o[1:].astype("f4") + MEAN) - MEAN) / DEVIATION * DEVIATION + MEAN,
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("way", WAYS)
def test_rounding_cuts_no_episode_and_is_reported(tmp_path: Path, layout: str, way: str) -> None:
    states = np.random.default_rng(0).normal(size=(STEPS + 1, 5))
    now, after = (rows(states) for rows in WAYS[way])
    report = convert(
        tmp_path / "a",
        layout,
        columns(timeouts=np.arange(STEPS) == STEPS - 1) | {"observations": now, "next_observations": after},
    )
    assert lengths(tmp_path / "a") == [STEPS]
    assert not report.split
    assert len(report.rounded) == 1
    found = EpisodeStore.open(tmp_path / "a" / "store").episode(0).observations
    np.testing.assert_array_equal(found[:-1], now.astype("f4"))
    np.testing.assert_array_equal(found[-1], after[-1].astype("f4"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_real_jump_among_rounded_values_still_cuts(tmp_path: Path, layout: str) -> None:
    states = np.random.default_rng(0).normal(size=(STEPS + 1, 5))
    after = states[1:].astype("f4")
    after[7, 2] += np.float32(1e-4)
    report = convert(
        tmp_path / "a",
        layout,
        columns(timeouts=np.arange(STEPS) == STEPS - 1)
        | {"observations": states[:-1], "next_observations": after},
    )
    assert lengths(tmp_path / "a") == [8, STEPS - 8]
    assert len(report.split) == 1
    np.testing.assert_array_equal(
        EpisodeStore.open(tmp_path / "a" / "store").episode(0).observations[-1], after[7]
    )


def test_the_threshold_goes_with_each_dimension(tmp_path: Path) -> None:
    """A thousandth is rounding beside ten thousand, and a jump in another dimension beside one."""
    rows = np.random.default_rng(0).uniform(0.5, 1, (50, 2)) * [1e4, 1.0]
    following = rows[1:].copy()
    following[3, 0] += 1e-3
    following[5, 1] += 1e-3
    jumped, differing, largest = jumps(rows[:-1], following, rows[1:])
    assert np.flatnonzero(jumped).tolist() == [5]
    assert differing == 1
    assert largest == pytest.approx(1e-3, rel=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_not_rounded(tmp_path: Path, value: float) -> None:
    episode = transitions(np.random.default_rng(0), 6)
    for name in ("observations", "next_observations"):
        episode[name][3, 1] = value
    with pytest.raises(StoreError, match=r"0\.npz: observations: expected finite values"):
        convert(tmp_path / "a", "goskill", episode)
