"""Choice of the decoder of a video: decord where it is exact, PyAV where decord is known to return wrong frames."""

from dataclasses import dataclass

DECORD_CONTAINERS = frozenset({"mov", "matroska", "flv"})
DECORD_CODECS = frozenset({"h264", "hevc", "vp8", "vp9", "mjpeg"})
# decord reports damage in h264; for these codecs it silently repeats an earlier picture.
SILENT_CODECS = frozenset({"hevc", "vp8", "vp9", "mjpeg"})
REGULAR_WITHIN = 1.5
LATE_START_S = 0.05


@dataclass(frozen=True)
class Scan:
    """Counts of the packets of a video stream, without decoding.

    `hidden`: frames an edit list does not show. `untimed`: packets without a time stamp. `leading`: frames shown before
    the key frame they follow in the file. `start_s`, `end_s`: the shown frames, in seconds; `whole_end_s`: the end of
    the last stream of the file. `shortest_s`, `longest_s`: one frame, seconds, as the packets say.
    """

    packets: int = 0
    hidden: int = 0
    untimed: int = 0
    leading: int = 0
    starts_on_key: bool = True
    ends_corrupt: bool = False
    start_s: float | None = None
    end_s: float | None = None
    whole_end_s: float | None = None
    shortest_s: float | None = None
    longest_s: float | None = None


def choose_decoder(
    container: str, codec: str, scan: Scan, mirrored: bool, streams: int = 1, square: bool = True
) -> tuple[str, str]:
    """Return the exact decoder for a file, and the reason: ("decord" or "pyav", reason).

    decord gives random access at once, but counts and seeks by packets: where packets and shown frames differ it
    returns wrong frames without an error. The rest is decoded in sequence by PyAV.

    Args:
        container: the demuxer's short name: mov (mp4 too), matroska (webm too), avi, ...
        codec: h264, vp9, ...
        mirrored: the display matrix flips the picture.
        streams: video streams in the file, covers included; decord may choose another one than `main_stream`.
        square: pixels are as wide as high.
    """
    if container not in DECORD_CONTAINERS:
        return "pyav", f"decord is not exact in {container}"
    if codec not in DECORD_CODECS:
        return "pyav", f"decord is not exact on {codec} or cannot open it"
    if streams > 1:
        return "pyav", f"{streams} video streams or covers, of which decord may choose another"
    if scan.untimed:
        return "pyav", f"{scan.untimed} frames have no time stamp"
    if scan.hidden:
        return "pyav", f"an edit list hides {scan.hidden} frames that decord returns"
    if not scan.starts_on_key:
        return "pyav", "it starts between two key frames"
    if scan.leading:
        return "pyav", f"open groups of pictures: {scan.leading} frames are shown before their key frame"
    if mirrored:
        return "pyav", "it is stored mirrored, which decord ignores"
    if not square:
        return "pyav", "its pixels are not square, which decord ignores"
    return "decord", f"{codec} in {container}, closed groups of pictures"


def suspicion(container: str, codec: str, scan: Scan) -> str | None:
    """Return why a file for decord should be compared with a sequential decode; None if there is no reason."""
    if codec in SILENT_CODECS:
        return f"decord hides damage in {codec}"
    if container == "flv":
        return "flv seeks badly"
    if scan.start_s is not None and abs(scan.start_s) > LATE_START_S:
        return f"it starts at {scan.start_s:.2f} s"
    if scan.longest_s and (not scan.shortest_s or scan.longest_s > REGULAR_WITHIN * scan.shortest_s):
        return "its frame rate varies"
    return None
