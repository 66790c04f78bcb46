"""Encodes images as a film."""

from fractions import Fraction

import av
import numpy as np
from av.container import OutputContainer
from av.video.frame import PictureType

CODECS = {".gif": ("gif", "pal8"), ".mp4": ("libx264", "yuv420p")}
"""Encoder and pixel format for each file suffix."""

_GIF_MAX_RATE = 50
"""Frames per second; viewers show GIF frames of 0.01 s or less for 0.1 s instead."""

_PALETTE_FRAMES = 50
"""Number of first frames that determine a GIF's colours; all these are held in memory."""


class Camera:
    """Encodes images one by one."""

    def __init__(self, container: OutputContainer, suffix: str, rate: Fraction) -> None:
        """Starts a film.

        Args:
            container: where it is written.
            suffix: of its file, a key of `CODECS`.
            rate: frames per second.
        """
        self.frames = 0
        """Number of images so far."""
        self._codec, self._pixels = CODECS[suffix]
        self._container, self._rate = container, rate

    def write(self, image: np.ndarray) -> None:
        """Adds an image [height, width, 3]; all images must have the same size."""
        if self.frames == 0:
            self._start(image.shape[1], image.shape[0])
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        frame.pts, frame.duration, frame.time_base = self.frames, 1, 1 / self._rate
        self._graph.vpush(frame)
        self._encode()
        self.frames += 1

    def finish(self) -> None:
        """Writes the frames that are still buffered."""
        self._graph.vpush(None)
        self._encode()
        self._container.mux(self._stream.encode())

    def _start(self, width: int, height: int) -> None:
        rate = min(self._rate, Fraction(_GIF_MAX_RATE)) if self._codec == "gif" else self._rate
        stream = self._container.add_stream(self._codec, rate=rate)
        assert isinstance(stream, av.VideoStream)
        self._stream = stream
        # 4:2:0 subsampling needs an even width and height.
        self._stream.width, self._stream.height = width + width % 2, height + height % 2
        self._stream.pix_fmt = self._pixels
        self._graph = graph = av.filter.Graph()
        source = graph.add_buffer(
            width=width,
            height=height,
            format=av.VideoFormat("rgb24"),
            time_base=1 / self._rate,
        )
        padded = graph.add("pad", "ceil(iw/2)*2:ceil(ih/2)*2")
        if self._codec == "gif":
            thinned, split = graph.add("fps", str(rate)), graph.add("split")
            first = graph.add("trim", f"end_frame={_PALETTE_FRAMES}")
            palette = graph.add("palettegen")
            # Bayer dithering does not change between frames, so still areas take no space.
            last = graph.add("paletteuse", "dither=bayer:bayer_scale=5")
            graph.link_nodes(source, padded, thinned, split)
            split.link_to(last, 0, 0)
            split.link_to(first, 1, 0)
            first.link_to(palette)
            palette.link_to(last, 0, 1)
        else:
            last = graph.add("format", self._pixels)
            graph.link_nodes(source, padded, last)
        graph.link_nodes(last, graph.add("buffersink"))
        graph.configure()

    def _encode(self) -> None:
        while True:
            try:
                frame = self._graph.vpull()
            except (BlockingIOError, EOFError):
                return
            # Let the encoder choose the key frames, instead of the filter.
            frame.pict_type = PictureType.NONE
            self._container.mux(self._stream.encode(frame))
