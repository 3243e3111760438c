"""The model as a node has it: waited for where it is still on its way, refused where it is another one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from flashvid.errors import ModelLoadError
from flashvid.models import ModelSource, resolve_model
from pipeline.config import ModelConfig

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0

_log = logging.getLogger(__name__)


def model_on_this_node(
    model: ModelConfig, identity: str | None, *, sleep: Callable[[float], None] = time.sleep
) -> ModelSource:
    """Find the model that the run was fingerprinted with, for at most `model.wait_s` seconds.

    A node that has just joined may still be copying it: a directory that is not there, incomplete or of another content
    is looked at again. The content counts, since the same path may hold another checkpoint on another machine; a hub
    snapshot is known by its commit, a directory is read through once.

    Args:
        model: The job's, its revision pinned.
        identity: `ModelSource.identity` of the model that the driver found; None for those who need no weights: none
            are fetched, looked for or compared. A hub model is the driver's all the same, since its commit is pinned.
        sleep: Waits so many seconds.

    Raises:
        ModelLoadError: it did not come.
    """
    waited, pause = 0.0, _FIRST_PAUSE_S
    while True:
        try:
            source = resolve_model(model.name, model.revision, weights=identity is not None)
            if identity in (None, source.identity):
                return source
            problem = f"this node's is {source.identity}, the run was planned with {identity}"
        except ModelLoadError as error:
            problem = error.message
        if waited >= model.wait_s:
            raise ModelLoadError(f"not on this node after {waited:.0f} s: {problem}", model.name)
        if waited == 0:
            _log.warning("%s: waiting up to %.0f s for the model: %s", model.name, model.wait_s, problem)
        pause = min(pause, model.wait_s - waited)
        sleep(pause)
        waited, pause = waited + pause, min(2 * pause, _LONGEST_PAUSE_S)
