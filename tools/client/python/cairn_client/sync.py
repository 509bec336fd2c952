"""A connection for one thread at a time. api.Client adds the commands."""

from __future__ import annotations

import collections
import select
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from .job import ExecResult, Job, Output, exec_arguments
from .wire import ASK_AGAIN_S, ConnectionLost, Event, Lines, command, connect_error, decode, default_socket, entry_of, error_of, event_of, finished

T = TypeVar("T")
EVENTS_KEPT = 10000  # of a client that does not read them; the oldest go


class Connection:
    """path: the daemon's socket [default_socket()]."""

    _known: ClassVar[Mapping[str, type[Event]]] = {}

    def __init__(self, path: str | None = None) -> None:
        self._lines = Lines()
        self._messages: collections.deque[dict[str, Any]] = collections.deque()
        self._events: collections.deque[dict[str, Any]] = collections.deque(maxlen=EVENTS_KEPT)
        self._fds: list[int] = []
        self._awaited: set[str] = set()
        self._sock = socket.socket(socket.AF_UNIX)
        path = path or default_socket()
        try:
            self._sock.connect(path)
        except OSError as e:
            self._sock.close()
            raise connect_error(e, path) from None
        self._message(None)
        self.call("qmp_capabilities", {})

    def close(self) -> None:
        self._sock.close()

    def __enter__(self: T) -> T:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _message(self, end: float | None) -> dict[str, Any]:
        """Read a message. end: of time.monotonic(); then TimeoutError."""
        while not self._messages:
            left = None if end is None else max(end - time.monotonic(), 0)
            if not select.select([self._sock], [], [], left)[0]:
                raise TimeoutError
            data, fds, _, _ = socket.recv_fds(self._sock, 65536, 4)
            if not data:
                raise ConnectionLost("the daemon has ended the connection")
            for m, got in self._lines.feed(data, fds):
                self._messages.append(m)
                self._fds += got
        return self._messages.popleft()

    def _event(self, m: dict[str, Any]) -> None:
        self._events.append(m)
        self._awaited.discard(finished(m) or "")

    def call(self, name: str, arguments: Mapping[str, Any], fd: int | None = None) -> Any:
        """Run a command and return its result as JSON has it. fd: a file to pass; it stays open."""
        m = command(name, arguments)
        sent = socket.send_fds(self._sock, [m], [fd]) if fd is not None else 0
        self._sock.sendall(m[sent:])
        while "event" in (answer := self._message(None)):
            self._event(answer)
        if "error" in answer:
            raise error_of(answer["error"])
        return answer["return"]

    def taken_fd(self) -> int | None:
        """Return the file that came with the last answer, if there was one. The caller closes it."""
        return self._fds.pop() if self._fds else None

    def _needed_fd(self) -> int:
        fd = self.taken_fd()
        if fd is None:
            raise ConnectionLost("the daemon has sent no file")
        return fd

    def _object(self, of: type[T], name: str, arguments: Mapping[str, Any], fd: int | None = None) -> T:
        return decode(of, self.call(name, arguments, fd))

    def _list(self, of: type[T], name: str, arguments: Mapping[str, Any]) -> list[T]:
        return [decode(of, o) for o in self.call(name, arguments)]

    def _job(self, of: type[T], name: str, arguments: Mapping[str, Any], fd: int | None = None) -> Job[T]:
        return Job(self, self.call(name, arguments, fd)["job"], of)

    def job_entry(self, id: str) -> dict[str, Any]:
        return entry_of(id, self.call("query-jobs", {"id": id}))

    def job_end(self, id: str, timeout: float | None) -> dict[str, Any]:
        """Wait for the end of a job and return what query-jobs says of it."""
        end = None if timeout is None else time.monotonic() + timeout
        try:
            while True:
                self._awaited.add(id)  # before the question: an event behind its answer is not missed
                entry = self.job_entry(id)
                if entry["status"] == "concluded":
                    return entry
                self._wait_for(id, end)
        finally:
            self._awaited.discard(id)

    def _wait_for(self, id: str, end: float | None) -> None:
        """Wait until an event tells that the job has ended, but not long. end: then TimeoutError."""
        again = time.monotonic() + ASK_AGAIN_S
        try:
            while id in self._awaited:
                self._event(self._message(again if end is None else min(again, end)))
        except TimeoutError:
            if end is not None and end <= again:
                raise

    def events(self, timeout: float | None = None) -> Iterator[Event]:
        """Yield events, also those that came before.
        timeout: seconds; the iteration ends when none comes for so long."""
        while True:
            try:
                while not self._events:
                    self._event(self._message(None if timeout is None else time.monotonic() + timeout))
            except TimeoutError:
                return
            yield event_of(self._events.popleft(), self._known)

    def exec(self, vm: str, arg: Sequence[str], *, env: Mapping[str, str] | Sequence[str] | None = None,
             folder: str | None = None, input_data: bytes | str | None = None, timeout: int | None = None) -> ExecResult:
        """Run a program in the guest with cairn-agent, wait for its end, and return its output.

        arg: the program and its arguments
        env: variables, also as a list of NAME=VALUE
        folder: working folder [/]
        input_data: standard input [none]; a str is sent as UTF-8
        timeout: seconds; then the program is killed, and the error of the job is raised"""
        arguments = exec_arguments(vm, arg, env, folder, input_data, timeout)
        id = self.call("agent-exec", arguments)["job"]
        entry, output = self.job_end(id, None), Output()
        while output.more and "error" not in entry:
            output.add(self.call("agent-exec-output", {"id": id, **output.next}))
        self.call("job-dismiss", {"id": id})
        if "error" in entry:
            raise error_of({"class": entry["error-class"], "desc": entry["error"]})
        return output.result(entry["result"])

    def console(self, vm: str, *, history: bool = True) -> socket.socket:
        """Connect to the guest's serial console."""
        self.call("vm-console", {"vm": vm, "history": history})
        return socket.socket(fileno=self._needed_fd())
