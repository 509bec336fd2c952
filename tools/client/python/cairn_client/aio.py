"""A connection for the tasks of one event loop. api.AsyncClient adds the commands. Answers come in the order of the
commands, so a command that waits delays those after it; jobs and events do not."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import socket
import weakref
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from .job import AsyncJob, ExecResult, Output, exec_arguments
from .wire import ASK_AGAIN_S, ConnectionLost, Event, Lines, close_all, command, connect_error, decode, default_socket, entry_of, error_of, \
    event_of, finished

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
        self._turn = asyncio.Lock()
        self._sending: asyncio.Task[None] | None = None
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
        if self._sending:
            self._sending.cancel()
        asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()
        self._lines.close()
        for future in self._waiting:
            if not future.done():
                future.set_exception(why)
        for end in (e for ends in self._ends.values() for e in ends):
            end.cancel()  # the question after it tells why
        for queue in self._queues:
            queue.put_nowait(None)

    def _readable(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._sock, 65536, 4)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, fds = b"", []
        for m, got in self._lines.feed(data, fds):
            if "event" in m:
                self._event(m)
                continue
            future = self._waiting.popleft()
            if not future.done():
                future.set_result((m, got.pop() if got else None))
            close_all(got)
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
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        sending = asyncio.ensure_future(self._send(command(name, arguments), None if fd is None else os.dup(fd), future))
        try:
            await asyncio.shield(sending)  # without its end, the next command would be part of this one
            answer, got = await future
        except asyncio.CancelledError:
            if not future.cancel() and not future.cancelled() and not future.exception():
                close_all([fd for fd in future.result()[1:] if fd is not None])
            raise
        if "error" in answer:
            raise error_of(answer["error"])
        return answer["return"], got

    async def _send(self, m: bytes, fd: int | None, future: asyncio.Future[Any]) -> None:
        """Send a command when it is its turn, unless its caller has been cancelled before. fd: taken. If the daemon has
        gone, _readable() ends what waits."""
        try:
            async with self._turn:
                if future.done():
                    return
                if self._lost:
                    future.set_exception(ConnectionLost("the connection has ended"))
                    return
                self._waiting.append(future)
                self._sending = asyncio.current_task()
                with contextlib.suppress(OSError, asyncio.CancelledError):
                    await self._bytes(m, fd)
                self._sending = None
        finally:
            if fd is not None:
                os.close(fd)

    async def _bytes(self, m: bytes, fd: int | None) -> None:
        # The buffer of a socket takes a file with the first byte, or nothing.
        while fd is not None:
            try:
                m = m[socket.send_fds(self._sock, [m], [fd]):]
                fd = None
            except BlockingIOError:
                await asyncio.sleep(0.01)
        await asyncio.get_running_loop().sock_sendall(self._sock, m)

    async def call(self, name: str, arguments: Mapping[str, Any], fd: int | None = None) -> Any:
        """Run a command and return its result as JSON has it."""
        answer, got = await self.call_with_fd(name, arguments, fd)
        if got is not None:
            os.close(got)
        return answer

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
            try:
                entry = await self.job_entry(id)
                if entry["status"] == "concluded":
                    return entry
                await asyncio.wait([end], timeout=ASK_AGAIN_S)
            finally:
                self._forget(id, end)

    def _forget(self, id: str, end: asyncio.Future[None]) -> None:
        if end in self._ends.get(id, []):
            self._ends[id].remove(end)
            if not self._ends[id]:
                del self._ends[id]

    def events(self) -> AsyncIterator[Event]:
        """Yield events from this call on, until the connection ends."""
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._queues.add(queue)
        if self._lost:
            queue.put_nowait(None)
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
