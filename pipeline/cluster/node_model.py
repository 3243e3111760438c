"""Finds the run's model on a node: waits while it is being copied, and refuses a different model."""

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
    """Return the model that the run was fingerprinted with, waiting for it for at most `model.wait_s` seconds.

    A node that has just joined may still be copying the model, so a directory that is missing, incomplete or has other
    content is checked again. The content is compared because the same path may hold another checkpoint on another
    machine. A snapshot from the Hugging Face Hub is identified by its commit; a directory is read once in full.

    Args:
        model: The job's model settings, with the revision pinned.
        identity: `ModelSource.identity` of the driver's model. None if the caller needs no weights: then none are
            downloaded, looked for or compared. A model from the Hub equals the driver's, since its commit is pinned.
        sleep: Function that sleeps for a number of seconds.

    Raises:
        ModelLoadError: the model did not arrive in time; the message says what is wrong with the one on this node.
    """
    waited, pause = 0.0, _FIRST_PAUSE_S
    while True:
        try:
            source = resolve_model(model.name, model.revision, weights=identity is not None)
            if identity in (None, source.identity):
                return source
            problem = f"this node has {source.identity}, but the run was planned with {identity}"
        except ModelLoadError as error:
            problem = error.message
        if waited >= model.wait_s:
            raise ModelLoadError(
                f"not on this node after {waited:.0f} s: {problem}; copy the model to the node or raise model.wait_s",
                model.name,
            )
        if waited == 0:
            _log.warning("%s: waiting up to %.0f s for the model: %s", model.name, model.wait_s, problem)
        pause = min(pause, model.wait_s - waited)
        sleep(pause)
        waited, pause = waited + pause, min(2 * pause, _LONGEST_PAUSE_S)
