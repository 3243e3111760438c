"""Take rights away from a process that parses untrusted files: sockets, programs, writing, other processes.

On Linux, a seccomp filter makes the kernel refuse system calls, for every thread and for good (seccomp(2)). It lists
what is refused, because the decoders' needs differ by version: reading files, memory, threads and signals stay.
"""

import ctypes
import os
import platform
import struct
import sys

_EPERM, _ENOSYS = 1, 38
_NO_NEW_PRIVILEGES, _SET_FILTER, _ALL_THREADS = 38, 1, 1

# Numbers of system calls: x86_64, aarch64; None where the architecture has no such call.
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    # sockets
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "accept": (43, 202), "accept4": (288, 242), "sendto": (44, 206), "sendmsg": (46, 211), "sendmmsg": (307, 269),
    # requests that the kernel carries out later, past this filter
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    # programs and other processes
    "execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424), "rt_sigqueueinfo": (129, 138),
    # names and attributes of files
    "creat": (85, None), "truncate": (76, 45), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276),
    "link": (86, None), "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36), "unlink": (87, None),
    "unlinkat": (263, 35), "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None), "mknod": (133, None),
    "mknodat": (259, 33), "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "setxattr": (188, 5),
    "open_by_handle_at": (304, 265),
    # the machine
    "mount": (165, 40), "umount2": (166, 39), "chroot": (161, 51), "pivot_root": (155, 41), "unshare": (272, 97),
    "setns": (308, 268), "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
}  # fmt: skip
# Their arguments are in memory, which a filter can't read; libc uses older calls instead.
_UNKNOWN: dict[str, tuple[int, int]] = {"clone3": (435, 435), "openat2": (437, 437)}
_OPEN: tuple[int | None, int | None] = (2, None)
_OPENAT, _CLONE, _KILL, _SECCOMP = (257, 56), (56, 220), (62, 129), (317, 277)
_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}  # AUDIT_ARCH_*, place in the tuples
_X32 = 0x40000000

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CLONE_THREAD = 0x10000

# Classic BPF (linux/bpf_common.h): load a word of `struct seccomp_data`, compare it, return a verdict.
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _IF_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_ALLOW, _KILL_PROCESS, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000


def enter_sandbox() -> bool:
    """Take the rights away; return False where the kernel or the architecture has no such filter."""
    machine = platform.machine()
    if sys.platform != "linux" or machine not in _ARCHITECTURES:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        return False
    program = _program(*_ARCHITECTURES[machine])
    instructions = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: the number of instructions, padding, their address
    described = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(instructions)))
    number = _SECCOMP[_ARCHITECTURES[machine][1]]
    return int(libc.syscall(number, _SET_FILTER, _ALL_THREADS, ctypes.byref(described))) == 0


def _program(architecture: int, place: int) -> bytes:
    """Return the filter as instructions of 8 bytes.

    Args:
        architecture: AUDIT_ARCH of the process; a call of another one (32 bits) ends it.
        place: Place of its numbers in the tables.
    """
    refuse, unknown, allow = (_step(_RETURN, value) for value in (_ERROR | _EPERM, _ERROR | _ENOSYS, _ALLOW))
    steps = [
        _step(_LOAD, _ARCHITECTURE), _step(_IF_EQUAL, architecture, 1, 0), _step(_RETURN, _KILL_PROCESS),
        _step(_LOAD, _NUMBER), _step(_IF_AT_LEAST, _X32, 0, 1), refuse,
    ]  # fmt: skip
    for numbers in _REFUSED.values():
        if (number := numbers[place]) is not None:
            steps += [_step(_IF_EQUAL, number, 0, 1), refuse]
    for numbers in _UNKNOWN.values():
        steps += [_step(_IF_EQUAL, numbers[place], 0, 1), unknown]
    # Of these, the argument decides: refused if it has one of the bits, or, for the last two, if it has not.
    for numbers, argument, code, value, if_so in (
        (_OPEN, 1, _IF_BITS, _WRITES, refuse),
        (_OPENAT, 2, _IF_BITS, _WRITES, refuse),
        (_CLONE, 0, _IF_BITS, _CLONE_THREAD, allow),
        (_KILL, 0, _IF_EQUAL, os.getpid(), allow),
    ):
        if (number := numbers[place]) is not None:
            otherwise = allow if if_so is refuse else refuse
            steps += [
                _step(_IF_EQUAL, number, 0, 4), _step(_LOAD, _FIRST_ARGUMENT + 8 * argument),
                _step(code, value, 0, 1), if_so, otherwise,
            ]  # fmt: skip
    return b"".join([*steps, allow])


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """Return one instruction (struct sock_filter); the last two numbers say how many to skip after a comparison."""
    return struct.pack("HBBI", code, if_true, if_false, value)
