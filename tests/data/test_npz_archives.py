"""Reading npz files agrees with NumPy, with and without the faster decompression."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from goskill.data.convert import archive
from goskill.errors import StoreError

ARRAYS = {
    "observations": np.random.default_rng(0).standard_normal((700, 39)),
    "actions": np.asfortranarray(np.random.default_rng(1).standard_normal((700, 4)).astype(np.float32)),
    "rewards": np.arange(700, dtype=">f8"),
    "terminals": np.zeros((700, 1), bool),
    "dones": np.zeros((0, 3), np.int8),
    "task": np.array("reach"),
}


@pytest.fixture(params=["zlib", "isal"])
def inflate(request, monkeypatch) -> None:
    module = zlib if request.param == "zlib" else pytest.importorskip("isal.isal_zlib")
    monkeypatch.setattr(archive, "zlib", module)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_those_of_numpy(inflate, tmp_path: Path, save) -> None:
    save(tmp_path / "0.npz", **ARRAYS)
    found = archive.read_arrays(tmp_path / "0.npz", [*ARRAYS, "missing"])
    with np.load(tmp_path / "0.npz") as expected:
        assert found.keys() == set(expected.files)
        for name, array in found.items():
            assert array.dtype == expected[name].dtype
            assert array.flags.f_contiguous == expected[name].flags.f_contiguous
            np.testing.assert_array_equal(array, expected[name])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_every_flipped_byte_of_the_data_is_seen(inflate, tmp_path: Path, save) -> None:
    save(tmp_path / "0.npz", observations=ARRAYS["observations"][:20])
    with zipfile.ZipFile(tmp_path / "0.npz") as file:
        end = file.infolist()[0].compress_size
    content = (tmp_path / "0.npz").read_bytes()
    for place in range(80, end, 97):
        (tmp_path / "1.npz").write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(StoreError, match=r"1\.npz: cannot be read"):
            archive.read_arrays(tmp_path / "1.npz", ["observations"])


def test_what_is_no_regular_file_is_refused_by_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "endless.npz").symlink_to("/dev/zero")
    (tmp_path / "folder.npz").mkdir()
    for name in ("pipe", "endless", "folder"):
        with pytest.raises(StoreError, match=f"{name}.npz: is not a regular file"):
            archive.read_arrays(tmp_path / f"{name}.npz", ["rewards"])


def test_a_file_that_cannot_be_read_is_refused_with_the_reason(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(StoreError, match=r"0\.npz: cannot be read: No such file or directory$"):
        archive.read_arrays(tmp_path / "0.npz", ["rewards"])
    np.savez(tmp_path / "0.npz", **ARRAYS)
    monkeypatch.setattr(archive, "_whole", mock.Mock(side_effect=MemoryError))
    with pytest.raises(StoreError, match=r"0\.npz: cannot be read: MemoryError$"):
        archive.read_arrays(tmp_path / "0.npz", ["rewards"])


@pytest.mark.parametrize("shape", ["(1000000000000, 39)", "(-1, 3)", "(3,)", "('a',)", "(" * 500])
def test_hostile_headers_are_refused(inflate, tmp_path: Path, shape: str) -> None:
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
    for content in (header + bytes(16), header, b"\x93NUMPY\x03\x00\xff\xff\xff\xff", b"\x93NUMPY", b""):
        with zipfile.ZipFile(tmp_path / "0.npz", "w") as file:
            file.writestr("observations.npy", content)
        with pytest.raises(StoreError, match=r"0\.npz: cannot be read"):
            archive.read_arrays(tmp_path / "0.npz", ["observations"])


def test_members_larger_than_they_say_are_refused(inflate, tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "0.npz", observations=np.zeros(1_000_000))
    content = bytearray((tmp_path / "0.npz").read_bytes())
    directory = content.rindex(b"PK\x01\x02")
    content[directory + 24 : directory + 28] = (1000).to_bytes(4, "little")
    (tmp_path / "0.npz").write_bytes(content)
    with pytest.raises(StoreError, match="checksum"):
        archive.read_arrays(tmp_path / "0.npz", ["observations"])
