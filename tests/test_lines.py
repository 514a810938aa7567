"""A file of whole lines: at every length it may be left at, and with every write that fails."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import closing
from pathlib import Path

import pytest

from local_shutdown import lines as lines_module
from local_shutdown.errors import CannotRunError, UsageError
from local_shutdown.lines import Lines


@pytest.mark.parametrize("block", [1, 4, 7, 1 << 22])
def test_what_follows_the_last_whole_line_goes_wherever_a_block_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(lines_module, "_BLOCK_BYTES", block)
    whole = b"a\n\nbcdefghij\nk\n" + b"l" * 20
    path = tmp_path / "x"
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        kept = whole[:length].rpartition(b"\n")
        before = kept[0] + kept[1]
        opened = Lines(path)
        opened.cut_torn_line()
        assert path.read_bytes() == before
        opened.append(b"new\nand newer")
        opened.append(b"")
        opened.close()
        assert path.read_bytes() == before + b"new\nand newer\n\n"


def test_a_whole_file_is_not_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"a\n")
    os.utime(path, ns=(1, 1))
    opened = Lines(path)
    opened.cut_torn_line()
    opened.close()
    assert path.stat().st_mtime_ns == 1


def test_it_is_made_as_any_file_is_and_no_child_gets_it(tmp_path: Path) -> None:
    path = tmp_path / "x"
    mask = os.umask(0o022)
    try:
        opened = Lines(path)
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert not os.get_inheritable(opened._file.fileno())
    opened.append(b"a")
    opened.empty()
    assert path.read_bytes() == b""
    opened.append(b"b")
    opened.close()
    opened.close()
    assert path.read_bytes() == b"b\n"


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, said in ((tmp_path / "pipe", "a FIFO"), (tmp_path, "a folder")):
        with pytest.raises(UsageError, match=f"{path}: {said}, not a file") as refused:
            Lines(path)
        assert refused.value.hint == "remove it"
    with pytest.raises(OSError, match="No such file"):
        Lines(tmp_path / "gone" / "x")


def test_one_process_at_a_time_locks_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = Lines(tmp_path / "x"), Lines(tmp_path / "x")
    assert one.lock()
    assert one.lock()
    assert not other.lock()
    one.close()
    with closing(other):
        assert other.lock()
        locking_fails(other, monkeypatch)


def locking_fails(other: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else has it, or the file system cannot say."""

    for number in (errno.EACCES, errno.EWOULDBLOCK, errno.ENOLCK, errno.ENOSYS):

        def refuse(fd: object, how: int, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", refuse)
        if number in (errno.EACCES, errno.EWOULDBLOCK):
            assert other.lock() is False
            continue
        with pytest.raises(CannotRunError, match=f"x: .*{os.strerror(number)}") as refused:
            other.lock()
        assert "--out" in str(refused.value.hint)


@pytest.mark.parametrize("taken", [0, 1, 5])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_write_that_fails_after_so_many_bytes_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: int, number: int
) -> None:
    path = tmp_path / "x"
    opened = Lines(path)
    opened.append(b"first")
    write = os.write
    left = taken

    def one_byte(fd: int, data: memoryview) -> int:
        nonlocal left
        if not left:
            raise OSError(number, os.strerror(number))
        left -= 1
        return write(fd, data[:1])

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", one_byte)
        said = "the disk is full" if number == errno.ENOSPC else os.strerror(number)
        with pytest.raises(CannotRunError, match=f"x: {said}") as refused:
            opened.append(b"a longer line")
        assert refused.value.hint
    assert path.read_bytes() == b"first\n"
    left = 1 << 20
    with monkeypatch.context() as patched:  # a byte at a time, and each of them in its place
        patched.setattr(os, "write", one_byte)
        opened.append(b"second")
    os.lseek(opened._file.fileno(), 0, os.SEEK_SET)
    opened.append(b"third")
    assert path.read_bytes() == b"first\nsecond\nthird\n"

    def no_room(fd: int, length: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        left = 3
        patched.setattr(os, "write", one_byte)
        patched.setattr(os, "ftruncate", no_room)
        with pytest.raises(CannotRunError, match=f"x: {said}"):
            opened.append(b"fourth")
    assert path.read_bytes() == b"first\nsecond\nthird\nfou"
    opened.append(b"4")  # over what could not be cut off
    opened.close()
    assert path.read_bytes().startswith(b"first\nsecond\nthird\n4\n")


def test_closing_it_brings_it_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Lines(tmp_path / "x")
    fd = opened._file.fileno()
    asked: list[int] = []

    def fsync(number: int) -> None:
        asked.append(number)
        raise OSError(errno.EINVAL, "Invalid argument")  # as of a pipe

    monkeypatch.setattr(os, "fsync", fsync)
    opened.close()
    opened.close()
    assert asked == [fd]
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)
