"""Small disks of their own kind: tmpfs folders that only one command and its children see."""

from __future__ import annotations

import os
import shlex
import subprocess
from functools import cache
from pathlib import Path

import pytest

_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")


@cache
def _is_allowed() -> bool:
    done = subprocess.run([*_NAMESPACE, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False)
    return done.returncode == 0


needs_mounts = pytest.mark.skipif(not _is_allowed(), reason="the kernel does not let this user mount a tmpfs")


def on_small_disk(
    folder: Path, *command: str, size: str = "1m", read_only: bool = False, before: str = ":", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command that sees a tmpfs of some size at a folder; what it writes there is gone afterwards.

    Args:
        folder: Where the tmpfs is mounted; its content is copied in first.
        command: The command.
        size: Size of the tmpfs, as mount(8) takes it.
        read_only: Whether the tmpfs is read-only for the command.
        before: Shell code that runs just before the command, in the namespace.
        environment: Variables added to the command's environment.
    """
    here = shlex.quote(str(folder))
    script = (
        f"set -e; kept=$(mktemp -d); cp -a {here}/. $kept/; mount -t tmpfs -o size={size} none {here}; "
        f"cp -a $kept/. {here}/; {f'mount -o remount,ro {here}' if read_only else ':'}; {before}; "
        f"exec {shlex.join(command)}"
    )
    return subprocess.run(
        [*_NAMESPACE, "sh", "-c", script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
