"""Films of `picture`s with packets that give no frame: damaged ones, and XVID's placeholders."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av

from jax_irkd.data.synthetic.raw_ntu import picture


def punched(path: Path, total: int, broken: Iterable[int], *, rate: int | Fraction = 30) -> Path:
    """Motion JPEG of `total` infrared pictures, of which nobody can read the `broken` ones."""
    broken = set(broken)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        packets = _encoded(stream, total)
        for number, packet in enumerate(packets):
            container.mux(_instead(packet, bytes(64), stream) if number in broken else packet)
    return path


def with_placeholders(path: Path, total: int, tail: int) -> Path:
    """MPEG-4 of `total` infrared pictures, and `tail` packets behind them that say "not coded"."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.gop_size = 15
        packets = _encoded(stream, total)
        content = bytes(packets[1])  # a predicted picture; its header, up to `vop_coded`
        place = content.index(b"\x00\x00\x01\xb6")
        head = content[place : place + 5] + bytes([content[place + 5] & 0xC0 | 0x1F, 0x7F])
        for packet in packets:
            container.mux(packet)
        last, step = packets[-1], packets[-1].pts - packets[-2].pts
        for number in range(tail):
            container.mux(_instead(last, head, stream, step * (number + 1)))
    return path


def _encoded(stream, total: int) -> list[av.Packet]:
    packets = []
    for number in range(total):
        frame = av.VideoFrame.from_ndarray(picture(number, infrared=True), format="rgb24")
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def _instead(packet: av.Packet, content: bytes, stream, later: int = 0) -> av.Packet:
    other = av.Packet(content)
    other.pts = other.dts = packet.pts + later
    other.time_base, other.stream = packet.time_base, stream
    return other
