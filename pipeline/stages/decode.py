"""Defines the decode stage, which samples a clip's frames and resizes them as the model family requires."""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from flashvid.models import load_preprocessor
from pipeline.clip import Clip, ClipMessage, DecodedClip
from pipeline.errors import VideoNotFoundError
from pipeline.inputs.allowed_roots import source_options
from pipeline.stages.stage import Stage, StageSettings
from pipeline.video.frame_sampling import is_sampled_down
from pipeline.video.process import DecodeProcess
from pipeline.video.remote_file import RemoteVideo
from pipeline.video.staging import Staging, is_read_in_place

_ADMISSION_POLL_S = 0.05


class DecodeStage(Stage):
    """Decodes video on a CPU actor; waits while the maximum number of clips have their frames in memory."""

    name = "decode"
    makes_tokens = True
    counted: ClassVar[Mapping[str, str]] = {
        "clips_decoded": "clips whose frames were sampled",
        "frames_decoded": "frames handed to the encoder",
        "video_bytes": "bytes of video files that were fetched from object stores",
        "clips_sampled_down": "clips with fewer frames than sampling.fps asks for",
    }

    def __init__(self, settings: StageSettings) -> None:
        super().__init__(settings)
        limits = self.job.resources.decode
        self._sampling = sampling = self.job.effective_sampling
        self._decoder = DecodeProcess(time_limit_s=limits.time_limit_s, memory_limit_gb=limits.memory_limit_gb)
        self._preprocessor = load_preprocessor(
            settings.model(weights=False), min_pixels=sampling.min_pixels, max_pixels=sampling.max_pixels
        )
        self._options = source_options(self.job.storage_options, self.job.allowed_roots)
        self._staging = Staging(self.job.resources.staging, self._options)
        self.announce()

    def process(self, message: ClipMessage) -> tuple[ClipMessage, Mapping[str, int]]:
        """Decode and resize the clip's frames, unless its tokens were committed after the plan was made."""
        clip, job = message.clip, self.job
        if clip.video_path is None:
            raise VideoNotFoundError("the row of the videos table has no video_path; fill it")
        if job.keeps_tokens and self.tokens.has(clip.content_key):
            return message, {}
        asked = time.perf_counter()
        while not self.tell("admit", clip.clip_id):
            time.sleep(_ADMISSION_POLL_S)
        self.waited_s = time.perf_counter() - asked
        if "://" in clip.video_path and is_read_in_place(clip, self._sampling):
            decoded, fetched = self._decode(clip, RemoteVideo(clip.video_path, self._options)), 0
        else:
            with self._staging.staged(clip.video_path, clip.source_id) as video:
                decoded, fetched = self._decode(clip, video.path), video.fetched_bytes
        self.tell("hold", clip.clip_id)
        counts = {
            "clips_decoded": 1,
            "frames_decoded": len(decoded.frames),
            "video_bytes": fetched,
            "clips_sampled_down": int(is_sampled_down(decoded.frame_timestamps, job.sampling)),
        }
        return replace(message, decoded=decoded), counts

    def _decode(self, clip: Clip, video: str | RemoteVideo) -> DecodedClip:
        return self._decoder.decode_clip(
            video,
            self._sampling,
            clip.start_s,
            clip.end_s,
            transform_for=lambda num_frames: self._preprocessor.for_video(num_frames).resize,
        )

    def after(self, message: ClipMessage) -> None:
        """Release the place of a clip that has no frames, because it failed or has its tokens committed."""
        if message.decoded is None:
            self.tell("release", message.clip.clip_id)
