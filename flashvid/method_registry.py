"""The table of compression methods: name, source, code and default settings of each.

This module does not import torch: the code of a method is imported when it first compresses. To add a method, write a
function in `flashvid/compression/rivals/` and a line in `METHODS`, or declare an entry point of the group
``flashvid.methods`` in another package (docs/methods.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flashvid.plugins import PluginTable, load_object

if TYPE_CHECKING:
    # A method's function takes `ClipFeatures` and a `CompressionConfig`, and returns a `CompressionResult`.
    Compress = Callable[..., Any]


@dataclass(frozen=True)
class CompressionMethod:
    """A compression method, which sees the video but no question, so that its result is cached for all questions.

    Attributes:
        name: Value of `compression.method` in a job.
        version: Part of the fingerprint, if positive: raise it when the method returns other tokens. Methods of other
            packages start at 1, those that ship with this package at 0.
        source: Where the method is published, and which part of the publication it implements.
        function: A function from `ClipFeatures` and `CompressionConfig` to `CompressionResult`, or its location as
            ``module:function``. Features are checked before the call; the function must not change them, and is called
            without gradients.
        defaults: Values of `CompressionConfig` that apply if a job does not set them.
        inner_pruning: For a method that prunes inside the LLM and keeps every token before it: values of
            `InnerPruningConfig` that apply if a job does not set them.
    """

    name: str
    version: int
    source: str
    function: Compress | str
    defaults: Mapping[str, object] = field(default_factory=dict)
    inner_pruning: Mapping[str, object] | None = None

    @property
    def question_dependent(self) -> bool:
        """Whether the method prunes in the decoder, where the question decides, so that its result is not cached."""
        return self.inner_pruning is not None

    @property
    def compress(self) -> Compress:
        """The function of the method, imported on first use."""
        return load_object(self.function) if isinstance(self.function, str) else self.function


def _rival(name: str, source: str, *, version: int = 0, **settings: Mapping[str, object]) -> CompressionMethod:
    return CompressionMethod(name, version, source, f"flashvid.compression.rivals.{name}:compress", **settings)


def _flashvid(name: str, part: str, **defaults: object) -> CompressionMethod:
    source = f"FlashVID, arXiv 2602.08024{part}"
    return CompressionMethod(name, 0, source, f"flashvid.compression.flashvid:compress_{name}", defaults)


METHODS: PluginTable[CompressionMethod] = PluginTable(
    "flashvid.methods",
    {
        method.name: method
        for method in (
            _flashvid("adts", ": attention and diversity based token selection"),
            _rival("attention_topk", "the simplest use of attention; FlashVID's ADTS without diversity"),
            _rival(
                "fastv",
                "FastV, arXiv 2403.06764, section 4.1",
                defaults={"retention_ratio": 1.0},
                inner_pruning={"pruning_layer": 2, "llm_retention_ratio": 0.5},  # K = 2, R = 50 %
            ),
            _rival("fastvid", "FastVID, arXiv 2503.11187: DySeg and STPrune (ATS, DTM)", version=1),
            _flashvid("flashvid", ""),
            _rival("random", "chance; the seed is part of the settings"),
            _rival("spatial_pooling", "average pooling, as in LLaVA-NeXT-Video and many others"),
            _rival("tome", "ToMe, arXiv 2210.09461: bipartite soft matching"),
            _flashvid("tstm", ": tree-based spatiotemporal token merging"),
            _rival("uniform_frames", "the usual answer to long videos: fewer frames"),
            _rival("vidcom2", "VidCom2, arXiv 2505.14454: adjustment by frame, adaptive token compression"),
            _rival("visionzip", "VisionZip, arXiv 2412.04467: dominant and contextual tokens"),
        )
    },
)
