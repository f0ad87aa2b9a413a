"""Refused system calls, called directly by their x86-64 numbers."""

from __future__ import annotations

import errno
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
    "connect": 42, "accept": 43, "sendmsg": 46, "setsockopt": 54, "recvmsg": 47, "bind": 49,
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


REFUSED_ARGUMENTS = {
    "a process by clone": "56, HIGH | 17",
    "a pid namespace by clone": "56, HIGH | 0x20000000 | 17",
    "a user namespace by clone": "56, HIGH | 0x10000000 | 17",
    "keep capabilities": "157, HIGH | 8, 1",
    "be dumped": "157, HIGH | 4, 1",
    "a filter of its own": "157, HIGH | 22, 2",
    "a higher limit": "302, 0, 7, address(limits)",
    "a higher limit at an address whose low half is 0": "302, 0, 7, 1 << 32",
    "another process' limits": "302, HIGH | 1, 7, 0, address(limits)",
    "type into a terminal": "16, 0, HIGH | 0x5412, address(limits)",
    "a socket of the network": "53, HIGH | 2, 1, 0, address(limits)",
    "a pair of datagram sockets": "53, 1, HIGH | 2, 0, address(limits)",
    "a pair of raw sockets": "53, 1, HIGH | 3, 0, address(limits)",
    "data out of band": "44, left.fileno(), address(limits), 1, HIGH | 1, 0, 0",
    "read out of band": "45, right.fileno(), address(limits), 1, HIGH | 1, 0, 0",
    "send to an address": "44, left.fileno(), address(limits), 1, HIGH, address(limits), 16",
    "send to an address whose low half is 0": "44, left.fileno(), address(limits), 1, 0, 1 << 32",
    "the user of a socket": "55, left.fileno(), 1, HIGH | 17, address(limits), address(size)",
    "an option of TCP": "55, left.fileno(), HIGH | 6, 3, address(limits), address(size)",
    "a file that signals": "72, reader, HIGH | 8, os.getpid()",
    "a file that sends SIGKILL": "72, reader, HIGH | 10, 9",
    "a file that signals a thread": "72, reader, HIGH | 15, address(limits)",
    "a lease": "72, reader, HIGH | 1024, 0",
    "notices of changes": "72, reader, HIGH | 1026, 1",
    "a block device": "133, b'/tmp/device', HIGH | 0o060666, 0",
    "a file by mknodat": "259, -100, b'/tmp/file', HIGH | 0o100666, 0",
    "signal another process": "62, HIGH | 2, 0",
    "signal a thread of another process": "234, HIGH | 2, 2, 0",
    "signal all processes": "62, HIGH | 0xFFFFFFFF, 0",
}
"""System calls with an argument that only servers may pass, or nobody. The kernel ignores `HIGH` in
an argument of 32 bits."""
ALLOWED_ARGUMENTS = {
    "flags of a file": "72, reader, HIGH | 1",
    "wait for data": "16, reader, HIGH | 0x5421, address(size)",
    "a pair of streams": "53, HIGH | 1, HIGH | 1, HIGH, address(limits)",
    "send": "44, left.fileno(), address(limits), 1, HIGH, 0, 0",
    "receive": "45, right.fileno(), address(limits), 1, HIGH | 0x40, 0, 0",
    "the type of a socket": "55, left.fileno(), HIGH | 1, HIGH | 3, address(limits), address(size)",
    "signal itself": "62, os.getpid(), 0",
    "signal its thread": "234, os.getpid(), os.getpid(), 0",
}
SYSTEM_CALLS = """
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.mmap.restype = ctypes.c_void_p
limits, size = (ctypes.c_uint64 * 2)(4096, 4096), ctypes.c_uint32(4)
def address(item): return ctypes.addressof(item)
# readable, writable; private, fixed, without a file
assert libc.mmap(ctypes.c_void_p(1 << 32), ctypes.c_size_t(4096), 3, 0x32, -1, 0) == 1 << 32
left, right = socket.socketpair()
reader, writer = os.pipe()
def call(*arguments):
    convert = lambda a: ctypes.c_char_p(a) if isinstance(a, bytes) else ctypes.c_uint64(a)
    ctypes.set_errno(0)
    libc.syscall(*map(convert, arguments))
    return ctypes.get_errno()
"""


@pytest.mark.parametrize("high", [0, 1 << 32, 0xFFFFFFFF << 32])
def test_filters_compare_what_the_kernel_reads_of_an_argument(
    every_sandbox: Sandbox, high: int
) -> None:
    arguments = REFUSED_ARGUMENTS | ALLOWED_ARGUMENTS
    calls = ", ".join(f"({name!r}, call({code}))" for name, code in arguments.items())
    source = f"HIGH = {high}\n{SYSTEM_CALLS}\nprint([{calls}])"
    (printed,) = every_sandbox.last_printed_values([source], ResourceLimits(1))
    expected = dict.fromkeys(REFUSED_ARGUMENTS, errno.EPERM) | dict.fromkeys(ALLOWED_ARGUMENTS, 0)
    assert dict(printed.value) == expected


@pytest.mark.parametrize("mode", ["split", "fast"])
def test_a_call_of_another_abi_ends_the_process(
    every_sandbox: Sandbox, mode: ExecutionMode
) -> None:
    # getpid by its x32 number
    completion = "    import ctypes\n    ctypes.CDLL(None).syscall(0x40000000 | 39)\n    return 1\n"
    test = RETURNS_ONE._replace(completion=completion)
    assert every_sandbox.run_tests([test], ResourceLimits(1), mode)[0].kind == "exited"
