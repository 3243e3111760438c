"""The entry point of CI: it brings the programs that tests use, and goes by the tests alone where it can't."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What the scripts themselves call; everything else of this machine is out of sight.
_BASICS = ("bash", "dirname", "mktemp", "realpath", "rm", "timeout", "mkdir", "chmod")
_APT = """#!/usr/bin/env bash
echo "$*" >> "$LOG"
case "$*" in
    *" download "*) [ -n "$MIRROR" ] && : > prometheus_1_amd64.deb ;;
    *" install "*) [ "$MIRROR" = whole ] ;;
    *) [ -n "$MIRROR" ] ;;
esac
"""
_DPKG = """#!/usr/bin/env bash
mkdir -p "$3/usr/bin" && echo '#!/usr/bin/env bash' > "$3/usr/bin/promtool" && chmod +x "$3/usr/bin/promtool"
"""
_MAKE = """#!/usr/bin/env bash
echo "make $1 with $(command -v promtool || echo no promtool)" >> "$LOG"
[ "$1" != "$FAILS" ]
"""


def ci(folder: Path, *, mirror: str, fails: str = "", user: int = 0) -> tuple[int, list[str], str]:
    """Run it on a machine with nothing but the basics: its exit code, what it called, and what it said.

    Args:
        folder: For this.
        mirror: "" if there is none, "whole", or "bare" of a browser.
        fails: A target of make.
        user: Who runs it; there is no sudo.
    """
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    for name in _BASICS:
        (bin_folder / name).symlink_to(str(shutil.which(name)))
    stubs = {"apt-get": _APT, "dpkg": _DPKG, "make": _MAKE, "id": f"#!/usr/bin/env bash\necho {user}\n"}
    for name, script in stubs.items():
        (bin_folder / name).write_text(script)
        (bin_folder / name).chmod(0o755)
    log = folder / "log"
    environment = {"LOG": str(log), "MIRROR": mirror, "FAILS": fails, "TMPDIR": str(folder)}
    done = subprocess.run(
        [str(shutil.which("bash")), ROOT / ".ci" / "run"],
        env={"PATH": str(bin_folder), "HOME": os.environ.get("HOME", "/"), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, log.read_text().splitlines(), done.stderr


def test_it_brings_promtool_and_a_browser(tmp_path: Path) -> None:
    """Of Debian; promtool out of its package, since Prometheus would run if it were installed. Nothing of it stays."""
    code, calls, said = ci(tmp_path, mirror="whole")
    assert (code, said) == (0, "")
    assert [call for call in calls if "prometheus" in call and "make" not in call] == [
        call for call in calls if call.endswith(" download prometheus")
    ]
    assert calls[0].endswith(" update")
    (install,) = (call for call in calls if " install " in call)
    assert install.split()[-2:] == ["chromium", "chromium-driver"]
    checked, tested = calls[-2:]
    assert checked.startswith("make check with /")
    assert tested.startswith("make test with /")
    assert tested.endswith("/usr/bin/promtool")
    assert not Path(tested.split()[-1]).exists()


def test_without_a_mirror_it_says_so_and_goes_on(tmp_path: Path) -> None:
    """Those tests are skipped, then. It asks once: a mirror that hangs is waited for once."""
    code, calls, said = ci(tmp_path, mirror="")
    assert code == 0
    assert calls[0].endswith(" update")
    assert calls[1:] == ["make check with no promtool", "make test with no promtool"]
    assert "apt-get update failed, so without: promtool browser" in said
    assert "some tests will be skipped" in said


def test_without_the_rights_it_says_so_once(tmp_path: Path) -> None:
    """Why, what is missing, and what comes of it."""
    code, calls, said = ci(tmp_path, mirror="whole", user=1000)
    assert (code, calls) == (0, ["make check with no promtool", "make test with no promtool"])
    assert "sudo" in said.splitlines()[0]
    assert len(said.splitlines()) == 3


def test_what_a_mirror_lacks_is_named(tmp_path: Path) -> None:
    """And the rest is used."""
    code, calls, said = ci(tmp_path, mirror="bare")
    assert code == 0
    assert calls[-1].endswith("/usr/bin/promtool")
    assert "could not be had from Debian: browser" in said
    assert "promtool" not in said
    assert "some tests will be skipped" in said


@pytest.mark.parametrize("target", ["check", "test"])
def test_it_fails_with_the_checks_and_with_the_tests(tmp_path: Path, target: str) -> None:
    """Whatever else went well."""
    assert ci(tmp_path, mirror="whole", fails=target)[0] != 0
