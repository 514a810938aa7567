"""Ways to memory that the kernel counts for no process, and to places that the whole host shares:
the programs, run by test_uncounted.py; their names are written into sandbox/ATTACKS.md."""

from __future__ import annotations

LOOPBACK = (
    "server = socket.socket()\n"
    "server.bind(('127.0.0.1', 0))\n"
    "server.listen(64)\n"
    "def connection():\n"
    "    a = socket.socket()\n"
    "    a.connect(server.getsockname())\n"
    "    return a, server.accept()[0]\n"
)
IN_60_PROCESSES = (
    "for _ in range(60):\n    if os.fork() == 0:\n        work()\n        os._exit(0)\n"
)

# name: (the program, what it prints where it is refused at once)
REFUSED = {
    "shared memory without a file": (
        "import mmap\n"
        "try:\n    mmap.mmap(-1, 1 << 20)\nexcept OSError as e:\n    print(e.errno == 12)"
    ),
    "shared memory of /dev/zero": (
        "import mmap\n"
        "f = open('/dev/zero', 'r+b')\n"
        "try:\n    mmap.mmap(f.fileno(), 1 << 20)\nexcept OSError as e:\n    print(e.errno == 19)"
    ),
    "shared memory of a file in memory": (
        "try:\n    os.memfd_create('x')\nexcept OSError as e:\n    print(e.errno == 38)"
    ),
    "attributes of files": (
        "open('/tmp/x', 'w')\n"
        "try:\n    os.setxattr('/tmp/x', 'user.x', b'x' * 60000)\n"
        "except OSError as e:\n    print(e.errno == 95)"
    ),
    "huge pages in a pipe": (
        "r, w = os.pipe()\n"
        "b = ctypes.create_string_buffer(4096)\n"
        "v = (ctypes.c_ulong * 2)(ctypes.addressof(b), 4096)\n"
        "nr = 278 if os.uname().machine == 'x86_64' else 75\n"
        "print(syscall(nr, w, v, 1, 0) == -1)"
    ),
    "huge pages sent without a copy": (
        "try:\n    socket.socket().setsockopt(1, 60, 1)\n"  # SOL_SOCKET, SO_ZEROCOPY
        "except OSError as e:\n    print(e.errno == 95)"
    ),
    "pages of a deleted file in a socket": (
        "a, b = socket.socketpair()\n"
        "f = open('/usr/bin/env', 'rb')\n"
        "try:\n    os.sendfile(a.fileno(), f.fileno(), 0, 1)\n"
        "except OSError as e:\n    print(e.errno == 38)"
    ),
    "pages of a deleted file in a pipe": (
        "r, w = os.pipe()\n"
        "f = open('/usr/bin/env', 'rb')\n"
        "nr = 275 if os.uname().machine == 'x86_64' else 76\n"
        "print(syscall(nr, f.fileno(), None, w, None, 1, 0) == -1)"
    ),
    "places for asynchronous requests": (
        "c = ctypes.c_ulong(0)\n"
        "nr = 206 if os.uname().machine == 'x86_64' else 0\n"
        "print(syscall(nr, 65000, ctypes.byref(c)) == -1)"
    ),
    "real-time priority": (
        "try:\n    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))\n"
        "except OSError as e:\n    print(e.errno == 1)"
    ),
}
# name: (the program, whether it meets the limit)
COUNTED = {
    "30 TCP connections": (
        LOOPBACK + "held = [connection() for _ in range(30)]\ntime.sleep(30)",
        True,
    ),
    "3 TCP connections": (
        LOOPBACK + "held = [connection() for _ in range(3)]\ntime.sleep(1)",
        False,
    ),
    "locks on parts of a file": (
        "f = open('/tmp/l', 'w')\n"
        "for i in range(20000, 0, -1):\n"
        "    fcntl.fcntl(f, fcntl.F_SETLK, struct.pack('hhqqi4x', 1, 0, 2 * i, 1, 0))\n"
        "time.sleep(30)",
        True,
    ),
    "page tables": (
        "import mmap\n"
        "def work():\n"
        "    m = mmap.mmap(-1, 1900 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ)\n"
        "    for i in range(0, 1900 << 20, 2 << 20):\n"
        "        m[i]\n"
        "    time.sleep(30)\n" + IN_60_PROCESSES + "time.sleep(30)",
        True,
    ),
    "memory of a process whose first thread has ended": (
        "import threading\n"
        "def work():\n"
        "    held = []\n"
        "    for i in range(6):\n"
        "        held.append(b'x' * (150 << 20))\n"
        "        time.sleep(0.2)\n"
        "    time.sleep(30)\n"
        "threading.Thread(target=work).start()\n"
        "syscall(60 if os.uname().machine == 'x86_64' else 93, 0)",
        True,
    ),
    "memory in many pieces": (
        "libc = ctypes.CDLL(None)\n"
        "libc.mmap.restype = ctypes.c_void_p\n"
        "def work():\n"
        "    at = libc.mmap(None, ctypes.c_size_t(64 << 20), 0, 0x22, -1, 0)\n"
        "    for i in range(0, 2000, 2):\n"
        "        libc.mprotect(ctypes.c_void_p(at + i * 4096), ctypes.c_size_t(4096), 1)\n"
        "    time.sleep(30)\n" + IN_60_PROCESSES + "time.sleep(30)",
        True,
    ),
}
