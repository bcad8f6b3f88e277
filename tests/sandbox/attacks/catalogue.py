"""Attacks from inside a cell. Knows which layers should stop each; runs none.

A cell prints `SUCCEEDED` where its attack worked. `{name}` in a cell is a bait, see `run.py`.
"""

from dataclasses import dataclass

__all__ = ["ATTACKS", "Attack"]

NAMESPACES = ("mount namespace", "pid namespace", "network namespace")


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack.

    `code`: the cell. `stopped_by`: layers of which each is enough, where it is active;
    "always" where no layer is needed.
    """

    name: str
    code: str
    stopped_by: tuple[str, ...]


def _attempt(body: str) -> str:
    """The body is the attack; getting to its end is success, `OSError` is failure."""
    lines = "\n".join("    " + line for line in body.strip().splitlines())
    return f"import os, socket, ctypes\ntry:\n{lines}\n    print('SUCCEEDED')\nexcept OSError: pass"


def _connect(family: str, kind: str, address: str) -> str:
    return _attempt(
        f"s = socket.socket(socket.{family}, socket.{kind}); s.settimeout(1)\n"
        f"s.connect({address}); s.send(b'x')"
    )


def _raw(number: str, *arguments: str) -> str:
    """A raw system call; any answer but an error is success."""
    return f"""
import ctypes, platform
libc = ctypes.CDLL(None, use_errno=True)
intel, arm = {number}
call = intel if platform.machine() == "x86_64" else arm
if libc.syscall(call, {", ".join(arguments)}) >= 0: print("SUCCEEDED")
"""


ATTACKS = (
    Attack(
        "open a TCP connection",
        _connect("AF_INET", "SOCK_STREAM", "('127.0.0.1', {tcp})"),
        ("network namespace", "landlock", "seccomp"),
    ),
    Attack(
        "send a UDP datagram",
        _connect("AF_INET", "SOCK_DGRAM", "('127.0.0.1', {udp})"),
        ("network namespace", "seccomp"),
    ),
    Attack(
        "reach a Unix socket by path",
        _connect("AF_UNIX", "SOCK_STREAM", "{unix!r}"),
        ("mount namespace", "seccomp"),
    ),
    Attack(
        "reach an abstract Unix socket",
        _connect("AF_UNIX", "SOCK_STREAM", "'\\0' + {abstract!r}"),
        ("network namespace", "landlock", "seccomp"),
    ),
    Attack(
        "read /etc/passwd", _attempt("open('/etc/passwd').read()"), ("mount namespace", "landlock")
    ),
    Attack(
        "read a public file elsewhere",
        _attempt("open({public!r}).read()"),
        ("mount namespace", "landlock"),
    ),
    Attack(
        "read the host user's private file",
        _attempt("open({private!r}).read()"),
        ("mount namespace", "landlock", "user id"),
    ),
    Attack(
        "read a key in its own environment",
        "import os\nif {key!r} in os.environ.values(): print('SUCCEEDED')",
        ("always",),
    ),
    Attack(
        "read the host's environment",
        _attempt("assert open('/proc/{host}/environ').read()"),
        ("mount namespace", "landlock", "user id"),
    ),
    Attack(
        "read the host's memory",
        _attempt("open('/proc/{host}/mem', 'rb').seek(4096)"),
        ("mount namespace", "landlock", "user id"),
    ),
    Attack(
        "write the zygote's memory",
        _attempt("open(f'/proc/{{os.getppid()}}/mem', 'r+b')"),
        ("mount namespace", "landlock", "user id", "seccomp"),
    ),
    Attack(
        "leave through /proc/PID/root",
        _attempt("os.listdir('/proc/{host}/root')"),
        ("mount namespace", "landlock"),
    ),
    Attack(
        "write outside its folder",
        _attempt("open({folder!r} + '/written', 'w').write('x')"),
        ("mount namespace", "landlock", "seccomp"),
    ),
    Attack(
        "signal the host", _attempt("os.kill({host}, 0)"), ("pid namespace", "landlock", "seccomp")
    ),
    Attack("signal the zygote", _attempt("os.kill(os.getppid(), 0)"), ("landlock", "seccomp")),
    Attack("signal another kernel", _attempt("os.kill({sibling}, 0)"), ("landlock", "seccomp")),
    Attack(
        "signal a thread of another kernel",
        _raw("(234, 131)", "{sibling}", "{sibling}", "0"),
        ("landlock", "seccomp"),
    ),
    Attack(
        "signal another kernel by F_SETOWN",
        _attempt("import fcntl\nr, w = os.pipe()\nfcntl.fcntl(r, 8, {sibling})"),
        ("seccomp",),
    ),
    Attack(
        "trace the zygote",
        _raw("(101, 117)", "0x4206", "__import__('os').getppid()", "0", "0"),
        ("landlock", "seccomp", "user id"),
    ),
    Attack(
        "read another kernel's memory",
        """
