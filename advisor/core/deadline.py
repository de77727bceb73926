"""A limit on the time of code from outside, such as a chat template: it may never end."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from advisor.core.errors import BadInput


@contextmanager
def deadline(seconds: float, what: str, hint: str = "") -> Iterator[None]:
    """Within, Python code of this thread ends after ``seconds``; a single call into compiled code is waited for.

    Raises:
        BadInput: time is up; ``what`` and ``hint`` as for any error.
    """

    class Late(BadInput):
        def __init__(self) -> None:
            super().__init__(what, hint)

    thread, lock, over = ctypes.c_ulong(threading.get_ident()), threading.Lock(), False

    def stop() -> None:
        with lock:
            if not over:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(Late))

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            over = True
        timer.cancel()
