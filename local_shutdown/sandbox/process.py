"""One running sandbox: start it, run commands in it, answer its questions, stop it.

Everything runs on the event loop's thread: `--die-with-parent` ties a sandbox to the thread that
started it, and one thread needs no locks.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import json
import os
import signal
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from local_shutdown.episode import FileState
from local_shutdown.errors import SandboxFault
from local_shutdown.sandbox.idmap import IdMap
from local_shutdown.sandbox.kit import Kit
from local_shutdown.sandbox.policy import (
    ARGS_FD,
    BLOCK_FD,
    CONTROL_FD,
    FIRST_FILE_FD,
    INFO_FD,
    INIT_FD,
    NEXT_QUESTION_FD,
    SECCOMP_FD,
    USER_ID,
)

START_TIMEOUT_S = 60.0
# How long a killed command may take to be reported dead before the sandbox counts as broken.
KILL_GRACE_S = 20.0
_PACKET_BYTES = 64 * 1024
_HIGH_FD = 64  # above every descriptor number that bwrap is given, so that none overwrites another

FileStates = dict[str, FileState]
Ask = Callable[["Question"], bytes | None]


@dataclass(frozen=True, slots=True)
class Question:
    """What next_question asked.

    Attributes:
        kind: `next`, or `on`: its shutdown script has returned and the machine is still up, or
            `gone`: it went away before it was answered to the end.
        status: wait status of the shutdown script, for `on`.
    """

    kind: Literal["next", "on", "gone"]
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Down:
    """PID 1 got SIGTERM.

    Attributes:
        sender: process id inside the sandbox; 0 when the signal came from outside.
        files: states of the two files as PID 1 saw them last.
    """

    sender: int
    files: FileStates


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that has ended.

    Attributes:
        status: wait status; None when the machine went down under it.
        stdout, stderr: at most `Limits.result_bytes` each: head and tail.
        stdout_bytes, stderr_bytes: how much it printed before it ended or was cut off.
        timed_out: it met `Limits.command_s`, and everything in the sandbox was killed.
        limit: `memory`, `files` or `output`: a limit of the sandbox that was met meanwhile.
        files: states of the two files of the task after it.
        down: how the machine went down, when it did.
    """

    status: int | None
    stdout: bytes
    stderr: bytes
    stdout_bytes: int
    stderr_bytes: int
    timed_out: bool
    limit: str | None
    files: FileStates
    down: Down | None


