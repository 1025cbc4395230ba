"""A service in several processes, which take their requests from one socket; one that dies is replaced."""

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from prometheus_client.multiprocess import mark_process_dead

from depthwise.errors import DepthwiseError
from depthwise.serve.metrics import SHARED
from depthwise.serve.server import STOPS, Told
from depthwise.serve.setup import Setup
from depthwise.words import number_of

PAUSE = 5.0
"""Seconds until another is started in the place of one that could not be."""

ALIKE = 2.0
"""Seconds in which a sentence that several processes say is said once."""

MOST_DEATHS, DEATHS_SECONDS = 10, 60.0
"""Processes that may die in so many seconds; one more, and it is the service that is at fault."""


def run(setup: Setup, number: int, listening: socket.socket, told: Told) -> int:
    """Serve in `number` processes until a signal comes and all that they took is answered; which signal it was.

    SIGHUP is handed on to them. Raises DepthwiseError if one cannot begin at the start, or if they die again and again;
    the others have ended then.
    """
    with tempfile.TemporaryDirectory(prefix="depthwise-serve-") as counts, _signals() as signals:
        crew = _Crew(setup, number, listening, told, counts, signals)
        try:
            return crew.serve()
        finally:
            crew.end()


class _Process:
    def __init__(self, setup: Setup, listening: socket.socket, counts: str) -> None:
        socket_number = listening.fileno()
        self.popen = subprocess.Popen(
            [sys.executable, "-P", "-m", "depthwise.serve.process", str(socket_number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[socket_number],
            env={**os.environ, SHARED: counts},
            start_new_session=True,  # Ctrl-C in a terminal is for who started it
        )
        assert self.popen.stdin
        with suppress(OSError):  # it has ended already, which is heard
            self.popen.stdin.write(json.dumps(setup.to_json()).encode() + b"\n")
            self.popen.stdin.flush()
        self.ready, self.failed, self._left = False, "", b""

    @property
    def answers(self) -> int:
        """What is to be looked at for whether it says something."""
        assert self.popen.stdout
        return self.popen.stdout.fileno()

    def heard(self) -> list[str] | None:
        """Take what it says, of which notes are returned; None: it has ended."""
        read = os.read(self.answers, 65536)
        *lines, self._left = (self._left + read).split(b"\n")
        said = [json.loads(line) for line in lines]
        for each in said:
            self.ready, self.failed = each.get("ready", self.ready), each.get("failed", self.failed)
        return [each["note"] for each in said if "note" in each] if read else None

    def how_ended(self) -> str:
        """Waits until it has."""
        code = self.popen.wait()
        for stream in (self.popen.stdin, self.popen.stdout):
            assert stream
            stream.close()
        return self.failed or (f"signal {-code}" if code < 0 else f"code {code}")


class _Crew:
    """The processes by their places, 0 to number - 1."""

    def __init__(
        self,
        setup: Setup,
        number: int,
        listening: socket.socket,
        told: Told,
        counts: str,
        signals: socket.socket,
    ) -> None:
        self._setup, self._listening, self._told, self._counts = setup, listening, told, counts
        self._signals, self._selector = signals, selectors.DefaultSelector()
        self._selector.register(signals, selectors.EVENT_READ)
        self._processes: dict[int, _Process] = {}
        self._due = dict.fromkeys(range(number), 0.0)
        self._deaths: deque[float] = deque(maxlen=MOST_DEATHS + 1)
        self._begun, self._stopped = False, 0
        self._noted: dict[str, float] = {}

    def serve(self) -> int:
        """See `run`."""
        while self._processes or not self._stopped:
            self._start_due()
            wait = min(self._due.values()) - time.monotonic() if self._due else None
            for key, _ in self._selector.select(wait and max(0.0, wait)):
                if key.fileobj is self._signals:
                    self._signalled(self._signals.recv(64))
                else:
                    self._heard(key.data)
            if not self._begun and not self._due and all(each.ready for each in self._processes.values()):
                self._begun = True
                self._told.ready(self._setup.address.url(self._listening.getsockname()[1]))
        return self._stopped

    def end(self) -> None:
        """Have those end that are still there, when what they took is answered."""
        for process in self._processes.values():
            process.popen.terminate()
        for process in self._processes.values():
            process.how_ended()
        self._processes = {}
        self._selector.close()

    def _start_due(self) -> None:
        for place in [place for place, due in self._due.items() if due <= time.monotonic()]:
            del self._due[place]
            process = self._processes[place] = _Process(self._setup, self._listening, self._counts)
            self._selector.register(process.answers, selectors.EVENT_READ, place)

    def _signalled(self, numbers: bytes) -> None:
        for number in numbers:
            if number in STOPS:
                self._stopped = self._stopped or number
                self._due = {}
                self._listening.close()  # or it would be connected to as long as this process lives
                self._send(signal.SIGTERM, [*self._processes.values()])
            else:
                # One that is not ready has no handler yet, and loads what is there now.
                self._send(number, [each for each in self._processes.values() if each.ready])

    def _send(self, number: int, processes: list[_Process]) -> None:
        for process in processes:
            process.popen.send_signal(number)

    def _heard(self, place: int) -> None:
        notes = self._processes[place].heard()
        if notes is None:
            self._ended(place)
        for note in notes or ():
            now = time.monotonic()
            if now - self._noted.get(note, -ALIKE) > ALIKE:
                self._told.note(note)
                self._noted[note] = now

    def _ended(self, place: int) -> None:
        process = self._processes.pop(place)
        self._selector.unregister(process.answers)
        how = process.how_ended()
        mark_process_dead(process.popen.pid, self._counts)
        if self._stopped:
            return
        if not self._begun:
            raise DepthwiseError(process.failed or f"a process of the service ended as it began ({how})")
        now = time.monotonic()
        self._deaths.append(now)
        if len(self._deaths) > MOST_DEATHS and now - self._deaths[0] < DEATHS_SECONDS:
            raise DepthwiseError(
                f"{number_of(MOST_DEATHS + 1, 'process', 'processes')} of the service died in {DEATHS_SECONDS:g} s, "
                f"the last by {how}: look for the cause, then start it anew"
            )
        self._told.note(f"a process of the service ended ({how}): another takes its place")
        self._due[place] = now if process.ready else now + PAUSE


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """A socket on which the numbers of signals come as bytes, which do nothing else inside the `with`."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    heard = [*STOPS, signal.SIGHUP]
    before = {number: signal.signal(number, lambda *_: None) for number in heard}
    wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        reader.close()
        writer.close()
