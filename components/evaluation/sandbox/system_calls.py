"""The system calls that jailed processes may make, compiled to seccomp programs outside the jail.

The allow-list has two layers. A server loads the long list once, with the calls that it needs to
fork and to clean up. Each program then loads a short list that takes these calls away. Filters add
up and the strictest result counts; loading 36 instead of 177 instructions for every program saved
0.2 ms of 4 (measured). Other calls return EPERM, as libraries that probe for a feature expect. A
program can start threads but no process, cannot execute another program, and has no namespace and
no access to other processes. Its only sockets are connected pairs. Without namespaces, calls that
change files are refused, too. The list covers CPython, NumPy, pandas and scikit-learn; names that
an architecture lacks are skipped.

A filter sees 64 bits of an argument, and the kernel reads 32 of most of them. Rules that allow a
value compare what the kernel reads (`_Rules.equal`). Rules that refuse all other values compare 64
bits, so they refuse more.
"""

from __future__ import annotations

import base64
import errno
import functools
import tempfile
from typing import Any

from components.core.errors import SandboxUnavailableError
from components.evaluation.sandbox.jailed.lockdown import PID_PLACEHOLDER

_ALLOWED = """
read readv pread64 preadv preadv2 write writev pwrite64 pwritev pwritev2 lseek
open openat close close_range
creat truncate ftruncate
stat lstat fstat newfstatat fstatat64 statx statfs fstatfs access faccessat faccessat2
readlink readlinkat getdents getdents64
getcwd chdir fchdir mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 link linkat
symlink symlinkat
chmod fchmod fchmodat umask utime utimes utimensat futimesat
flock fsync fdatasync fallocate fadvise64 copy_file_range sendfile
dup dup2 dup3 pipe pipe2 eventfd2 shutdown getsockname getpeername
select pselect6 poll ppoll epoll_create1 epoll_ctl epoll_wait epoll_pwait
mmap munmap mremap mprotect madvise msync mincore brk membarrier
futex get_robust_list set_robust_list set_tid_address rseq
sched_yield sched_getaffinity sched_getparam sched_getscheduler
sched_get_priority_max sched_get_priority_min getcpu
rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigsuspend rt_sigtimedwait
sigaltstack kill tgkill restart_syscall
alarm setitimer getitimer pause nanosleep clock_nanosleep
clock_gettime clock_getres gettimeofday time times
getrusage sysinfo uname
getpid getppid gettid getpgrp getpgid getsid
getuid geteuid getgid getegid getresuid getresgid getgroups
getpriority getrlimit
getrandom exit exit_group
""".split()  # noqa: SIM905  readable as one topic a line

_REQUESTS = ["recvmsg"]
"""The call by which servers and test runners receive open files."""
_SERVER = """
fork vfork wait4 waitid pidfd_open pidfd_send_signal unshare setns mount umount2 setrlimit
capget capset setuid setgid setgroups setresuid setresgid seccomp
""".split()  # noqa: SIM905
"""More calls of servers, never allowed for programs."""
_SIGNALLING = ["kill", "tgkill"]
"""Calls by which a program may signal itself, and servers any process."""
_CONDITIONAL = ["clone", "prlimit64", "prctl"]
"""Calls that programs may make with some arguments, and servers with any."""
_WRITING = """
creat truncate ftruncate fallocate mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2
link linkat symlink symlinkat mknod mknodat
chmod fchmod fchmodat utime utimes utimensat futimesat
""".split()  # noqa: SIM905
"""Calls that change files, refused without namespaces. (Writing requires an open file.)"""
_ATTRIBUTES = "listxattr llistxattr flistxattr getxattr lgetxattr fgetxattr".split()  # noqa: SIM905
"""Calls that read extended attributes: they report that the file system has none."""

_CLONE_THREAD = 0x00010000
_PR_SET_NAME = 15
_AF_UNIX, _SOCK_STREAM, _SOCK_TYPE_MASK = 1, 1, 0xF
_SOL_SOCKET, _MSG_OOB = 1, 1
_S_IFMT, _S_IFIFO = 0o170000, 0o010000
_NO_POINTER = 0

_IOCTL_REQUESTS = (0x5401, 0x5413, 0x5421, 0x5451, 0x5450)
"""TCGETS, TIOCGWINSZ, FIONBIO, FIOCLEX, FIONCLEX."""
_FCNTL_COMMANDS = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032)
"""F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_GETLK, F_SETLK, F_SETLKW, the same three for open
file descriptions, F_DUPFD_CLOEXEC, F_GETPIPE_SZ. No command by which a file signals a process."""
_SOCKET_OPTIONS = (3, 4, 7, 8, 30, 38, 39)
"""SO_TYPE, SO_ERROR, SO_SNDBUF, SO_RCVBUF, SO_ACCEPTCONN, SO_PROTOCOL, SO_DOMAIN; read only."""


