"""Compression methods under one interface: FlashVID, its parts, and its rivals. One file each; docs/methods.md."""

from __future__ import annotations

from collections.abc import Mapping

from flashvid.config import MethodName
from flashvid.methods.attention_topk import ATTENTION_TOPK
from flashvid.methods.fastv import FASTV
from flashvid.methods.fastvid import FASTVID
from flashvid.methods.flashvid import FLASHVID
from flashvid.methods.method import CompressionMethod
from flashvid.methods.parts import ADTS, TSTM
from flashvid.methods.random_tokens import RANDOM
from flashvid.methods.spatial_pooling import SPATIAL_POOLING
from flashvid.methods.tome import TOME
from flashvid.methods.uniform_frames import UNIFORM_FRAMES
from flashvid.methods.vidcom2 import VIDCOM2
from flashvid.methods.visionzip import VISIONZIP

METHODS: Mapping[MethodName, CompressionMethod] = {
    "flashvid": FLASHVID,
    "adts": ADTS,
    "tstm": TSTM,
    "visionzip": VISIONZIP,
    "fastvid": FASTVID,
    "vidcom2": VIDCOM2,
    "tome": TOME,
    "attention_topk": ATTENTION_TOPK,
    "random": RANDOM,
    "uniform_frames": UNIFORM_FRAMES,
    "spatial_pooling": SPATIAL_POOLING,
    "fastv": FASTV,
}
