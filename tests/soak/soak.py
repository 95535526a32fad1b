"""Soak test: the DICOM node is killed at random times while it receives series; no result may be lost or duplicated.

    make soak        200 series, 20 kills

Orthanc stores the results. The sender repeats each series until every slice is acknowledged. The exit code is 1, with a
list, if a result is missing or duplicated. The test ends after --minutes at the latest.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))

import pacs

import conftest


def send_all(numbers: list[int], port: int, ended: threading.Event, sent: list[int], pause: float) -> None:
    """Repeats each series until all of its slices are acknowledged in one association."""
    for number in numbers:
        slices = pacs.series(number, tumor=number % 2 == 0)
        while not ended.is_set():
            statuses = pacs.store(port, slices) if pacs.open_port(port) else []
            if statuses == [0] * len(slices):
                sent.append(number)
                break
            time.sleep(0.2)
        time.sleep(pause)


def soak(folder: Path, series: int, kills: int, minutes: float, seed: int) -> dict[str, object]:
    """Runs the soak test; returns its counts."""
    rng, start, sent, ended = random.Random(seed), time.monotonic(), [], threading.Event()
    bundle = conftest.make_bundle(folder / "tiny")
    with pacs.Orthanc(folder / "orthanc") as archive:
        node = pacs.Listener(bundle, folder / "queue", f"ORTHANC@127.0.0.1:{archive.dicom}")
        with node:
            sender = threading.Thread(target=send_all, args=(list(range(series)), node.port, ended, sent, 0.05))
            sender.start()
            done = 0
            try:
                for kill in range(kills):
                    goal = (
                        series * (kill + rng.random()) / (kills + 1)
                    )  # number of classified series: kills are spread over the whole run
                    while count_completed(archive) < goal and time.monotonic() - start < 60 * minutes:
                        time.sleep(0.1)
                    time.sleep(rng.uniform(0, 1.0))
                    node.kill()
                    node.start().wait()
                while time.monotonic() - start < 60 * minutes and (len(sent) < series or done < 3 * series):
                    time.sleep(1)
                    done = sum(archive.counts().values())
                time.sleep(5)  # a duplicate would arrive now
            finally:
                ended.set()
                sender.join()
            counts = archive.counts()
            node.stop()
            unfinished = [
                str(p.relative_to(folder))
                for s in ("receiving", "working", "sending", "failed")
                for p in (folder / "queue" / s).iterdir()
            ]
    studies = [str(pacs.series(number)[0].StudyInstanceUID) for number in range(series)]
    expected = Counter({(study, kind): 1 for study in studies for kind in pacs.CLASSES.values()})
    partial = [line for line in node.log_text().splitlines() if "slices classified" in line and "10 of 10" not in line]
    return {
        "series": series,
        "kills": kills,
        "sent": len(sent),
        "results": sum(counts.values()),
        "lost": sorted(map(str, (expected - counts))),
        "duplicated": sorted(map(str, (counts - expected))),
        "classified in part": partial,
        "left in the queue": unfinished,
        "starts": node.log_text().count("listens on"),
        "minutes": round((time.monotonic() - start) / 60, 1),
    }


def count_completed(archive: pacs.Orthanc) -> float:
    """Number of series with results in the archive."""
    return int(archive.ask("/statistics")["CountInstances"]) / 3


def main() -> int:
    """Runs the soak from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--series", type=int, default=200)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=90)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if None in (pacs.ORTHANC, pacs.DCIODVFY, *pacs.PLUGINS.values()):
        print("The soak needs Orthanc: run scripts/install-debian-packages as root.", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="reslink-soak-") as folder:
        counts = soak(Path(folder), options.series, options.kills, options.minutes, options.seed)
    print(json.dumps(counts, indent=2))
    complete = counts["results"] == 3 * options.series
    return 0 if complete and not (counts["lost"] or counts["duplicated"] or counts["left in the queue"]) else 1


if __name__ == "__main__":
    sys.exit(main())
