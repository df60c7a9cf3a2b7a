"""Hold a lock: `python -m tests.holder LOCK [silent after s] [beat every s]`, until stdin closes.

Says `held`, or why not, on stdout; then `left` when it gave the lock back. Run under unshare it stands for a container.
"""

from __future__ import annotations

import sys
from pathlib import Path

from videonsa import lock

if __name__ == "__main__":
    path, *seconds = sys.argv[1:]
    if seconds:
        lock.STALE_SECONDS, lock.BEAT_SECONDS = map(float, seconds)
        lock.WATCH_SECONDS = 1.5 * lock.BEAT_SECONDS
    try:
        with lock.Lock(Path(path)) as held:
            print("held", flush=True)
            for _ in sys.stdin:
                held.check()
                print("still", flush=True)
        print("left", flush=True)
    except lock.LockHeld as error:
        print(error, flush=True)
