"""A source that has changed since is never taken for what was converted, in any layout; nothing but files is opened."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from store_builders import transitions, write_store
from tdmpc2_chunks import episodes_of, save_as_published

from goskill.data import EpisodeStore
from goskill.data.convert import (
    from_hdf5,
    from_minari,
    from_npz,
    from_ogbench,
    from_tdmpc2,
    to_hdf5,
    to_minari,
)
from goskill.data.convert.fingerprints import fingerprint
from goskill.data.store_files import MANIFEST, read_manifest, write_manifest
from goskill.errors import StoreError

ABOUT = {
    "author": "a test",
    "author_email": "a@b.c",
    "code_permalink": "https://a.b",
    "description": "a test",
}
LAYOUTS = ("goskill", "mtdiff", "harmodt", "hdf5", "minari", "minari-arrow", "tdmpc2", "ogbench")


def npz_source(root: Path, layout: str, seed: int) -> tuple[Path, Callable[[Path], object]]:
    below = {"goskill": "metaworld/reach", "mtdiff": "reach/0/dataset", "harmodt": "reach"}[layout]
    (root / below).mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    for i in range(3):
        episode = transitions(generator, 6)
        episode["terminals"][-1] = 1
        np.savez(root / below / f"{i}.npz", **episode)
    return root / below / "1.npz", lambda path: from_npz(layout, root, path)


def hdf5_source(tmp_path: Path, seed: int) -> tuple[Path, Callable[[Path], object]]:
    pytest.importorskip("h5py")
    files = to_hdf5(
        write_store(tmp_path / f"original-{seed}", [6, 7 + seed, 20 - seed], [0] * 3),
        tmp_path / f"d4rl-{seed}",
    )
    (tmp_path / "source").mkdir(exist_ok=True)
    os.replace(files[0], tmp_path / "source" / "reach.hdf5")
    return tmp_path / "source" / "reach.hdf5", lambda path: from_hdf5(tmp_path / "source", path)


def minari_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, seed: int
) -> tuple[Path, Callable[[Path], object]]:
    minari = pytest.importorskip("minari")
    if layout == "minari-arrow":
        pytest.importorskip("pyarrow")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    store = write_store(tmp_path / f"original-{seed}", [6, 7 + seed, 20 - seed], [0] * 3)
    if (tmp_path / "minari" / "reach-v0").exists():
        minari.delete_dataset("reach-v0")
    data_format = "arrow" if layout == "minari-arrow" else "hdf5"
    to_minari(store, "reach-v0", "task-0", data_format=data_format, **ABOUT)
    folder = tmp_path / "minari" / "reach-v0" / "data"
    file = folder / "1" / "part-0.arrow" if layout == "minari-arrow" else folder / "main_data.hdf5"
    return file, lambda path: from_minari("reach-v0", path)


def chunk_source(folder: Path, seed: int) -> tuple[Path, Callable[[Path], object]]:
    """Put in the place of another one, which an open file would still lead to."""
    folder.mkdir(exist_ok=True)
    save_as_published(folder / "new", episodes_of([30, 79], seed))
    os.replace(folder / "new", folder / "chunk_0.pt")
    return folder / "chunk_0.pt", lambda path: from_tdmpc2(folder, path, ["assembly", "hand-insert"])


def ogbench_source(folder: Path, seed: int) -> tuple[Path, Callable[[Path], object]]:
    folder.mkdir(exist_ok=True)
    episode = transitions(np.random.default_rng(seed), 6)
    del episode["next_observations"]
    np.savez(folder / "maze.npz", **episode | {"terminals": np.arange(6) == 5})
    return folder / "maze.npz", lambda path: from_ogbench(folder / "maze.npz", path)


@pytest.fixture
def make(request, tmp_path: Path, monkeypatch) -> Callable[[int], tuple[Path, Callable[[Path], object]]]:
    """Writes the source of a layout from a seed; returns one of its files, and the conversion into a store."""
    layout = request.param
    if layout == "hdf5":
        return lambda seed: hdf5_source(tmp_path, seed)
    if layout == "tdmpc2":
        return lambda seed: chunk_source(tmp_path / "source", seed)
    if layout == "ogbench":
        return lambda seed: ogbench_source(tmp_path / "source", seed)
    if layout.startswith("minari"):
        return lambda seed: minari_source(tmp_path, monkeypatch, layout, seed)
    return lambda seed: npz_source(tmp_path / "source", layout, seed)


every_layout = pytest.mark.parametrize("make", LAYOUTS, indirect=True)


@every_layout
def test_a_source_that_has_changed_is_refused_by_name(make, tmp_path: Path) -> None:
    file, convert = make(0)
    times = os.stat(file)
    convert(tmp_path / "store")
    before = EpisodeStore.open(tmp_path / "store").fingerprint
    make(1)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    folder = file.parent.parent if file.parent.name == "1" else file.parent
    with pytest.raises(StoreError, match=rf"{folder}/.*: is not what {tmp_path / 'store'} was made of: give"):
        convert(tmp_path / "store")
    assert EpisodeStore.open(tmp_path / "store").fingerprint == before
    convert(tmp_path / "other")
    assert EpisodeStore.open(tmp_path / "other").fingerprint != before


@every_layout
def test_a_source_that_was_only_touched_is_what_it_was(make, tmp_path: Path) -> None:
    file, convert = make(0)
    first = convert(tmp_path / "store")
    os.utime(file, (1, 1))
    assert convert(tmp_path / "store") == first


@every_layout
def test_what_is_no_file_is_refused_and_not_waited_for(make, tmp_path: Path) -> None:
    file, convert = make(0)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(StoreError, match=rf"{file}: is not a regular file"):
        convert(tmp_path / "store")
    file.unlink()
    file.symlink_to("/dev/zero")
    with pytest.raises(StoreError, match=rf"{file}: is not a regular file"):
        convert(tmp_path / "store")


def test_what_an_interrupted_conversion_has_read_may_not_change_and_the_rest_may(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("goskill.data.convert.copying._SHARD_STEPS", 1)

    def interrupt(done: int, _: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    npz_source(tmp_path / "source", "harmodt", 0)
    with pytest.raises(KeyboardInterrupt):
        from_npz("harmodt", tmp_path / "source", tmp_path / "store", progress=interrupt)
    new = transitions(np.random.default_rng(5), 6)
    np.savez(tmp_path / "source" / "reach" / "2.npz", **new)
    from_npz("harmodt", tmp_path / "source", tmp_path / "store")
    np.testing.assert_array_equal(EpisodeStore.open(tmp_path / "store").episode(2).actions, new["actions"])
    for name in ("0.npz", "2.npz"):
        file = tmp_path / "source" / "reach" / name
        content = file.read_bytes()
        np.savez(file, **transitions(np.random.default_rng(6), 6))
        with pytest.raises(StoreError, match=f"reach/{name}: is not what"):
            from_npz("harmodt", tmp_path / "source", tmp_path / "store")
        file.write_bytes(content)
    from_npz("harmodt", tmp_path / "source", tmp_path / "store")


@pytest.mark.parametrize("change", [("1.npz", "1a.npz"), ("2.npz", "-1.npz"), ("0.npz", None)])
def test_a_file_that_is_gone_or_called_otherwise_is_a_change(
    tmp_path: Path, change: tuple[str, str | None]
) -> None:
    npz_source(tmp_path / "source", "harmodt", 0)
    from_npz("harmodt", tmp_path / "source", tmp_path / "store")
    file, new = tmp_path / "source" / "reach" / change[0], change[1]
    file.unlink() if new is None else file.rename(file.with_name(new))
    with pytest.raises(StoreError, match="is not what"):
        from_npz("harmodt", tmp_path / "source", tmp_path / "store")


def test_a_file_that_changes_while_it_is_read_is_named(tmp_path: Path) -> None:
    file, convert = npz_source(tmp_path / "source", "harmodt", 0)

    def change(done: int, _: int) -> None:
        if done == 2:
            np.savez(file, **transitions(np.random.default_rng(6), 6))

    with pytest.raises(StoreError, match=r"reach/1\.npz: has changed while it was read"):
        from_npz("harmodt", tmp_path / "source", tmp_path / "store", progress=change)
    convert(tmp_path / "store")


def test_a_store_that_does_not_say_what_it_was_made_of_is_not_taken_for_done(tmp_path: Path) -> None:
    _, convert = npz_source(tmp_path / "source", "harmodt", 0)
    convert(tmp_path / "store")
    manifest = tmp_path / "store" / "shard-000000" / MANIFEST
    content = {name: value for name, value in read_manifest(manifest).items() if name != "checksum"}
    del content["note"]["files"]
    write_manifest(manifest, content)
    with pytest.raises(StoreError, match="does not say what it was made of"):
        convert(tmp_path / "store")


def test_fingerprints_of_archives_are_those_of_their_directories(tmp_path: Path) -> None:
    """Also where the directory is longer than what is read at the end, and where its place takes 64 bits."""
    known = set()
    for count in (1, 300):
        for value in (0, 1):
            with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
                for i in range(count):
                    archive.writestr(f"{i}", bytes([value if i == 0 else 7] * 10))
            raw = (tmp_path / "a.zip").read_bytes()
            known.add(fingerprint(tmp_path / "a.zip"))
            (tmp_path / "b.zip").write_bytes(as_zip64(raw))
            assert fingerprint(tmp_path / "b.zip").split()[2] == fingerprint(tmp_path / "a.zip").split()[2]
    assert len(known) == 4
    assert all(text.startswith("zip ") for text in known)
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 and nothing that an archive has")
    assert not fingerprint(tmp_path / "a.zip").startswith("zip")


def as_zip64(raw: bytes) -> bytes:
    """An archive with its directory's size and place in the 64-bit record, as archives beyond 4 GiB have it."""
    end = raw.rindex(b"PK\x05\x06")
    size, offset = (int.from_bytes(raw[end + at : end + at + 4], "little") for at in (12, 16))
    record = b"PK\x06\x06" + bytes(36) + size.to_bytes(8, "little") + offset.to_bytes(8, "little")
    locator = b"PK\x06\x07" + bytes(16)
    return raw[:end] + record + locator + raw[end : end + 12] + b"\xff" * 8 + raw[end + 20 :]
