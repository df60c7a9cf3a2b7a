"""Measure how videos are read: processor time beside decoding everything, frames decoded, memory. Needs no GPU.

    python -m videonsa.bench.reading --out benchmarks/reading.csv

Files are made by repeating an encoded clip of textures, motion and noise: H.264 with B-frames, a key frame every two
seconds. Each measurement runs in a process of its own, torch imported before: `cpu_s` is its processor time in all
threads, `peak_mib` the most memory that it held. `full_decode_cpu_s` decodes every frame and throws it away. `between`
counts the frames from the key frame before each chosen one to itself.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import av
import numpy as np
import torch

from videonsa.bench import command, rows
from videonsa.video import Clip, Fit, Video, Work, read

RATE, KEY, PIECE = 30, 60, 300  # frames: a second, from one key frame to the next, of the clip that is repeated
SIZES = {"360p": (360, 640), "720p": (720, 1280), "1080p": (1080, 1920)}
FIT = Fit(28, 28**2, 64 * 28**2)  # 64 tokens a patch of two frames, the paper's
CASES = (  # size, seconds of the file, frames that are asked
    ("720p", 3600, 256),
    ("720p", 3600, 1024),
    ("720p", 180, 1024),
    ("720p", 180, 5400),
    ("1080p", 90, 2048),
)
COLUMNS = (
    *("size", "seconds", "asked", "cpu_s", "full_decode_cpu_s", "decoded", "skipped", "between", "wall_s", "peak_mib"),
    *("processor", "cores", "av", "commit"),
)


def main(arguments: list[str] | None = None) -> int:
    parser = command.parser("videonsa.bench.reading", __doc__)
    parser.add_argument("--longest", type=int, default=3600, metavar="SECONDS", help="of a file; less is for a try")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # as workers have it; reading resizes by torch
    made, full, machine = [], {}, about_this_machine(options.commit)
    with tempfile.TemporaryDirectory() as place:
        for size, seconds, asked in CASES:
            seconds = min(seconds, options.longest)
            path = Path(place, f"{size}-{seconds}.mp4")
            if not path.exists():
                write_repeated(path, size, seconds)
                full[path] = in_a_process(partial(decode_all, path))
            row = {"size": size, "seconds": seconds, "asked": asked, "full_decode_cpu_s": full[path]["cpu_s"]}
            made.append(row | in_a_process(partial(read_once, path, asked)) | machine)
            print("  ".join(f"{name} {made[-1][name]}" for name in COLUMNS[:10]), flush=True)
    if options.out is not None:
        rows.append(made, COLUMNS, options.out)
    return 0


def read_once(path: Path, asked: int) -> dict[str, float]:
    """Read so many frames of the whole video, and say what that took."""
    work = Work()
    video: Video = read(path, Clip(asked, fit=FIT), work)
    between = int((video.indices % KEY + 1).sum())
    return {"decoded": work.decoded, "skipped": work.skipped, "between": between}


def decode_all(path: Path) -> dict[str, float]:
    """Every frame, thrown away."""
    container = av.open(str(path))
    container.streams.video[0].thread_type = "AUTO"
    return {"decoded": sum(1 for _ in container.decode(video=0))}


def in_a_process(what: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What it returns, and processor seconds, seconds and peak memory in MiB of the process that is forked for it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            began, cpu = time.perf_counter(), time.process_time()
            result = what()
            result |= {"cpu_s": round(time.process_time() - cpu, 2), "wall_s": round(time.perf_counter() - began, 2)}
            result |= {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}
            os.write(writing, json.dumps(result).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as file:
        said = file.read()
    os.waitpid(child, 0)
    if not said:
        raise RuntimeError("the process that measured died")
    return json.loads(said)


def write_repeated(path: Path, size: str, seconds: int, title: str = "", clip: Path | None = None) -> None:
    """A clip of PIECE frames (made by `write_clip`, where none is given), repeated to so many seconds."""
    with tempfile.TemporaryDirectory() as place:
        if clip is None:
            clip = Path(place, "clip.mp4")
            write_clip(clip, size)
        with av.open(str(clip)) as source, av.open(str(path), "w") as target:
            target.metadata["title"] = title
            film = source.streams.video[0]
            copy = target.add_stream_from_template(film)
            for repeat in range(seconds * RATE // PIECE):
                if repeat:
                    source.seek(0)
                for packet in source.demux(film):
                    if packet.size:
                        assert packet.pts is not None
                        assert packet.dts is not None
                        shift = round(repeat * PIECE / RATE / packet.time_base)
                        packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, copy
                        target.mux(packet)


def write_clip(path: Path, size: str) -> None:
    """PIECE frames of `scenery`."""
    with av.open(str(path), "w") as container:
        options = {"g": str(KEY), "keyint_min": str(KEY), "sc_threshold": "0", "bf": "3", "preset": "veryfast"}
        stream = container.add_stream("libx264", rate=RATE, options=options)
        stream.height, stream.width = SIZES[size]
        stream.pix_fmt = "yuv420p"
        for picture in scenery(*SIZES[size]):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def scenery(height: int, width: int) -> Iterator[np.ndarray]:
    """PIECE frames: a textured background that pans, boxes that move over it, and a little noise on all."""
    random = np.random.default_rng(0)
    coarse = random.integers(40, 200, (height // 8 + 1, width // 4 + 1, 3), np.uint8)
    ground = coarse.repeat(8, 0).repeat(8, 1)[:height]
    noise = random.integers(0, 12, (height, width + PIECE, 3), np.uint8)
    for number in range(PIECE):
        frame = ground[:, 2 * number : 2 * number + width] + noise[:, -number % PIECE : -number % PIECE + width]
        for box in range(5):
            top, left = (37 * box + 3 * number) % (height - 90), (211 * box + (7 + box) * number) % (width - 120)
            frame[top : top + 90, left : left + 120] = (50 * box, 255 - 40 * box, 90)
        yield frame


def about_this_machine(commit: str | None) -> dict[str, object]:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "av": av.__version__,
        "commit": commit or command.this_commit(),
    }


if __name__ == "__main__":
    from videonsa.bootstrap import settle

    settle()
    sys.exit(main())
