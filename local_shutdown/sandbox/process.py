"""One running sandbox: start it, run commands in it, answer its questions, stop it.

Everything runs on the event loop's thread, so nothing needs a lock.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

from local_shutdown.clock import Countdown, while_we_run
from local_shutdown.errors import SandboxFault
from local_shutdown.sandbox import cgroup, standstill
from local_shutdown.sandbox.capture import Capture
from local_shutdown.sandbox.idmap import read_until
from local_shutdown.sandbox.kit import Kit
from local_shutdown.sandbox.reports import Down, FileStates, Finished, Question, file_states
from local_shutdown.sandbox.spawn import spawn

START_TIMEOUT_S = 60.0
# How long a killed command may take to be reported dead before the sandbox counts as broken.
KILL_GRACE_S = 20.0
# The clock of a command's time limit is made then: most are over long before.
LASTS_AFTER_S = 0.25
# How long PID 1 may take to end when it is asked to, before it is killed.
STOP_GRACE_S = 5.0
_PACKET_BYTES = 64 * 1024

Ask = Callable[["Question"], bytes | None]


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
        self._group: Path | None = None
        self._up: asyncio.Future[FileStates] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._command: asyncio.Future[tuple[int | None, FileStates]] | None = None
        self._countdown: Countdown | None = None  # of a command that lasts
        self._ending: asyncio.Task[None] | None = None  # once the command's time is over
        self._timed_out = False
        self._blocked = False
        self._script_over: asyncio.Event | None = None  # while the shutdown script runs
        self._limit: str | None = None
        self._oom_kills = 0
        self._broken = "PID 1 of the sandbox ended without a signal from inside"
        self._captured: tuple[Capture, ...] = ()
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
            async with kit.gate(), asyncio.timeout(START_TIMEOUT_S):
                sandbox.files = await sandbox._boot()
        except TimeoutError:
            await sandbox.stop()
            raise SandboxFault(
                f"the sandbox did not start within {START_TIMEOUT_S:.0f} s"
            ) from None
        except OSError as failed:
            await sandbox.stop()
            raise SandboxFault(f"the sandbox could not be started: {failed}") from failed
        except BaseException:
            await sandbox.stop()
            raise
        return sandbox

    async def _boot(self) -> FileStates:
        kit = self._kit
        if kit.group is not None:
            self._group = kit.group.make()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control = ours
        with theirs:
            ours.setblocking(False)
            ours.send(kit.policy.limits.boot_message())
            started = spawn(kit, theirs.fileno(), self._group)
        self._pid, self._errors_fd = started.pid, started.errors_fd
        self._loop.add_reader(ours.fileno(), self._on_control)
        if kit.id_map is not None:
            await self._map_users(started.info_fd, started.block_fd)
        return await self._up

    async def _map_users(self, info_fd: int, block_fd: int) -> None:
        """bwrap says its child's pid, waits, and goes on when the block descriptor is closed."""
        assert self._kit.id_map is not None
        try:
            heard = await read_until(info_fd, b"}")
            if heard:  # else bwrap has ended, and its message is on the way
                pid = int(json.loads(heard)["child-pid"])
                await self._kit.id_map.write(pid, next(self._kit.numbers))
        except (OSError, ValueError, KeyError) as failed:
            raise SandboxFault(
                f"the user ids of the sandbox could not be mapped: {failed}"
            ) from failed
        finally:
            os.close(block_fd)

    # --- what PID 1 says ----------------------------------------------------------------------

    def _on_control(self) -> None:
        assert self._control is not None
        while True:
            try:
                packet = self._control.recv(_PACKET_BYTES)
            except BlockingIOError:
                return
            except ConnectionResetError:
                # PID 1 ended with a message of ours unread. The kernel says so once, before what
                # PID 1 had said: that it got SIGTERM, perhaps.
                continue
            except OSError:
                packet = b""
            if not packet:
                self._on_end()
                return
            self._on_packet(packet[:1], packet[1:])

    def _on_packet(self, kind: bytes, rest: bytes) -> None:
        if kind == b"Q":
            if rest[:1] == b"B":
                self._script_over = asyncio.Event()
            elif rest[:1] == b"N":
                self._answer(Question("next"))
            else:
                self._end_script()
                status = struct.unpack_from("=i", rest, 1)[0]
                self._answer(Question("on", status, cut_short=self._cut_short(status)))
        elif kind == b"G":
            self._end_script()
            self._answer(Question("gone", timed_out=self._timed_out))
        elif kind == b"U":
            self._close_errors()
            if not self._up.done():
                self._up.set_result(file_states(rest))
        elif kind == b"E":
            self.files = file_states(rest[4:])
            self._finish(struct.unpack_from("=i", rest)[0], self.files)
        elif kind == b"F":
            # Only a sandbox full of the model's own processes refuses to fork.
            self._limit = "processes"
            self._finish(None, self.files)
        elif kind == b"L" and rest == b"full":
            self._broken = "the sandbox held many more files than it may, and was ended"
        elif kind == b"L":
            self._limit = rest.decode()
        elif kind == b"D":
            self.files = file_states(rest[4:])
            self.down = Down(struct.unpack_from("=i", rest)[0], self.files)

    def _end_script(self) -> None:
        if self._script_over is not None:
            self._script_over.set()
            self._script_over = None

    def _cut_short(self, status: int) -> bool:
        """Whether a limit of ours ended the script, by its wait status."""
        ended_by = status & 0x7F
        return (
            ended_by in (signal.SIGXCPU, signal.SIGXFSZ)
            or (ended_by == signal.SIGPIPE and self._printed_too_much())
            or (ended_by == signal.SIGKILL and self._out_of_memory())
        )

    def _printed_too_much(self) -> bool:
        return any(capture.flooded for capture in self._captured)

    def _out_of_memory(self) -> bool:
        return self._group is not None and cgroup.oom_kills(self._group) > self._oom_kills

    def _answer(self, question: Question) -> None:
        reply = self._ask(question)
        if reply is not None:
            try:
                self._send(b"A" + reply)
            except SandboxFault as fault:
                self._fail(fault.message)

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
        if self._up.done():
            self._fail(self._broken)
        self._reap(time.monotonic() + STOP_GRACE_S)

    def _reap(self, kill_at: float) -> None:
        try:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
        except ChildProcessError:
            pid, status = self._pid, 0
        if pid == 0:
            if time.monotonic() > kill_at:
                self._kill()
                kill_at = float("inf")
            # A pidfd instead was no faster (stopping 34 against 36 ms, 1.9 ms of processor time
            # both, 8 at once on a busy machine), and is one more descriptor for each sandbox.
            self._loop.call_later(0.004, self._reap, kill_at)
            return
        self._pid = 0
        if self._group is not None:
            cgroup.remove(self._group)
            self._group = None
        if not self._up.done():
            code = os.waitstatus_to_exitcode(status)
            self._fail(self._read_errors() or f"bwrap or PID 1 ended with exit status {code}")
        if not self._ended.done():
            self._ended.set_result(None)

    # --- what we ask of it --------------------------------------------------------------------

    def _send(self, packet: bytes, fds: tuple[int, ...] = ()) -> None:
        """Raises SandboxFault when PID 1 is gone or does not read."""
        if self._control is None:
            raise SandboxFault(f"the sandbox is gone: {self._broken}")
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
            return Finished(126 << 8, b"", why, 0, len(why), False, False, None, self.files, None)
        self._limit = None
        self._timed_out = self._blocked = False
        self._oom_kills = cgroup.oom_kills(self._group) if self._group else 0
        out, err = self._captures(text)
        self._captured = (out, err)
        self._command = self._loop.create_future()
        soon = min(LASTS_AFTER_S, limits.command_s)
        lasts = self._loop.call_later(soon, self._it_lasts, limits.command_s - soon)
        try:
            status, files = await self._command
        finally:
            lasts.cancel()
            if self._countdown is not None:
                self._countdown.cancel()
                self._countdown = None
            if self._ending is not None:
                self._ending.cancel()
            self._command = self._ending = None
            stdout, stderr = out.drain(), err.drain()
        limit = "output" if self._printed_too_much() else self._limit
        if limit is None and self._out_of_memory():
            limit = "memory"
        timed_out, self._timed_out = self._timed_out, False
        return Finished(
            status,
            stdout,
            stderr,
            out.count,
            err.count,
            timed_out,
            self._blocked,
            limit,
            files,
            self.down,
        )

    def _it_lasts(self, left_s: float) -> None:
        """The command is none of the many that are over at once."""
        self._countdown = Countdown(left_s, self._end_command)

    def _end_command(self) -> None:
        self._ending = self._loop.create_task(self._time_is_over())

    async def _time_is_over(self) -> None:
        """The command's time is over: a shutdown script that runs by then is left to come to its
        end, for `shutdown_s` in all; what still runs then is looked at, and killed."""
        limits = self._kit.policy.limits
        if self._script_over is not None:
            over = asyncio.ensure_future(self._script_over.wait())
            late = asyncio.ensure_future(while_we_run(limits.shutdown_s - limits.command_s))
            try:
                await asyncio.wait((over, late), return_when=asyncio.FIRST_COMPLETED)
            finally:
                over.cancel()
                late.cancel()
        if self._script_over is not None:
            program = self._kit.next_question_path
            self._blocked = await standstill.stands_still(self._pid, program)
        self._timed_out = True
        with contextlib.suppress(SandboxFault):
            self._send(b"K")
        await while_we_run(KILL_GRACE_S)
        self._fail("a killed command did not end")

    def _captures(self, command: bytes) -> tuple[Capture, Capture]:
        limits = self._kit.policy.limits
        read_out, write_out = os.pipe()
        read_err, write_err = os.pipe()
        os.set_blocking(read_out, False)
        os.set_blocking(read_err, False)
        out = Capture(self._loop, read_out, limits.result_bytes, limits.output_bytes)
        err = Capture(self._loop, read_err, limits.result_bytes, limits.output_bytes)
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
        try:
            if self._pid:
                if self._control is not None:
                    with contextlib.suppress(OSError):
                        self._control.shutdown(socket.SHUT_WR)
                timer = self._loop.call_later(STOP_GRACE_S, self._kill)
                try:
                    await asyncio.shield(self._ended)
                finally:
                    timer.cancel()
        finally:
            if not self._pid and self._control is not None:
                self._control.close()
                self._control = None
            if not self._pid and self._group is not None:
                cgroup.remove(self._group)
                self._group = None
            for future in (self._up, self._command):
                if future is not None and future.done() and not future.cancelled():
                    future.exception()  # seen, even where nobody waited for it
            self._close_errors()

    def _read_errors(self) -> str:
        os.set_blocking(self._errors_fd, False)
        try:
            return os.read(self._errors_fd, 4096).decode(errors="replace").strip()
        except OSError:
            return ""

    def _close_errors(self) -> None:
        if self._errors_fd >= 0:
            os.close(self._errors_fd)
            self._errors_fd = -1

    def _kill(self) -> None:
        """Kill PID 1, or what is to become it, and bwrap: in this order, see `bwrap_args`."""
        if not self._pid:
            return
        with contextlib.suppress(OSError, ValueError):
            inside = Path(f"/proc/{self._pid}/task/{self._pid}/children").read_text()
            for pid in inside.split():
                os.kill(int(pid), signal.SIGKILL)
        os.kill(self._pid, signal.SIGKILL)
