"""What environments answer when they are asked something. That one raised is an answer, too, and no end of a worker."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from goskill.errors import WorkerFailed


class Raised(NamedTuple):
    """What an environment raised, and its traceback."""

    error: Exception
    trace: str


def answer_of(ask: Callable[[], Any]) -> Any:
    """What ``ask`` returns, or :class:`Raised`."""
    try:
        return ask()
    except Exception as error:
        return Raised(error, traceback.format_exc())


def packed_answers(answers: Sequence[Any]) -> bytes:
    """Answers for :func:`unpacked_answers` in another process. What cannot go there: a RuntimeError."""
    return pickle.dumps([_packed(one) for one in answers])


def unpacked_answers(content: bytes) -> list[Any]:
    """The answers of :func:`packed_answers`."""
    return [answer_of(lambda one=one: pickle.loads(one)) for one in pickle.loads(content)]  # type: ignore[misc]


def without_errors(answers: Sequence[Any], tasks: Sequence[str]) -> tuple[Any, ...]:
    """The answers of environments of ``tasks``. Raises what the first one raised, from its traceback."""
    for index, answer in enumerate(answers):
        if isinstance(answer, Raised):
            where = f"environment {index} ({tasks[index]}) raised:\n{answer.trace.rstrip()}"
            raise answer.error from WorkerFailed(where)
    return tuple(answers)


def _packed(answer: Any) -> bytes:
    try:
        content = pickle.dumps(answer)
        if isinstance(answer, Raised):
            pickle.loads(content)  # many exceptions with arguments of their own cannot be made again
        return content
    except Exception as error:
        trace = answer.trace if isinstance(answer, Raised) else traceback.format_exc()
        came = answer.error if isinstance(answer, Raised) else error
        return pickle.dumps(Raised(RuntimeError(f"{type(came).__name__}: {came}"), trace))
