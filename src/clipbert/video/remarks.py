"""Remarks on undamaged files whose frames differ from what a player shows: interlaced, HDR, several sizes."""

from typing import Any

# Values of AVColorTransferCharacteristic and AVColorPrimaries (ITU-T H.273).
HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
BT2020 = 9
RESTART_S = 0.5
SHOWN_SIZES = 4


class Remarks:
    """Collector of what is unusual about the decoded frames of one file."""

    def __init__(self) -> None:
        self._interlaced = 0
        self._transfers: set[str] = set()
        self._wide = False
        self._sizes: dict[tuple[int, int], float] = {}
        self._latest: float | None = None
        self._restarts = 0

    def see(self, frame: Any, start: float) -> None:
        """Record a decoded frame.

        Args:
            frame: an `av.VideoFrame`.
            start: its time in seconds; frames come in the order in which the decoder returns them.
        """
        self._interlaced += bool(frame.interlaced_frame)
        if name := HDR_TRANSFERS.get(int(frame.color_trc)):
            self._transfers.add(name)
        self._wide = self._wide or int(frame.color_primaries) == BT2020
        self._sizes.setdefault((frame.width, frame.height), start)
        if self._latest is not None and start < self._latest - RESTART_S:
            self._restarts += 1
        self._latest = start if self._latest is None else max(self._latest, start)

    def describe(self) -> str | None:
        """Return the remarks for the manifest; None when there are none."""
        found = []
        if self._interlaced:
            found.append("interlaced: not deinterlaced, moving edges show combs")
        if self._transfers:
            found.append(f"HDR ({', '.join(sorted(self._transfers))}): not tone-mapped, contrast and colors look flat")
        elif self._wide:
            found.append("BT.2020 colors: shown as BT.709, slightly pale")
        if len(self._sizes) > 1:
            sizes = [f"{width}x{height}" for width, height in self._sizes]
            listed = ", ".join(sizes[:SHOWN_SIZES]) + (
                f" and {len(sizes) - SHOWN_SIZES} more" if sizes[SHOWN_SIZES:] else ""
            )
            found.append(f"its frames have several sizes ({listed}): all are resized to the first")
        if self._restarts:
            found.append("its time stamps start over, as after joining files: frames are mixed; encode it again")
        return "; ".join(found) or None
