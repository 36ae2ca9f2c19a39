import os

import pytest

import goskill.__main__
import goskill.cli


@pytest.mark.parametrize(
    ("users_own", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_threads_spin_briefly_unless_the_user_says_how_they_wait(monkeypatch, users_own, expected):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in users_own.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    seen = []
    monkeypatch.setattr(goskill.cli, "main", lambda: seen.append(os.environ.get("GOMP_SPINCOUNT")))
    goskill.__main__.main()
    assert seen == [expected]
