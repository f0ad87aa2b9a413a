"""Signals that end a command: SIGINT, SIGTERM and SIGHUP.

The first signal raises KeyboardInterrupt in the main thread, or Prefect's TerminationSignal during
a flow: steps save their state, and Prefect and MLflow record the end of the run. A thread receives
the signals too. It ends the process and all its children after a second Ctrl-C, or `_GRACE_S` after
the first signal, because a library can block the main thread or catch the exception.
"""

from __future__ import annotations

import _thread
import logging
import os
import select
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import NoReturn

from components.core.processes import stop_children

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_GRACE_S = 17.0
"""A command has to end within 20 s; ranks have 10 s of them to save a checkpoint."""
_DRAIN_S = 3.0
"""For Prefect's client to send its last events, which have the states of tasks (assumption)."""
_CHILDREN_GRACE_S = 1.0
"""From SIGTERM to SIGKILL for the remaining children (assumption): steps end their own before."""
_REPEAT_S = 0.3
"""A second SIGINT within this time belongs to the same Ctrl-C: some parents forward signals."""
_LOST = 0
"""Stands for a signal whose exception was discarded; no signal has this number."""
_CALLBACK_S = 0.1
"""For the callback that discarded it to return (assumption)."""
_SHOW_CURSOR = "\x1b[?25h"


class Interrupts:
    """Receives the signals, and ends the process."""

    def __init__(self) -> None:
        """Install the handlers. Must be called by the main thread."""
        self.received: signal.Signals | None = None
        """The first signal."""
        self._is_main_interrupted = False
        self._exit_lock = threading.Lock()
        for number in _SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup ignores SIGHUP.
                signal.signal(number, self._interrupt)
        # The interpreter writes the number of each signal to the pipe, also while a library blocks
        # the main thread, or has its own handler.
        read_end, self._pipe = os.pipe()
        os.set_blocking(self._pipe, False)
        signal.set_wakeup_fd(self._pipe, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(read_end,), daemon=True).start()
        self._report_unraisable = sys.unraisablehook
        sys.unraisablehook = self._repeat_if_lost

    def finish(self) -> NoReturn:
        """Send the last events of a run, and exit with 128 + the number of the signal."""
        _drain_events()
        self._exit(_CHILDREN_GRACE_S)

    def _interrupt(self, number: int, _: object) -> None:
        # Only the first signal interrupts: another exception would end a step that saves its state.
        if self._is_main_interrupted:
            return
        self._is_main_interrupted = True
        self.received = self.received or signal.Signals(number)
        raise KeyboardInterrupt

    def _repeat_if_lost(self, unraisable: sys.UnraisableHookArgs) -> None:
        """Repeat the signal if its exception was raised in a callback (of a weak reference, of the
        garbage collector), which discards it."""
        if self.received is None or issubclass(unraisable.exc_type, Exception):
            self._report_unraisable(unraisable)
            return
        os.write(self._pipe, bytes([_LOST]))  # The thread repeats it after this callback.

    def _watch(self, read_end: int) -> None:
        """End the process on a second SIGINT, or some time after the first signal."""
        deadline: float | None = None
        last_sigint_s: float | None = None
        num_repeated = 0
        while True:
            timeout_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([read_end], [], [], timeout_s)[0]:
                self._exit(0)
            for number in os.read(read_end, 64):
                now_s = time.monotonic()
                if number == _LOST:
                    time.sleep(_CALLBACK_S)
                    num_repeated += 1
                    self._is_main_interrupted = False
                    _thread.interrupt_main(self.received or signal.SIGINT)
                elif num_repeated:
                    num_repeated -= 1  # The interpreter writes repeated signals too.
                elif number in _SIGNALS:
                    self.received = self.received or signal.Signals(number)
                    if deadline is None:
                        deadline = now_s + _GRACE_S
                        _silence_console()
                    if number == signal.SIGINT:
                        if last_sigint_s is not None and now_s - last_sigint_s > _REPEAT_S:
                            self._exit(0)
                        last_sigint_s = last_sigint_s or now_s

    def _exit(self, children_grace_s: float) -> NoReturn:
        """Print a line, stop all children and exit without cleanup."""
        self._exit_lock.acquire()  # Never released: the first thread ends the process.
        number = self.received or signal.SIGTERM
        line = f"stopped by {number.name}; run the same command to resume\n"
        with suppress(OSError, ValueError):  # The terminal may be closed.
            # A terminal has echoed ^C, and a progress bar has hidden the cursor.
            sys.stderr.write(f"{_SHOW_CURSOR}\n{line}" if sys.stderr.isatty() else line)
            sys.stderr.flush()
            sys.stdout.flush()
        stop_children(children_grace_s)
        os._exit(128 + number)


def _silence_console() -> None:
    """Keep log records off the terminal: libraries report connections that end."""
    for logger in (logging.getLogger(), logging.getLogger("prefect")):
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler):  # Not Prefect's handler for its API.
                handler.setLevel(logging.CRITICAL + 1)


def _drain_events() -> None:
    """Send the events and logs in the queues of Prefect's client, if there are any.

    At a normal exit the client waits without a limit.
    """
    for module, name in (("events.worker", "EventsWorker"), ("logging.handlers", "APILogWorker")):
        if loaded := sys.modules.get(f"prefect.{module}"):
            with suppress(Exception):
                getattr(loaded, name).drain_all(timeout=_DRAIN_S)
