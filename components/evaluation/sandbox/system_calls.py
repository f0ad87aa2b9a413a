"""The system calls that jailed processes may make, compiled to seccomp programs once, outside.

One decision: an allow-list, in two layers. The server of a jail loads the long list once, with the few calls that it needs
to fork and to clean up; every process that runs a program then loads a short list that takes exactly those away again.
Filters add up and the strictest answer counts, so a program has the allow-list alone; loading 36 instructions instead of
177 for every program saves 0.2 ms of its 4 (measured). What is not allowed answers EPERM, as a library that probes for a
feature expects. There is no process creation (threads alone), no other program to become, no socket, no namespace, no look
into another process. Where there are no namespaces, what changes files or signals processes by name or number is taken away,
too. The list is what CPython, NumPy, pandas and scikit-learn use; names that an architecture lacks are
left out of it.
"""

from __future__ import annotations

import base64
import errno
import functools
import tempfile
from typing import Any

from components.core.errors import SandboxUnavailableError

_ALLOWED = """
read readv pread64 preadv write writev pwrite64 pwritev lseek open openat close close_range creat truncate
ftruncate
stat lstat fstat newfstatat fstatat64 statx statfs fstatfs access faccessat faccessat2 readlink readlinkat getdents
getdents64
getcwd chdir fchdir mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 link linkat symlink symlinkat
chmod fchmod fchmodat umask utime utimes utimensat futimesat flock fsync fdatasync fallocate fadvise64
copy_file_range sendfile
dup dup2 dup3 fcntl pipe pipe2 eventfd2 select pselect6 poll ppoll epoll_create1 epoll_ctl epoll_wait epoll_pwait
mmap munmap mremap mprotect madvise msync mincore brk membarrier
futex get_robust_list set_robust_list set_tid_address rseq sched_yield sched_getaffinity sched_getparam
sched_getscheduler
sched_get_priority_max sched_get_priority_min getcpu
rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigsuspend rt_sigtimedwait sigaltstack tgkill
restart_syscall
alarm setitimer getitimer pause nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday time times
getrusage sysinfo uname
getpid getppid gettid getpgrp getpgid getsid getuid geteuid getgid getegid getresuid getresgid getgroups
getpriority getrlimit
getrandom exit exit_group
""".split()  # noqa: SIM905  a list to be read, one topic a line

_REQUESTS = ["recvmsg", "getsockname", "getsockopt"]
"""How a server, and a judge of its, is handed open files."""
_SERVER = """
fork vfork wait4 waitid kill pidfd_open pidfd_send_signal unshare setns mount umount2 setrlimit
capget capset setuid setgid setgroups setresuid setresgid seccomp
""".split()  # noqa: SIM905
"""What a server does beside; never what a program may do."""

_CLONE_THREAD = 0x00010000
_TCGETS, _TIOCGWINSZ, _FIONBIO, _FIOCLEX, _FIONCLEX = 0x5401, 0x5413, 0x5421, 0x5451, 0x5450
_PR_SET_NAME = 15
_WRITING = """
creat truncate ftruncate fallocate mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2
link linkat symlink symlinkat chmod fchmod fchmodat utime utimes utimensat futimesat
""".split()  # noqa: SIM905
"""What changes files, a user's own above all: refused where a program sees this machine's. (Writing needs an open file.)"""
_SIGNALLING = ["tgkill"]
"""Refused where a program sees this machine's processes: its first argument may be any of them."""
_F_SETOWN, _F_SETSIG, _F_SETOWN_EX, _F_SETLEASE, _F_NOTIFY = 8, 10, 15, 1024, 1026
"""Commands of fcntl by which a file sends a signal to whom one likes, or keeps others from theirs."""
_EVER = ("clone", "prlimit64", "prctl")
"""Calls that a program may make with some arguments, and a server with any."""


@functools.cache
def seccomp_programs(*, namespaces: bool = True) -> dict[str, str]:
    """The filters by who loads them (server, judge, program), as BPF for this architecture in base 64.

    Without `namespaces`, programs see files and processes of this machine, and may make fewer calls.

    Raises:
        SandboxUnavailable: libseccomp, or its binding, is not there.
    """
    try:
        import pyseccomp
    except (ImportError, RuntimeError) as error:
        raise SandboxUnavailableError(
            f"no system-call filter can be built: {error}",
            expected="libseccomp and pyseccomp, so that a program can make harmless system calls only",
            fix="install the Debian package libseccomp2 (sudo apt-get install libseccomp2), then run the same command again",
        ) from None
    return {
        "server": _server(pyseccomp),
        "judge": _taken_away(pyseccomp, _SERVER, set_limits=True),
        "program": _taken_away(
            pyseccomp, _SERVER + _REQUESTS, set_limits=False, namespaces=namespaces
        ),
    }


def _server(pyseccomp: Any) -> str:
    rules = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
    for name in (*_ALLOWED, *_REQUESTS, *_SERVER, *_EVER):
        _add(pyseccomp, rules, pyseccomp.ALLOW, name)
    for request in (_TCGETS, _TIOCGWINSZ, _FIONBIO, _FIOCLEX, _FIONCLEX):
        _add(pyseccomp, rules, pyseccomp.ALLOW, "ioctl", pyseccomp.Arg(1, pyseccomp.EQ, request))
    rules.add_rule(
        pyseccomp.ERRNO(errno.ENOSYS), "clone3"
    )  # glibc then uses clone, whose flags a filter can read
    return _compiled(rules)


def _taken_away(
    pyseccomp: Any, names: list[str], *, set_limits: bool, namespaces: bool = True
) -> str:
    """Refuses `names` and the arguments that only a server may give; what else there is, the server's filter decides."""
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    refuse = pyseccomp.ERRNO(errno.EPERM)
    for name in names if namespaces else (*names, *_WRITING, *_SIGNALLING):
        _add(pyseccomp, rules, refuse, name)
    for command in (
        () if namespaces else (_F_SETOWN, _F_SETSIG, _F_SETOWN_EX, _F_SETLEASE, _F_NOTIFY)
    ):
        _add(pyseccomp, rules, refuse, "fcntl", pyseccomp.Arg(1, pyseccomp.EQ, command))
    _add(pyseccomp, rules, refuse, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, _CLONE_THREAD, 0))
    _add(pyseccomp, rules, refuse, "prctl", pyseccomp.Arg(0, pyseccomp.NE, _PR_SET_NAME))
    _add(pyseccomp, rules, refuse, "prlimit64", pyseccomp.Arg(0, pyseccomp.NE, 0))
    if not set_limits:
        _add(pyseccomp, rules, refuse, "prlimit64", pyseccomp.Arg(2, pyseccomp.NE, 0))
    return _compiled(rules)


def _add(pyseccomp: Any, rules: Any, action: Any, name: str, *conditions: Any) -> None:
    if pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) >= 0:
        rules.add_rule(action, name, *conditions)


def _compiled(rules: Any) -> str:
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return base64.b64encode(file.read()).decode()
