"""Compiled models: the cache on disk gives the same model, and never stands in the way."""

import mujoco
import numpy as np
import pytest

from goskill.envs import make
from goskill.envs.metaworld import models


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GOSKILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def path():
    return make("door-close", 0).fullpath


def files(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def test_a_cached_model_equals_the_compiled_one_in_everything_but_textures(cache, path):
    first, second = models.load_without_textures(path), models.load_without_textures(path)
    stock = mujoco.MjModel.from_xml_path(path)
    assert len(files(cache)) == 1
    assert second.ntexdata == 0
    compared = 0
    for name in dir(stock):
        value = getattr(stock, name)
        if isinstance(value, np.ndarray) and not name.startswith(("_", "tex_", "mat_", "name", "text")):
            # Unused entries of the normals are left as they were in memory.
            if name == "mesh_polynormal":
                continue
            assert np.array_equal(getattr(first, name), value, equal_nan=True), name
            assert np.array_equal(getattr(second, name), value, equal_nan=True), name
            compared += 1
    assert compared > 200


def test_a_damaged_cache_file_is_replaced(cache, path, tmp_path, monkeypatch):
    # MuJoCo writes a log where it stands.
    monkeypatch.chdir(tmp_path)
    models.load_without_textures(path)
    (name,) = files(cache)
    whole = (cache / name).read_bytes()
    (cache / name).write_bytes(whole[:1000])
    assert models.load_without_textures(path).nq > 0
    assert len((cache / name).read_bytes()) == len(whole)


def test_a_cache_that_cannot_be_written_does_not_matter(tmp_path, monkeypatch, path):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("GOSKILL_CACHE", str(tmp_path / "file"))
    assert models.load_without_textures(path).nq > 0


def test_other_assets_get_another_folder(tmp_path):
    (tmp_path / "a.stl").write_text("one")
    before = models._fingerprint(str(tmp_path))
    (tmp_path / "a.stl").write_text("three")
    models._fingerprint.cache_clear()
    assert models._fingerprint(str(tmp_path)) != before