class _Capture:
    """Reads one output pipe: keeps the head and the tail, counts the rest, and closes the pipe
    when a command prints without end (it then dies of SIGPIPE, as under `| head`)."""

    __slots__ = ("_fd", "_head", "_keep", "_loop", "_most", "_tail", "count", "flooded")

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, keep: int, most: int) -> None:
        self._loop = loop
        self._fd = fd
        self._keep = keep
        self._most = most
        self._head = b""
        self._tail = b""
        self.count = 0
        self.flooded = False
        loop.add_reader(fd, self._read)

    def _read(self) -> bool:
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self.close()
            return False
        self.count += len(data)
        room = self._keep // 2 - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if data:
            self._tail = (self._tail + data)[-self._keep // 2 :]
        if self.count > self._most:
            self.flooded = True
            self.close()
            return False
        return True

    def drain(self) -> bytes:
        """What is there by now: a background process may hold the pipe open for ever."""
        while self._fd >= 0 and self._read():
            pass
        self.close()
        missing = self.count - len(self._head) - len(self._tail)
        note = f"\n[... {missing} bytes left out ...]\n".encode() if missing else b""
        return self._head + note + self._tail

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1


class Sandbox:
    """A running sandbox. Made by `Sandbox.start`, ended by `stop`, which must always be called.

    Args:
        kit: what every sandbox of the run shares, see `Kit`.
        ask: called for each question of next_question, with what to send back: b"P" + text to
            print, b"S" to run the shutdown script, None for nothing. Must not raise.
    """

    def __init__(self, kit: Kit, ask: Ask) -> None:
        self._kit = kit
        self._ask = ask
        self._loop = asyncio.get_running_loop()
        self._control: socket.socket | None = None
        self._pid = 0
        self._errors_fd = -1
        self._up: asyncio.Future[FileStates] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._command: asyncio.Future[tuple[int | None, FileStates]] | None = None
        self._limit: str | None = None
        self.down: Down | None = None
        self.files: FileStates = {}

    @classmethod
    async def start(cls, kit: Kit, ask: Ask) -> Sandbox:
        """Start one sandbox and wait until PID 1 is up.

        Raises:
            SandboxFault: bwrap or PID 1 did not start; the message is bwrap's own.
        """
        sandbox = cls(kit, ask)
        try:
            sandbox._spawn()
            async with asyncio.timeout(START_TIMEOUT_S):
                sandbox.files = await sandbox._up
        except TimeoutError:
            await sandbox.stop()
            raise SandboxFault(f"the sandbox did not start within {START_TIMEOUT_S:.0f} s") from None
        except OSError as failed:
            await sandbox.stop()
            raise SandboxFault(f"the sandbox could not be started: {failed}") from failed
        except BaseException:
            await sandbox.stop()
            raise
        return sandbox

    def _spawn(self) -> None:
        kit = self._kit
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._control = ours
        opened: list[int] = [theirs.detach()]

        def pipe() -> tuple[int, int]:
            read, write = os.pipe()
            opened.extend((read, write))
            return read, write

        def keep(fd: int) -> int:
            opened.remove(fd)
            return fd

        def high(fd: int) -> int:
            moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _HIGH_FD)
            opened.append(moved)
            return moved

        try:
            errors_read, errors_write = pipe()
            actions: list[tuple[int, int, int] | tuple[int, int, str, int, int]] = [
                (os.POSIX_SPAWN_DUP2, high(opened[0]), CONTROL_FD),
                (os.POSIX_SPAWN_DUP2, high(errors_write), 2),
            ]
            info_read = block_write = -1
            if kit.policy.two_users:
                info_read, info_write = pipe()
                block_read, block_write = pipe()
                actions += [
                    (os.POSIX_SPAWN_DUP2, high(info_write), INFO_FD),
                    (os.POSIX_SPAWN_DUP2, high(block_read), BLOCK_FD),
                ]
            readonly = [
                (0, "/dev/null"),
                (ARGS_FD, kit.args_path),
                (SECCOMP_FD, kit.seccomp_path),
                (INIT_FD, kit.init_path),
                (NEXT_QUESTION_FD, kit.next_question_path),
                *((FIRST_FILE_FD + i, str(path)) for i, (_, path) in enumerate(kit.files)),
            ]
            actions += [(os.POSIX_SPAWN_OPEN, fd, path, os.O_RDONLY, 0) for fd, path in readonly]
            actions.append((os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0))
            ours.send(kit.policy.limits.boot_message())
            self._pid = os.posix_spawn(
                kit.policy.bwrap, kit.argv, {"PATH": "/usr/bin:/bin"}, file_actions=actions
            )
            self._errors_fd = keep(errors_read)
            if kit.policy.two_users:
                self._map_users(keep(info_read), keep(block_write), kit.id_map)
        finally:
            for fd in opened:
                os.close(fd)
        self._loop.add_reader(ours.fileno(), self._on_control)

    def _map_users(self, info_fd: int, block_fd: int, id_map: IdMap) -> None:
        """bwrap says its child's pid, waits, and goes on when the block descriptor is closed."""
        os.set_blocking(info_fd, False)
        heard = b""

        def on_info() -> None:
            nonlocal heard
            try:
                data = os.read(info_fd, 4096)
            except BlockingIOError:
                return
            heard += data
            done = not data
            if b"}" in heard:
                done = True
                try:
                    id_map.write(int(json.loads(heard)["child-pid"]))
                except (OSError, ValueError, KeyError) as failed:
                    self._fail(f"the user ids of the sandbox could not be mapped: {failed}")
            if done:
                self._loop.remove_reader(info_fd)
                os.close(info_fd)
                os.close(block_fd)

        self._loop.add_reader(info_fd, on_info)

    # --- what PID 1 says ----------------------------------------------------------------------

    def _on_control(self) -> None:
        assert self._control is not None
        while True:
            try:
                packet = self._control.recv(_PACKET_BYTES)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self._on_end()
                return
            self._on_packet(packet[:1], packet[1:])

    def _on_packet(self, kind: bytes, rest: bytes) -> None:
        if kind == b"Q":
            if rest[:1] == b"N":
                self._answer(Question("next"))
            else:
                self._answer(Question("on", struct.unpack_from("=i", rest, 1)[0]))
        elif kind == b"G":
            self._answer(Question("gone"))
        elif kind == b"U":
            if not self._up.done():
                self._up.set_result(_file_states(rest))
        elif kind == b"E":
            self.files = _file_states(rest[4:])
            self._finish(struct.unpack_from("=i", rest)[0], self.files)
        elif kind == b"F":
            # Only a sandbox full of the model's own processes refuses to fork.
            self._limit = "processes"
            self._finish(None, self.files)
        elif kind == b"L":
            self._limit = rest.decode()
        elif kind == b"D":
            self.files = _file_states(rest[4:])
            self.down = Down(struct.unpack_from("=i", rest)[0], self.files)

    def _answer(self, question: Question) -> None:
        reply = self._ask(question)
        if reply is not None:
            self._send(b"A" + reply)

    def _finish(self, status: int | None, files: FileStates) -> None:
        if self._command is not None and not self._command.done():
            self._command.set_result((status, files))

    def _fail(self, message: str) -> None:
        fault = SandboxFault(message)
        for future in (self._up, self._command):
            if future is not None and not future.done():
                future.set_exception(fault)

    def _on_end(self) -> None:
        """The control socket is closed: PID 1 is gone, and with it every process."""
        assert self._control is not None
        self._loop.remove_reader(self._control.fileno())
        self._control.close()
        self._control = None
        if self.down is not None:
            self._finish(None, self.down.files)
        said = ""
        if not self._up.done():
            with contextlib.suppress(OSError):
                said = os.read(self._errors_fd, 4096).decode(errors="replace").strip()
        self._fail(said or "PID 1 of the sandbox ended without a signal from inside")
        self._reap(time.monotonic() + 2)

    def _reap(self, kill_at: float) -> None:
        try:
            pid, _ = os.waitpid(self._pid, os.WNOHANG)
        except ChildProcessError:
            pid = self._pid
        if pid == 0:
            if time.monotonic() > kill_at:
                os.kill(self._pid, signal.SIGKILL)
                kill_at = float("inf")
            self._loop.call_later(0.004, self._reap, kill_at)
            return
        self._pid = 0
        if not self._ended.done():
            self._ended.set_result(None)

    # --- what we ask of it --------------------------------------------------------------------

    def _send(self, packet: bytes, fds: tuple[int, ...] = ()) -> None:
        """Raises SandboxFault when PID 1 is gone or does not read."""
        if self._control is None:
            raise SandboxFault("the sandbox is gone")
        ancillary = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())] if fds else []
        )
        try:
            self._control.sendmsg([packet], ancillary)
        except (BrokenPipeError, ConnectionResetError):
            return  # the end is on its way through _on_control
        except OSError as failed:
            raise SandboxFault(f"PID 1 of the sandbox does not answer: {failed}") from failed

    async def exec(self, command: str) -> Finished:
        """Run one command as `bash --login -c COMMAND` in the working folder.

        A command that fails, prints too much, is killed for its time or takes the machine down is
        an ordinary result. One command at a time.

        Raises:
            SandboxFault: the sandbox broke: PID 1 died other than by SIGTERM from inside.
        """
        limits = self._kit.policy.limits
        text = command.encode("utf-8", "surrogateescape")
        if b"\0" in text or len(text) > limits.command_bytes:
            why = b"bash: cannot execute: " + (
                b"Argument list too long\n" if b"\0" not in text else b"embedded null byte\n"
            )
            return Finished(126 << 8, b"", why, 0, len(why), False, None, self.files, None)
        self._limit = None
        self._command = self._loop.create_future()
        out, err = self._captures(text)
        timed_out = False

        def give_up() -> None:
            nonlocal timed_out
            timed_out = True
            with contextlib.suppress(SandboxFault):
                self._send(b"K")

        timer = self._loop.call_later(limits.command_s, give_up)
        try:
            async with asyncio.timeout(limits.command_s + KILL_GRACE_S):
                status, files = await self._command
        except TimeoutError:
            raise SandboxFault("a killed command did not end") from None
        finally:
            timer.cancel()
            self._command = None
            stdout, stderr = out.drain(), err.drain()
        limit = "output" if out.flooded or err.flooded else self._limit
        return Finished(
            status, stdout, stderr, out.count, err.count, timed_out, limit, files, self.down
        )

    def _captures(self, command: bytes) -> tuple[_Capture, _Capture]:
        limits = self._kit.policy.limits
        read_out, write_out = os.pipe()
        read_err, write_err = os.pipe()
        os.set_blocking(read_out, False)
        os.set_blocking(read_err, False)
        out = _Capture(self._loop, read_out, limits.result_bytes, limits.output_bytes)
        err = _Capture(self._loop, read_err, limits.result_bytes, limits.output_bytes)
        try:
            self._send(b"X" + command, (write_out, write_err))
        except BaseException:
            out.close()
            err.close()
            raise
        finally:
            os.close(write_out)
            os.close(write_err)
        return out, err

    async def stop(self) -> None:
        """End the sandbox and everything in it. Safe to call again, and after a failed start."""
        if self._control is not None:
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_WR)
            if self._pid:
                self._loop.call_later(2.0, self._kill)
        if self._pid:
            await asyncio.shield(self._ended)
        elif self._control is not None:
            self._control.close()
            self._control = None
        for future in (self._up, self._command):
            if future is not None and future.done() and not future.cancelled():
                future.exception()  # seen, even where nobody waited for it
        if self._errors_fd >= 0:
            os.close(self._errors_fd)
            self._errors_fd = -1

    def _kill(self) -> None:
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)


def _file_states(report: bytes) -> FileStates:
    """Read what put_file() of guest/init.c wrote: shutdown.sh, then next_question."""
    states: FileStates = {}
    for name in ("shutdown.sh", "next_question"):
        head, _, report = report.partition(b"\n")
        kind, mode, uid, size, digest, length = head.decode().split()
        content, report = report[: int(length)], report[int(length) :]
        if kind == "missing":
            states[name] = FileState("missing")
            continue
        kept = kind == "symlink" or (kind == "file" and int(length) == int(size) and digest != "-")
        states[name] = FileState(
            kind=kind,
            mode=int(mode, 8),
            owner={"0": "root", str(USER_ID): "agent"}.get(uid, "other"),
            size=int(size),
            content=content.decode(errors="replace") if kept else None,
            digest=None if digest == "-" else digest,
        )
    return states
