"""The system calls that jailed processes may make, compiled to seccomp programs outside the jail.

The allow-list has two layers. A server loads the long list once, with the calls that it needs to
fork and to clean up. Each program then loads a short list that takes these calls away. Filters add
up and the strictest result counts; loading 36 instead of 177 instructions for every program saves
0.2 ms of 4 (measured). Other calls return EPERM, as libraries that probe for a feature expect. A
program can start threads but no process, cannot execute another program, and has no socket, no
namespace and no access to other processes. Without namespaces, calls that change files or signal
processes are refused, too. The list covers CPython, NumPy, pandas and scikit-learn; names that an
architecture lacks are skipped.
"""

from __future__ import annotations

import base64
import errno
import functools
import tempfile
from typing import Any

from components.core.errors import SandboxUnavailableError

_ALLOWED = """
read readv pread64 preadv write writev pwrite64 pwritev lseek open openat close close_range
creat truncate ftruncate
stat lstat fstat newfstatat fstatat64 statx statfs fstatfs access faccessat faccessat2
readlink readlinkat getdents getdents64
getcwd chdir fchdir mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 link linkat
symlink symlinkat
chmod fchmod fchmodat umask utime utimes utimensat futimesat
flock fsync fdatasync fallocate fadvise64 copy_file_range sendfile
dup dup2 dup3 fcntl pipe pipe2 eventfd2
select pselect6 poll ppoll epoll_create1 epoll_ctl epoll_wait epoll_pwait
mmap munmap mremap mprotect madvise msync mincore brk membarrier
futex get_robust_list set_robust_list set_tid_address rseq
sched_yield sched_getaffinity sched_getparam sched_getscheduler
sched_get_priority_max sched_get_priority_min getcpu
rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigsuspend rt_sigtimedwait
sigaltstack tgkill restart_syscall
alarm setitimer getitimer pause nanosleep clock_nanosleep
clock_gettime clock_getres gettimeofday time times
getrusage sysinfo uname
getpid getppid gettid getpgrp getpgid getsid
getuid geteuid getgid getegid getresuid getresgid getgroups
getpriority getrlimit
getrandom exit exit_group
""".split()  # noqa: SIM905  readable as one topic a line

_REQUESTS = ["recvmsg", "getsockname", "getsockopt"]
"""Calls by which servers and test runners receive open files."""
_SERVER = """
fork vfork wait4 waitid kill pidfd_open pidfd_send_signal unshare setns mount umount2 setrlimit
capget capset setuid setgid setgroups setresuid setresgid seccomp
""".split()  # noqa: SIM905
"""More calls of servers, never allowed for programs."""

_CLONE_THREAD = 0x00010000
_TCGETS, _TIOCGWINSZ, _FIONBIO, _FIOCLEX, _FIONCLEX = 0x5401, 0x5413, 0x5421, 0x5451, 0x5450
_PR_SET_NAME = 15
_WRITING = """
creat truncate ftruncate fallocate mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2
link linkat symlink symlinkat chmod fchmod fchmodat utime utimes utimensat futimesat
""".split()  # noqa: SIM905
"""Calls that change files, refused without namespaces. (Writing requires an open file.)"""
_SIGNALLING = ["tgkill"]
"""Refused without namespaces: the first argument may be any process of the machine."""
_F_SETOWN, _F_SETSIG, _F_SETOWN_EX, _F_SETLEASE, _F_NOTIFY = 8, 10, 15, 1024, 1026
"""Commands of fcntl by which a file signals any process or locks out others, refused without
namespaces."""
_CONDITIONAL = ("clone", "prlimit64", "prctl")
"""Calls that programs may make with some arguments, and servers with any."""


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
    return {
        "server": _server_filter(pyseccomp),
        "test_runner": _restricting_filter(pyseccomp, _SERVER, set_limits=True),
        "program": _restricting_filter(
            pyseccomp, program_calls, set_limits=False, namespaces=namespaces
        ),
    }


def _server_filter(pyseccomp: Any) -> str:
    rules = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
    for name in (*_ALLOWED, *_REQUESTS, *_SERVER, *_CONDITIONAL):
        _add_rule(pyseccomp, rules, pyseccomp.ALLOW, name)
    for request in (_TCGETS, _TIOCGWINSZ, _FIONBIO, _FIOCLEX, _FIONCLEX):
        condition = pyseccomp.Arg(1, pyseccomp.EQ, request)
        _add_rule(pyseccomp, rules, pyseccomp.ALLOW, "ioctl", condition)
    # glibc then uses clone, whose flags a filter can read.
    rules.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")
    return _compile_bpf(rules)


def _restricting_filter(
    pyseccomp: Any, names: list[str], *, set_limits: bool, namespaces: bool = True
) -> str:
    """Refuse `names`, and arguments that only servers may pass; allow everything else."""
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    refuse = pyseccomp.ERRNO(errno.EPERM)
    for name in names if namespaces else (*names, *_WRITING, *_SIGNALLING):
        _add_rule(pyseccomp, rules, refuse, name)
    if not namespaces:
        for command in (_F_SETOWN, _F_SETSIG, _F_SETOWN_EX, _F_SETLEASE, _F_NOTIFY):
            _add_rule(pyseccomp, rules, refuse, "fcntl", pyseccomp.Arg(1, pyseccomp.EQ, command))
    is_no_thread = pyseccomp.Arg(0, pyseccomp.MASKED_EQ, _CLONE_THREAD, 0)
    _add_rule(pyseccomp, rules, refuse, "clone", is_no_thread)
    _add_rule(pyseccomp, rules, refuse, "prctl", pyseccomp.Arg(0, pyseccomp.NE, _PR_SET_NAME))
    _add_rule(pyseccomp, rules, refuse, "prlimit64", pyseccomp.Arg(0, pyseccomp.NE, 0))
    if not set_limits:
        _add_rule(pyseccomp, rules, refuse, "prlimit64", pyseccomp.Arg(2, pyseccomp.NE, 0))
    return _compile_bpf(rules)


def _add_rule(pyseccomp: Any, rules: Any, action: Any, name: str, *conditions: Any) -> None:
    if pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) >= 0:
        rules.add_rule(action, name, *conditions)


def _compile_bpf(rules: Any) -> str:
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return base64.b64encode(file.read()).decode()
