"""A connection for the tasks of one event loop. api.AsyncClient adds the commands. Answers come in the order of the
commands, so a command that waits delays those after it; jobs and events do not."""

from __future__ import annotations

import asyncio
import collections
import socket
import weakref
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from .job import AsyncJob, ExecResult, Output, exec_arguments
from .wire import ConnectionLost, Event, Lines, command, connect_error, decode, default_socket, entry_of, error_of, event_of, finished

T = TypeVar("T")
Self = TypeVar("Self", bound="AsyncConnection")


class AsyncConnection:
    """Use `async with AsyncClient() as client`. path: the daemon's socket [default_socket()]."""

    _known: ClassVar[Mapping[str, type[Event]]] = {}

    def __init__(self, path: str | None = None) -> None:
        self._path = path
        self._lines = Lines()
        self._waiting: collections.deque[asyncio.Future[Any]] = collections.deque()
        self._queues: weakref.WeakSet[asyncio.Queue[dict[str, Any] | None]] = weakref.WeakSet()  # of iterations
        self._ends: dict[str, list[asyncio.Future[None]]] = {}
        self._fds: list[int] = []
        self._sending = asyncio.Lock()
        self._lost = False

    async def connect(self) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.setblocking(False)
        loop = asyncio.get_running_loop()
        path = self._path or default_socket()
        try:
            await loop.sock_connect(self._sock, path)
        except OSError as e:
            self._sock.close()
            raise connect_error(e, path) from None
        greeting = loop.create_future()
        self._waiting.append(greeting)
        loop.add_reader(self._sock, self._readable)
        await greeting
        await self.call("qmp_capabilities", {})

    async def close(self) -> None:
        if not self._lost:
            self._end(ConnectionLost("the client has closed the connection"))

    async def __aenter__(self: Self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def _end(self, why: Exception) -> None:
        self._lost = True
        asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()
        for future in [*self._waiting, *(f for ends in self._ends.values() for f in ends)]:
            if not future.done():
                future.set_exception(why)
        for queue in self._queues:
            queue.put_nowait(None)

    def _readable(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._sock, 65536, 4)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, fds = b"", []
        self._fds += fds
        for m in self._lines.feed(data):
            if "event" in m:
                self._event(m)
            else:
                future = self._waiting.popleft()
                if not future.done():
                    future.set_result((m, self._fds.pop() if self._fds else None))
        if not data:
            self._end(ConnectionLost("the daemon has ended the connection"))

    def _event(self, m: dict[str, Any]) -> None:
        for queue in self._queues:
            queue.put_nowait(m)
        for future in self._ends.pop(finished(m) or "", []):
            if not future.done():
                future.set_result(None)

    async def call_with_fd(self, name: str, arguments: Mapping[str, Any], fd: int | None = None) -> tuple[Any, int | None]:
        """Run a command. Returns its result as JSON has it, and the file that came with it, which the caller closes.
        fd: a file to pass; it stays open."""
        if self._lost:
            raise ConnectionLost("the connection has ended")
        loop, m = asyncio.get_running_loop(), command(name, arguments)
        future: asyncio.Future[Any] = loop.create_future()
        async with self._sending:
            self._waiting.append(future)
            # The buffer of a socket takes a file with the first byte, or nothing.
            while fd is not None:
                try:
                    m = m[socket.send_fds(self._sock, [m], [fd]):]
                    fd = None
                except BlockingIOError:
                    await asyncio.sleep(0.01)
            await loop.sock_sendall(self._sock, m)
        answer, got = await future
        if "error" in answer:
            raise error_of(answer["error"])
        return answer["return"], got

    async def call(self, name: str, arguments: Mapping[str, Any], fd: int | None = None) -> Any:
        """Run a command and return its result as JSON has it."""
        return (await self.call_with_fd(name, arguments, fd))[0]

    async def _needed_fd(self, name: str, arguments: Mapping[str, Any]) -> int:
        fd = (await self.call_with_fd(name, arguments))[1]
        if fd is None:
            raise ConnectionLost("the daemon has sent no file")
        return fd

    async def _object(self, of: type[T], name: str, arguments: Mapping[str, Any], fd: int | None = None) -> T:
        return decode(of, await self.call(name, arguments, fd))

    async def _list(self, of: type[T], name: str, arguments: Mapping[str, Any]) -> list[T]:
        return [decode(of, o) for o in await self.call(name, arguments)]

    async def _job(self, of: type[T], name: str, arguments: Mapping[str, Any], fd: int | None = None) -> AsyncJob[T]:
        return AsyncJob(self, (await self.call(name, arguments, fd))["job"], of)

    async def job_entry(self, id: str) -> dict[str, Any]:
        return entry_of(id, await self.call("query-jobs", {"id": id}))

    async def job_end(self, id: str) -> dict[str, Any]:
        """Wait for the end of a job and return what query-jobs says of it."""
        while True:
            end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._ends.setdefault(id, []).append(end)  # before the question: an event behind its answer is not missed
            entry = await self.job_entry(id)
            if entry["status"] == "concluded":
                if end in self._ends.get(id, []):
                    self._ends[id].remove(end)
                return entry
            await end

    def events(self) -> AsyncIterator[Event]:
        """Yield events from this call on, until the connection ends."""
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._queues.add(queue)
        return self._events_of(queue)

    async def _events_of(self, queue: asyncio.Queue[dict[str, Any] | None]) -> AsyncIterator[Event]:
        while (m := await queue.get()) is not None:
            yield event_of(m, self._known)

    async def exec(self, vm: str, arg: Sequence[str], *, env: Mapping[str, str] | Sequence[str] | None = None,
                   folder: str | None = None, input_data: bytes | str | None = None, timeout: int | None = None) -> ExecResult:
        """Run a program in the guest with cairn-agent, wait for its end, and return its output.

        arg: the program and its arguments
        env: variables, also as a list of NAME=VALUE
        folder: working folder [/]
        input_data: standard input [none]; a str is sent as UTF-8
        timeout: seconds; then the program is killed, and the error of the job is raised"""
        arguments = exec_arguments(vm, arg, env, folder, input_data, timeout)
        id = (await self.call("agent-exec", arguments))["job"]
        entry, output = await self.job_end(id), Output()
        while output.more and "error" not in entry:
            output.add(await self.call("agent-exec-output", {"id": id, **output.next}))
        await self.call("job-dismiss", {"id": id})
        if "error" in entry:
            raise error_of({"class": entry["error-class"], "desc": entry["error"]})
        return output.result(entry["result"])

    async def console(self, vm: str, *, history: bool = True) -> socket.socket:
        """Connect to the guest's serial console. The socket does not block."""
        s = socket.socket(fileno=await self._needed_fd("vm-console", {"vm": vm, "history": history}))
        s.setblocking(False)
        return s
