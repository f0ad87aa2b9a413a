"""Refused system calls, called directly by their x86-64 numbers."""

from __future__ import annotations

import platform

import pytest
from fixtures.function_tests import RETURNS_ONE

from components.evaluation.sandbox import ExecutionMode, ResourceLimits, Sandbox

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the numbers of system calls are x86-64's"
)

REFUSED = {
    "fork": 57, "vfork": 58, "execve": 59, "execveat": 322, "clone3": 435, "kill": 62,
    "tkill": 200, "pidfd_open": 434, "pidfd_getfd": 438, "pidfd_send_signal": 424,
    "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "socket": 41,
    "connect": 42, "accept": 43, "sendto": 44, "sendmsg": 46, "recvmsg": 47, "bind": 49,
    "listen": 50, "socketpair": 53, "unshare": 272, "setns": 308, "mount": 165, "umount2": 166,
    "pivot_root": 155, "chroot": 161, "open_tree": 428, "move_mount": 429, "fsopen": 430,
    "mount_setattr": 442, "open_by_handle_at": 304, "mknod": 133, "setuid": 105, "setgid": 106,
    "setgroups": 116, "setresuid": 117, "setresgid": 119, "capset": 126, "chown": 92,
    "personality": 135, "iopl": 172, "modify_ldt": 154, "init_module": 175, "finit_module": 313,
    "kexec_load": 246, "reboot": 169, "sethostname": 170, "settimeofday": 164,
    "clock_settime": 227, "adjtimex": 159, "syslog": 103, "acct": 163, "quotactl": 179,
    "swapon": 167, "bpf": 321, "perf_event_open": 298, "userfaultfd": 323,
    "io_uring_setup": 425, "io_setup": 206, "add_key": 248, "keyctl": 250, "seccomp": 317,
    "landlock_create_ruleset": 444, "memfd_create": 319, "memfd_secret": 447, "shmget": 29,
    "semget": 64, "msgget": 68, "mq_open": 240, "inotify_init1": 294, "fanotify_init": 300,
    "sched_setaffinity": 203, "setpriority": 141, "setrlimit": 160, "setsid": 112,
    "setpgid": 109, "vhangup": 153, "ioprio_set": 251, "set_mempolicy": 238,
    "lookup_dcookie": 212, "setxattr": 188,
}  # fmt: skip

PROGRAM = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
outcomes = {}
for name, number in NUMBERS.items():
    result = libc.syscall(number, 0, 0, 0, 0, 0, 0)
    outcomes[name] = errno.errorcode.get(ctypes.get_errno()) if result == -1 else "worked"
print(list(outcomes.items()))
"""


def test_every_listed_call_is_refused_by_the_filter(every_sandbox: Sandbox) -> None:
    (printed,) = every_sandbox.last_printed_values(
        [f"NUMBERS = {REFUSED!r}\n{PROGRAM}"], ResourceLimits(1)
    )
    assert dict(printed.value) == dict.fromkeys(REFUSED, "EPERM") | {"clone3": "ENOSYS"}


ARGUMENTS = {
    "a process by clone": "libc.syscall(56, 17, 0, 0, 0, 0)",
    "a pid namespace by clone": "libc.syscall(56, 0x20000000 | 17, 0, 0, 0, 0)",
    "a user namespace by clone": "libc.syscall(56, 0x10000000 | 17, 0, 0, 0, 0)",
    "keep capabilities": "libc.prctl(8, 1, 0, 0, 0)",
    "be dumped": "libc.prctl(4, 1, 0, 0, 0)",
    "a filter of its own": "libc.prctl(22, 2, 0, 0, 0)",
    "a higher limit": "libc.syscall(302, 0, 7, ctypes.byref((ctypes.c_uint64 * 2)(4096, 4096)), 0)",
    "another process' limits": "libc.syscall(302, 1, 7, 0, ctypes.byref((ctypes.c_uint64 * 2)()))",
    "type into a terminal": "libc.ioctl(0, 0x5412, b'x')",
}


def test_arguments_that_only_servers_may_give_are_refused(every_sandbox: Sandbox) -> None:
    lines = "\n".join(
        f"result = {code}\noutcomes[{name!r}] = ctypes.get_errno() if result == -1 else 'worked'"
        for name, code in ARGUMENTS.items()
    )
    source = (
        "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\noutcomes = {}\n"
        f"{lines}\nprint(list(outcomes.items()))"
    )
    (printed,) = every_sandbox.last_printed_values([source], ResourceLimits(1))
    assert dict(printed.value) == dict.fromkeys(ARGUMENTS, 1)  # EPERM


@pytest.mark.parametrize("mode", ["split", "fast"])
def test_a_call_of_another_abi_ends_the_process(
    every_sandbox: Sandbox, mode: ExecutionMode
) -> None:
    # getpid by its x32 number
    completion = "    import ctypes\n    ctypes.CDLL(None).syscall(0x40000000 | 39)\n    return 1\n"
    test = RETURNS_ONE._replace(completion=completion)
    assert every_sandbox.run_tests([test], ResourceLimits(1), mode)[0].kind == "exited"
