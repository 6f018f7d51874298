"""Many processes that extract flow, one video at a time each.

Processes are spawned, not forked, so that TensorFlow and OpenCV start afresh in each.
One that dies, killed for its memory or by a crash in a decoder, costs the video it was
at, and is replaced; one that dies before it begins costs none and is not, since the
next would fare no better. When this process dies, they die too.

Source: Python's multiprocessing, start method "spawn".
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from multiprocessing.connection import wait

import cv2

from zoo.datasets.extraction.one_video import attempt, failure
from zoo.files import WriteError


def in_this_process(jobs, settings, out, tick):
    """Extracts videos one after the other.

    Args:
        jobs: Jobs.
        settings: Settings.
        out: Folder of the flow.
        tick: Called with the number of fields computed since the last call.

    Yields:
        (Job, entry) of each video.

    Raises:
        WriteError: If the output can't be written.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        flow = settings.method.open()
        for job in jobs:
            yield job, attempt(job, settings, flow, out, tick)
    finally:
        cv2.setNumThreads(threads)


def in_processes(jobs, settings, out, tick, processes, warn=print):
    """Extracts videos in several processes; the rest as ``in_this_process``.

    Args:
        jobs, settings, out: As there.
        tick: As there, and now and then with 0.
        processes: How many.
        warn: Called with a text about each process that died before it began.

    Raises:
        ChildProcessError: If the method can't start, or all processes have died before
            they began and videos are left.
    """
    waiting = deque(jobs)
    workers = {}
    try:
        for _ in range(min(processes, len(waiting))):
            _start(workers, settings, out)
        while workers:
            tick(0)
            for connection in wait(list(workers), timeout=0.5):
                worker = workers[connection]
                yield from worker.receive(tick, settings)
                if worker.is_dead():
                    del workers[connection]
                    if not worker.is_ready:
                        if waiting and not workers:
                            raise ChildProcessError(worker.obituary())
                        warn(f"zoo: warning: {worker.obituary()}")
                    elif waiting:
                        _start(workers, settings, out)
                elif worker.job is None and worker.is_ready:
                    worker.give(waiting.popleft() if waiting else None)
    finally:
        for worker in workers.values():
            worker.stop()


def _start(workers, settings, out):
    worker = _Worker(settings, out)
    workers[worker.connection] = worker


class _Worker:
    """A process, the connection to it, and the job it is at."""

    def __init__(self, settings, out):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.job, self.is_ready, self._ended = None, False, False
        self.process = context.Process(
            target=_serve, args=(theirs, settings, out), daemon=True
        )
        self.process.start()
        theirs.close()

    def give(self, job):
        self.job = job
        with contextlib.suppress(BrokenPipeError):  # noticed when it's read from
            self.connection.send(job)

    def receive(self, tick, settings):
        """Takes one message; yields (job, entry) if it ends a job."""
        try:
            kind, value = self.connection.recv()
        except (EOFError, ConnectionResetError):
            yield from self._died(settings)
            return
        if kind == "fields":
            tick(value)
        elif kind == "ready":
            self.is_ready = True
        elif kind == "entry":
            job, self.job = self.job, None
            yield job, value
        elif kind == "stop":
            raise WriteError(*value)
        else:
            raise ChildProcessError(f"{settings.method.name} cannot start: {value}")

    def _died(self, settings):
        self._ended = True
        self.connection.close()
        self.process.join()
        code = self.process.exitcode
        if self.job is not None:
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            yield (
                self.job,
                failure(
                    self.job,
                    settings,
                    f"{self.job.path}: the process that extracted it died ({how}): "
                    "out of memory, killed, or a crash in the decoder; fewer "
                    "--processes need less memory.",
                ),
            )

    def is_dead(self):
        return self._ended

    def obituary(self):
        """Of one that died before it began."""
        return (
            "a process that should extract flow ended with exit code "
            f"{self.process.exitcode} before it began; its own message is above. In a "
            "script, call extract below `if __name__ == '__main__':`, or with "
            "processes=1."
        )

    def stop(self):
        self.process.terminate()
        self.process.join()
        self.connection.close()


def _serve(connection, settings, out):
    """What a process does: one job after the other, until it's given None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to handle
    threading.Thread(target=_die_with_parent, daemon=True).start()
    cv2.setNumThreads(1)
    try:
        flow = settings.method.open()
    except Exception as error:
        connection.send(("broken", f"{type(error).__name__}: {error}"))
        return
    connection.send(("ready", None))
    try:
        while (job := connection.recv()) is not None:
            entry = attempt(
                job, settings, flow, out, lambda n: connection.send(("fields", n))
            )
            connection.send(("entry", entry))
    except WriteError as error:
        connection.send(("stop", error.args))


def _die_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)
