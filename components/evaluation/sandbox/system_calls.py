"""The system calls that a jailed program may make, compiled to a seccomp program once, outside.

One decision: an allow-list. Everything else answers EPERM, as a library that probes for a feature expects. There is no
process creation (threads alone), no other program to become, no socket, no namespace, no look into another process.
The list is what CPython, NumPy, pandas and scikit-learn use; names that an architecture lacks are left out of it.
"""

from __future__ import annotations

import errno
import functools
import tempfile
from typing import Any

from components.core.errors import SandboxUnavailable

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

_CLONE_THREAD = 0x00010000
_TCGETS, _TIOCGWINSZ, _FIONBIO, _FIOCLEX, _FIONCLEX = 0x5401, 0x5413, 0x5421, 0x5451, 0x5450
_PR_SET_NAME = 15


@functools.cache
def seccomp_program() -> bytes:
    """The filter as BPF for this machine's architecture, 8 bytes an instruction.

    Raises:
        SandboxUnavailable: libseccomp, or its binding, is not there.
    """
    try:
        import pyseccomp
    except (ImportError, RuntimeError) as error:
        raise SandboxUnavailable(
            f"no system-call filter can be built: {error}",
            expected="libseccomp and pyseccomp, so that a program can make harmless system calls only",
            do="install the Debian package libseccomp2 (sudo apt-get install libseccomp2), then run the same command again",
        ) from None
    rules = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
    for name in _ALLOWED:
        _allow(pyseccomp, rules, name)
    _allow(pyseccomp, rules, "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, _CLONE_THREAD, _CLONE_THREAD))
    _allow(pyseccomp, rules, "prlimit64", pyseccomp.Arg(0, pyseccomp.EQ, 0), pyseccomp.Arg(2, pyseccomp.EQ, 0))
    _allow(pyseccomp, rules, "prctl", pyseccomp.Arg(0, pyseccomp.EQ, _PR_SET_NAME))
    for request in (_TCGETS, _TIOCGWINSZ, _FIONBIO, _FIOCLEX, _FIONCLEX):
        _allow(pyseccomp, rules, "ioctl", pyseccomp.Arg(1, pyseccomp.EQ, request))
    rules.add_rule(pyseccomp.ERRNO(errno.ENOSYS), "clone3")  # glibc then uses clone, whose flags a filter can read
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def _allow(pyseccomp: Any, rules: Any, name: str, *conditions: Any) -> None:
    if pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name) >= 0:
        rules.add_rule(pyseccomp.ALLOW, name, *conditions)
