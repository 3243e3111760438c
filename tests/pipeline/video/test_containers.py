"""Files that only name other files or addresses are no videos, and nothing is opened for them."""

import shutil
import subprocess
from pathlib import Path

import imageio_ffmpeg
import psutil
import pytest

from pipeline.config import JobConfig, SamplingConfig
from pipeline.errors import UnreadableVideoError
from pipeline.video.clip_frames import decode_clip
from pipeline.video.containers import CONTAINERS, MAX_PIXELS
from pipeline.video.probing import read_probe

HERE = "127.0.0.1"
DESCRIPTIONS = {
    "playlist.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{video}\n#EXT-X-ENDLIST\n",
    "script.ffconcat": "ffconcat version 1.0\nfile '{video}'\n",
    "session.sdp": f"v=0\no=- 0 0 IN IP4 {HERE}\ns=x\nc=IN IP4 {HERE}\nt=0 0\nm=video 47112 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "manifest.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
    '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{video}</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>",
}


@pytest.mark.parametrize("suffix", ["", ".mp4"])
@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_a_description_of_other_files_is_no_video(sample_videos: Path, tmp_path: Path, name: str, suffix: str) -> None:
    """Whatever it is called; and no port is opened to look."""
    path = tmp_path / f"{name}{suffix}"
    path.write_text(DESCRIPTIONS[name].format(video=sample_videos / "three_boxes.mp4"))
    ports = psutil.Process().net_connections("udp")
    with pytest.raises(UnreadableVideoError, match=r"no container that is read|not a readable video file"):
        read_probe(str(path))
    assert psutil.Process().net_connections("udp") == ports


def test_a_description_is_refused_before_it_is_read(sample_videos: Path, tmp_path: Path) -> None:
    """Not because what it names is missing: the message says what such a file is."""
    path = tmp_path / "script.mp4"
    path.write_text(DESCRIPTIONS["script.ffconcat"].format(video=sample_videos / "three_boxes.mp4"))
    with pytest.raises(UnreadableVideoError, match="whatever its name says: playlists and other files"):
        read_probe(str(path))


@pytest.mark.parametrize(
    "path", ["frame-%03d.png", "concat:a.mp4|b.mp4", "data:video/mp4;base64,AAAA", "subfile,,:a.mp4"]
)
def test_a_path_is_the_name_of_a_file(
    sample_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Never a pattern or a URL of FFmpeg's, even where these would lead somewhere."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.mp4", "b.mp4", "frame-001.png"):
        shutil.copyfile(sample_videos / "three_boxes.mp4", tmp_path / name)
    with pytest.raises(UnreadableVideoError, match="No such file"):
        read_probe(path)


def test_a_percent_sign_in_a_name_changes_no_frame(sample_videos: Path, tmp_path: Path) -> None:
    """The reader that takes names for patterns is not used."""
    path = tmp_path / "a%03d.mp4"
    shutil.copyfile(sample_videos / "three_boxes.mp4", path)
    sampling = SamplingConfig(num_frames=4)
    right = decode_clip(str(sample_videos / "three_boxes.mp4"), sampling, None, None)
    assert (decode_clip(str(path), sampling, None, None).frames == right.frames).all()
    with pytest.raises(UnreadableVideoError, match="pattern of an image sequence"):
        decode_clip(str(path), SamplingConfig(num_frames=4, decoder="decord"), None, None)


def test_every_container_is_known_to_ffmpeg() -> None:
    """A name that it does not know would allow nothing, in silence."""
    import av

    assert set(CONTAINERS) <= av.formats_available


def test_the_documented_containers_are_the_real_ones() -> None:
    """docs/security.md lists them."""
    page = Path("docs/security.md").read_text(encoding="utf-8")
    listed = page.split("demuxers:\n", 1)[1].split(".\n", 1)[0]
    assert listed.replace("`", "").replace("\n", " ").split(", ") == list(CONTAINERS)


def test_no_container_opens_files_of_its_own() -> None:
    """Those that do are flagged so by FFmpeg: image sequences, devices, sessions."""
    from av.format import ContainerFormat

    assert [name for name in CONTAINERS if ContainerFormat(name, "r").flags & 1] == []


def _film(path: Path, size: str) -> Path:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", f"color=red:s={size}:r=1:d=2"]
    subprocess.run([*command, "-c:v", "mjpeg", "-q:v", "31", str(path)], check=True)
    return path


@pytest.mark.slow
def test_pictures_of_too_many_pixels_are_refused_unread(tmp_path: Path) -> None:
    """By the size in the header; the largest legal one passes."""
    with pytest.raises(UnreadableVideoError, match=r"16000 x 12000 pixels, more than 67,108,864 in all; scale it down"):
        read_probe(str(_film(tmp_path / "large.avi", "16000x12000")))
    assert read_probe(str(_film(tmp_path / "legal.avi", "8192x8192"))).header.width ** 2 == MAX_PIXELS


@pytest.mark.slow
def test_a_later_picture_of_too_many_pixels_is_refused(tmp_path: Path) -> None:
    """A file whose header tells a small size: the picture itself is checked, before it has memory."""
    small, large = _film(tmp_path / "small.avi", "640x480"), _film(tmp_path / "large.avi", "16000x12000")
    content = large.read_bytes()
    # The size in the headers of the file and of its stream, as little-endian numbers next to each other.
    wide, narrow = (b"".join(n.to_bytes(4, "little") for n in size) for size in ((16000, 12000), (640, 480)))
    assert wide in content
    assert narrow in small.read_bytes()
    (tmp_path / "liar.avi").write_bytes(content.replace(wide, narrow))
    with pytest.raises(UnreadableVideoError):
        decode_clip(str(tmp_path / "liar.avi"), SamplingConfig(num_frames=1, decoder="pyav"), None, None)


def test_auto_leaves_decord_out_where_tables_are_not_trusted() -> None:
    """Its FFmpeg is of 2019. By name it is still used, and the recorded setting stays as it is."""

    def decoder(**settings: object) -> str:
        sampling = {"num_frames": 2, **settings}
        job = {"videos": "v", "questions": ["q"], "output": "o", "model": {"name": "tiny"}, "sampling": sampling}
        of = JobConfig.model_validate({**job, "allowed_roots": ["/videos"]})
        assert JobConfig.model_validate(job).effective_sampling.decoder == of.sampling.decoder
        return of.effective_sampling.decoder

    assert [decoder(), decoder(decoder="decord"), decoder(decoder="pyav")] == ["pyav", "decord", "pyav"]