import ctypes
libc = ctypes.CDLL(None)
target = ctypes.create_string_buffer(8)
class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]
here = Vector(ctypes.addressof(target), 8)
# A fork of the same parent has the same addresses.
if libc.process_vm_readv({sibling}, ctypes.byref(here), 1, ctypes.byref(here), 1, 0) == 8:
    print("SUCCEEDED")
""",
        ("landlock", "seccomp", "user id"),
    ),
    Attack(
        "run a program",
        _attempt("import subprocess\nsubprocess.run(['/bin/echo'], check=True)"),
        ("mount namespace", "seccomp"),
    ),
    Attack(
        "fork",
        _attempt("child = os.fork()\nif child == 0: os._exit(0)\nos.waitpid(child, 0)"),
        ("seccomp",),
    ),
    Attack(
        "fork by raw system calls, as the runner does",
        """
import ctypes, os, platform
libc = ctypes.CDLL(None)
number = 56 if platform.machine() == "x86_64" else 220
child = libc.syscall(number, 0x8000 | 17, 0, 0, 0, 0)
if child == 0: os._exit(0)
if child > 0: print("SUCCEEDED")
""",
        ("fork guard",),
    ),
    Attack(
        "start 1,000 threads",
        """
import threading
threading.stack_size(64 * 1024)
stop = threading.Event()
made = 0
try:
    for made in range(1, 1001): threading.Thread(target=stop.wait, daemon=True).start()
except RuntimeError: pass
stop.set()
if made == 1000: print("SUCCEEDED")
""",
        ("user id",),
    ),
    Attack(
        "take 1 GiB of memory",
        "try:\n    b = bytearray(1 << 30); print('SUCCEEDED')\nexcept MemoryError: pass",
        ("limits",),
    ),
    Attack(
        "take 2 GiB of shared memory",
        "import mmap\ntry:\n    mmap.mmap(-1, 1 << 31); print('SUCCEEDED')\n"
        "except (OSError, MemoryError): pass",
        ("limits",),
    ),
    Attack(
        "write 96 MiB of files",
        """
import os
written, made = 0, []
for folder in (".", "/tmp", "/dev/shm", "/var/tmp", {folder!r}):
    try:
        for i in range(12):
            path = f"{{folder}}/aimo2-attack-{{i}}"
            with open(path, "wb") as file:
                made.append(path)
                file.write(bytes(8 << 20)); written += 8 << 20
    except OSError: pass
for path in made:
    try: os.unlink(path)
    except OSError: pass
if written >= 96 << 20: print("SUCCEEDED")
""",
        ("mount namespace", "landlock", "seccomp"),
    ),
    Attack("open 2,000 descriptors", _attempt("f = [os.dup(1) for _ in range(2000)]"), ("limits",)),
    Attack(
        "raise its own limits",
        "import resource as r\ntry:\n    r.setrlimit(r.RLIMIT_NOFILE, (5000, 5000))\n"
        "    print('SUCCEEDED')\nexcept (OSError, ValueError): pass",
        ("limits",),
    ),
    Attack("become root", _attempt("os.setuid(0); os.listdir('/root')"), ("landlock", "seccomp")),
    Attack(
        "make a namespace",
        _raw("(272, 97)", "0x10000000"),
        ("seccomp",),
    ),
    Attack("open a key ring", _raw("(250, 219)", "0", "-3", "1"), ("seccomp",)),
    Attack("set up io_uring", _raw("(425, 425)", "8", "b'\\0' * 120"), ("seccomp",)),
    Attack(
        "load a BPF program",
        _raw("(321, 280)", "0", "b'\\2\\0\\0\\0\\4\\0\\0\\0\\4\\0\\0\\0\\1' + bytes(99)", "48"),
        ("seccomp",),
    ),
    Attack("make a memory file", _raw("(319, 279)", "b'x'", "0"), ("seccomp",)),
    Attack("make SysV shared memory", _raw("(29, 194)", "0", "4096", "0o1600"), ("seccomp",)),
    Attack(
        "mount",
        """
import ctypes
if ctypes.CDLL(None).mount(b"x", b"/mnt", b"tmpfs", 0, 0) == 0: print("SUCCEEDED")
""",
        ("seccomp", "capabilities", "user id"),
    ),
)
