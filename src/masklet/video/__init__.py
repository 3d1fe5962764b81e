"""Videos in and out as numbered frames; the only part that speaks PyAV. Knows no masks and no network."""

from masklet.video.video import Frame, Reader, Video, open_reader, open_video
from masklet.video.writer import VideoWriter, can_write

__all__ = ["Frame", "Reader", "Video", "VideoWriter", "can_write", "open_reader", "open_video"]
