#!/usr/bin/env bash
# Ray Data: an exception raised in a map_batches actor can't be caught by its class on the driver.
#
# Guess:    Ray re-raises an application error as an instance of its own class: `except MyError` works around `ray.get` of a task, so it
#           works around the iteration of a dataset. At least `error.cause` or `__cause__` holds the original exception.
# Surprise: For a task it does. Ray Data wraps the exception in `UserCodeException` before it is pickled, with `raise ... from`, and
#           pickle drops `__cause__`: on the driver the class, the attributes and `args` of the original are gone. Only its text is
#           left, inside a traceback. With `DataContext.raise_original_map_exception = True` the error arrives with its own class.
# Matters:  A pipeline that decides by the class of an error (retry, skip, stop) silently takes the branch for unknown errors.
# Do:       Set `raise_original_map_exception` in the DataContext, or return errors as values instead of raising them.
set -euo pipefail

work=$(mktemp -d -p /tmp) # short, because the paths of Ray's sockets are limited in length
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check 'ray[data]==2.60.0' pyarrow==26.0.1 pandas==3.1.1 numpy==2.4.6

cd "$work"
if ! "$work/venv/bin/python" - 2> "$work/stderr" <<'PYTHON'
import logging
import os
import sys
from importlib.metadata import version

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray

print(*(f"{name} {version(name)}" for name in ("ray", "pyarrow")), sep=", ")


class DiskFull(Exception):
    pass


class Stage:
    def __call__(self, batch):
        raise DiskFull("no space", 28)


def fails():
    raise DiskFull("no space", 28)


def chain(error):
    """The exception and its causes, as far as they are reachable."""
    while error is not None:
        yield error
        error = getattr(error, "cause", None) or error.__cause__


def caught(run):
    try:
        run()
    except DiskFull as error:
        return f"DiskFull{error.args}" if type(error) is DiskFull else "DiskFull, by " + type(error).__name__
    except Exception as error:
        inside = any(isinstance(one, DiskFull) for one in chain(error))
        return f"{type(error).__name__}; DiskFull reachable: {inside}"


logging.getLogger("ray.data").setLevel(logging.CRITICAL)
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
         _temp_dir=f"{os.getcwd()}/r")  # fmt: skip
context = ray.data.DataContext.get_current()
context.enable_progress_bars = False


def run_dataset():
    ray.data.range(2).map_batches(Stage, concurrency=1, num_cpus=0.5).take_all()


task = caught(lambda: ray.get(ray.remote(fails).remote()))
wrapped = caught(run_dataset)
context.raise_original_map_exception = True
original = caught(run_dataset)
ray.shutdown()
print("task:", task)
print("map_batches:", wrapped)
print("map_batches, raise_original_map_exception:", original)

problems = []
if not task.startswith("DiskFull"):
    problems.append("CHANGED: the error of a task is no longer caught by its class")
if wrapped != "RayTaskError(UserCodeException); DiskFull reachable: False":
    problems.append("CHANGED: the error of map_batches")
if not original.startswith("DiskFull"):
    problems.append("CHANGED: raise_original_map_exception does not keep the class")
print(*problems or ["as described"], sep="\n")
sys.exit(bool(problems))
PYTHON
then
    cat "$work/stderr" >&2 # without a line CHANGED above, this says why the script failed
    exit 1
fi
