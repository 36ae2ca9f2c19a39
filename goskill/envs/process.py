"""Worker processes: started fresh, talked to over a socket, gone when their owner is gone."""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from goskill.errors import InputError, WorkerDied, WorkerFailed

_BOOT = (
    "import pickle, sys; fd, path, target = pickle.loads(bytes.fromhex(sys.argv[1])); sys.path[:] = path; "
    "from goskill.envs.process import _serve; _serve(fd, target)"
)
_KEPT_BYTES = 1 << 25
_DONE, _FAILED, _REFUSED = b"\0", b"\1", b"\2"


class WorkerProcess:
    """One Python process that runs ``target`` ("package.module:function") and answers requests.

    ``target(*arguments)`` returns a handler; every request is passed to the handler as bytes and its
    returned bytes are the reply. The process imports nothing of the caller's ``__main__``, holds no copy of
    the caller's memory or locks, does not see Ctrl-C (its owner does), and ends by itself when its owner is
    gone, however that died.
    """

    def __init__(
        self, name: str, target: str, arguments: tuple[Any, ...], pass_fds: tuple[int, ...] = ()
    ) -> None:
        self.name = name
        ours, theirs = socket.socketpair()
        boot = pickle.dumps((theirs.fileno(), sys.path, target)).hex()
        environment = {
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            # Memory that is freed stays here: fresh pages would cost more than what is done with them.
            "MALLOC_MMAP_THRESHOLD_": str(_KEPT_BYTES),
            "MALLOC_TRIM_THRESHOLD_": str(_KEPT_BYTES),
            **os.environ,
        }
        # A child inherits the mask of blocked signals: Ctrl-C reaches the owner only.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, boot],
                pass_fds=(theirs.fileno(), *pass_fds),
                env=environment,
                stdin=subprocess.DEVNULL,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        self._connection = Connection(ours.detach())
        self._send(pickle.dumps(arguments))

    @property
    def pid(self) -> int:
        return self._process.pid

    def fileno(self) -> int:
        """The socket's descriptor, so that `multiprocessing.connection.wait` can wait for a reply."""
        return self._connection.fileno()

    def request(self, message: bytes) -> None:
        """Send a request. Raises `WorkerDied`."""
        self._send(message)

    def reply(self) -> bytes:
        """Wait for the answer to the oldest open request.

        Raises `WorkerDied` and `WorkerFailed`, and the `InputError` that the work raised.
        """
        try:
            answer = self._connection.recv_bytes()
        except (EOFError, OSError):
            raise self._died() from None
        if answer[:1] == _FAILED:
            raise WorkerFailed(f"{self.name} failed:\n{answer[1:].decode().rstrip()}")
        if answer[:1] == _REFUSED:
            raise InputError(answer[1:].decode())
        return answer[1:]

    def close(self, patience: float = 5.0) -> None:
        """End the process by closing its socket; kill it if it is still there ``patience`` seconds later."""
        self._connection.close()
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.wait()
        self._connection.close()

    def _send(self, message: bytes) -> None:
        try:
            self._connection.send_bytes(message)
        except OSError:
            raise self._died() from None

    def _died(self) -> WorkerDied:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10.0)
        code = self._process.returncode
        if code is None:
            how = "closed its connection"
        elif code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        else:
            how = f"ended with exit code {code}"
        return WorkerDied(f"{self.name} (process {self.pid}) {how}")


def named_function(target: str) -> Callable[..., Any]:
    """The function of a name ("package.module:function")."""
    module, _, function = target.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


def _serve(descriptor: int, target: str) -> None:
    connection = Connection(descriptor)
    with contextlib.suppress(EOFError, OSError):
        arguments = pickle.loads(connection.recv_bytes())
        handler: Callable[[bytes], bytes] | None = None
        problem = b""
        try:
            handler = named_function(target)(*arguments)
        except Exception as error:
            problem = _fault(error)
        while True:
            message = connection.recv_bytes()
            try:
                answer = problem if handler is None else _DONE + handler(message)
            except Exception as error:
                answer = _fault(error)
            connection.send_bytes(answer)


def _fault(error: Exception) -> bytes:
    if isinstance(error, InputError):
        return _REFUSED + str(error).encode()
    return _FAILED + traceback.format_exc().encode()