@functools.cache
def compile_seccomp_filters(*, namespaces: bool = True) -> dict[str, str]:
    """Compile the filters by role, as BPF for this architecture in base 64.

    Without `namespaces`, programs see files and processes of the machine, and may make fewer calls.

    Raises:
        SandboxUnavailableError: libseccomp or its binding is missing.
    """
    try:
        import pyseccomp
    except (ImportError, RuntimeError) as error:
        raise SandboxUnavailableError(
            f"no system-call filter can be built: {error}",
            expected="libseccomp and pyseccomp, so that programs make harmless system calls only",
            fix="install the Debian package libseccomp2 (sudo apt-get install libseccomp2), then "
            "run the same command again",
        ) from None
    program_calls = _SERVER + _REQUESTS
    if not namespaces:
        program_calls += _WRITING
    return {
        "server": _server_rules(pyseccomp).compiled(),
        "test_runner": _restricting_rules(pyseccomp, _SERVER, set_limits=True).compiled(),
        "program": _restricting_rules(pyseccomp, program_calls, set_limits=False).compiled(),
    }


def _server_rules(pyseccomp: Any) -> _Rules:
    """Allow the calls of servers and of programs; refuse everything else."""
    rules = _Rules(pyseccomp, default=pyseccomp.ERRNO(errno.EPERM))
    allow = pyseccomp.ALLOW
    for name in (*_ALLOWED, *_REQUESTS, *_SERVER, *_CONDITIONAL):
        rules.add(allow, name)
    for request in _IOCTL_REQUESTS:
        rules.add(allow, "ioctl", rules.equal(1, request))
    for command in _FCNTL_COMMANDS:
        rules.add(allow, "fcntl", rules.equal(1, command))
    rules.add(allow, "mknod", rules.equal(1, _S_IFIFO, mask=_S_IFMT))
    rules.add(allow, "mknodat", rules.equal(2, _S_IFIFO, mask=_S_IFMT))
    is_stream = rules.equal(1, _SOCK_STREAM, mask=_SOCK_TYPE_MASK)
    rules.add(allow, "socketpair", rules.equal(0, _AF_UNIX), is_stream)
    # The parts of Unix sockets that programs do not need had severe faults: open files and data
    # out of band in messages.
    is_in_band = rules.equal(3, 0, mask=_MSG_OOB)
    has_no_address = pyseccomp.Arg(4, pyseccomp.EQ, _NO_POINTER)
    rules.add(allow, "sendto", is_in_band, has_no_address)
    rules.add(allow, "recvfrom", is_in_band)
    for option in _SOCKET_OPTIONS:
        rules.add(allow, "getsockopt", rules.equal(1, _SOL_SOCKET), rules.equal(2, option))
    for name in _ATTRIBUTES:
        rules.add(pyseccomp.ERRNO(errno.ENOTSUP), name)
    # glibc then uses clone, whose flags a filter can read.
    rules.add(pyseccomp.ERRNO(errno.ENOSYS), "clone3")
    return rules


def _restricting_rules(pyseccomp: Any, names: list[str], *, set_limits: bool) -> _Rules:
    """Refuse `names`, and arguments that only servers may pass; allow everything else."""
    rules = _Rules(pyseccomp, default=pyseccomp.ALLOW)
    refuse = pyseccomp.ERRNO(errno.EPERM)
    for name in names:
        rules.add(refuse, name)
    for name in _SIGNALLING:
        rules.add(refuse, name, pyseccomp.Arg(0, pyseccomp.NE, PID_PLACEHOLDER))
    rules.add(refuse, "clone", rules.equal(0, 0, mask=_CLONE_THREAD))
    rules.add(refuse, "prctl", pyseccomp.Arg(0, pyseccomp.NE, _PR_SET_NAME))
    rules.add(refuse, "prlimit64", pyseccomp.Arg(0, pyseccomp.NE, 0))
    if not set_limits:
        rules.add(refuse, "prlimit64", pyseccomp.Arg(2, pyseccomp.NE, _NO_POINTER))
    return rules


class _Rules:
    """Rules of a filter; calls that this architecture lacks are skipped."""

    def __init__(self, pyseccomp: Any, default: Any) -> None:
        self._pyseccomp = pyseccomp
        self._filter = pyseccomp.SyscallFilter(default)

    def equal(self, index: int, value: int, *, mask: int = 0xFFFFFFFF) -> Any:
        """Return the condition that the argument at `index` has `value` in the bits of `mask`.

        Without `mask`, these are the 32 bits that the kernel reads of an `int`.
        """
        return self._pyseccomp.Arg(index, self._pyseccomp.MASKED_EQ, mask, value)

    def add(self, action: Any, name: str, *conditions: Any) -> None:
        """Add `action` for the calls of `name` that meet all conditions."""
        if self._pyseccomp.resolve_syscall(self._pyseccomp.Arch.NATIVE, name) >= 0:
            self._filter.add_rule(action, name, *conditions)

    def compiled(self) -> str:
        """Return the filter as BPF in base 64."""
        with tempfile.TemporaryFile() as file:
            self._filter.export_bpf(file)
            file.seek(0)
            return base64.b64encode(file.read()).decode()
