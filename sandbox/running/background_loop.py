"""One event loop for the async tools of all blocking runs of this process, in a thread started on demand."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading

_lock = threading.RLock()
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None


def background_loop() -> asyncio.AbstractEventLoop:
    """Return the loop. It runs until the process ends, so that tools can keep connections on it between runs."""
    global _loop, _thread
    with _lock:
        if _loop is None:
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=_run, args=(loop,), name="sandbox-tools", daemon=True)
            try:
                thread.start()
            except BaseException:  # the system has no more threads; the next call tries again
                loop.close()
                raise
            _loop, _thread = loop, thread
        return _loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()


@atexit.register
def _stop() -> None:
    global _loop, _thread
    loop, thread, _loop, _thread = _loop, _thread, None, None
    if loop is None or thread is None:
        return
    loop.call_soon_threadsafe(loop.stop)
    thread.join(timeout=1)
    if not thread.is_alive():
        loop.close()


def _after_fork_in_child() -> None:
    """Drop the loop: its thread does not exist in a forked child. A reference is kept, so that the loop is not closed there."""
    global _lock, _loop, _thread
    if _loop is not None:
        _abandoned.append(_loop)
    _lock, _loop, _thread = threading.RLock(), None, None


_abandoned: list[asyncio.AbstractEventLoop] = []
os.register_at_fork(after_in_child=_after_fork_in_child)
