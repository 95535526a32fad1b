"""Hostile files through every way in: 0 uncaught exceptions, no hang, bounded memory.

    python tests/soak/hostile.py --mutations 2000

The files are those of ``tests/imaging/corpus.py``, and mutations of valid ones (bit flips, cuts, repeated parts, changed header
fields). They go through predict, explain, audit, split, train and the upload of the service. Mutated tables, recipes and
bundles go through their readers. The exit code is 1, with a list and the files in ``--keep``, if anything fails.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image as Picture
from pydicom import uid
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parents[1] / "imaging"))

import builders as b
import corpus

from reslink.bundles.zoo import SHIPPED
from reslink.cli.main import app
from reslink.datasets.manifest import Manifest
from reslink.errors import ReslinkError
from reslink.inference.classifier import Classifier
from reslink.training.recipe.recipe import load_recipe

MAX_SECONDS = 30.0
MAX_MEMORY = 2 << 30
TINY = (
    *("preprocess.size=64", "preprocess.channels=1", "model.stem_dim=8", "model.dims=[8, 16]", "model.depths=[0, 1]"),
    *("model.area_size=4", "trainer.epochs=1", "trainer.workers=0", "trainer.device=cpu", "diagnostics.enabled=false"),
)
SETS = [word for setting in TINY for word in ("--set", setting)]
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF)


class Faults:
    """Everything that failed, with the content that caused it."""

    def __init__(self, keep: Path | None) -> None:
        self.keep, self.found, self.outcomes = keep, [], Counter[str]()

    def add(self, way: str, name: str, reason: str, content: bytes | Path | None = None) -> None:
        """Reports a fault, and keeps its file."""
        self.found.append((way, name, reason))
        print(f"FAULT in {way}, {name}: {reason}", flush=True)
        if self.keep is not None and content is not None:
            self.keep.mkdir(parents=True, exist_ok=True)
            data = content.read_bytes() if isinstance(content, Path) else content
            (self.keep / f"{len(self.found)}-{way}-{name.replace('/', '_')}").write_bytes(data)

    def run(self, way: str, name: str, work: Callable[[], Any], content: bytes | Path | None = None) -> Any:
        """Runs some work: an error of reslink is expected, anything else is a fault."""
        start, result = time.process_time(), None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = work()
            self.outcomes[f"{way}: accepted"] += 1
        except ReslinkError:
            self.outcomes[f"{way}: refused"] += 1
        except Exception:  # noqa: BLE001 - what this script looks for
            self.add(way, name, traceback.format_exc(limit=-3), content)
        if (seconds := time.process_time() - start) > MAX_SECONDS:
            self.add(way, name, f"{seconds:.0f} s", content)
        return result

    def command(self, *words: str | Path) -> None:
        """Runs a command; a traceback or a message about a bug is a fault."""
        done = CliRunner().invoke(app, [str(word) for word in words])
        self.outcomes[f"{words[0]}: exit code {done.exit_code}"] += 1
        unexpected = done.exception is not None and not isinstance(done.exception, SystemExit)
        if unexpected or "bug in reslink" in done.stderr or "Traceback" in done.stderr or done.exit_code not in (0, 1, 2, 3):
            self.add(str(words[0]), "folder", f"{done.stderr[-1500:]} {done.exception!r}")


def valid_images() -> dict[str, bytes]:
    """Small valid files of every format."""
    gray = Picture.fromarray(b.picture(32, 40))
    stored = b.picture(64, 48).astype(np.uint16) * 16
    volume = np.stack([stored.T] * 17, axis=-1).astype(np.int16)
    syntaxes = (uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.JPEGLosslessSV1)
    return {
        "a.png": b.saved(gray, "PNG"),
        "b.jpg": b.saved(gray, "JPEG"),
        "c.jpg": b.saved(gray.convert("RGB"), "JPEG", progressive=True),
        "d.bmp": b.saved(gray, "BMP"),
        "e.tif": b.saved(gray, "TIFF", compression="tiff_lzw"),
        "f.tif": b.saved(Picture.fromarray(stored), "TIFF"),
        "g.webp": b.saved(gray.convert("RGB"), "WEBP", lossless=True),
        "h.npy": b.npy(stored),
        "i.dcm": b.written(b.dataset(stored)),
        **{f"j{i}.dcm": b.compressed(stored, syntax) for i, syntax in enumerate(syntaxes)},
        "k.nii": b.nifti(volume),
        "l.nii.gz": b.zipped(b.nifti(volume)),
    }


def mutate(content: bytes, rng: random.Random, most: int = 8) -> bytes:
    """Returns the content with one to ``most`` random changes, mostly in its header."""
    data = bytearray(content)
    for _ in range(rng.randint(1, most)):
        if not data:
            break
        end = len(data) if rng.random() < 0.3 else min(len(data), 600)
        place = rng.randrange(end)
        match rng.randrange(7):
            case 0:
                data[place] ^= 1 << rng.randrange(8)
            case 1:
                data[place] = rng.choice(INTERESTING)
            case 2:
                del data[place + rng.randrange(len(data)) :]
            case 3:
                length = rng.randint(1, 64)
                data[place:place] = data[place : place + length]
            case 4:
                del data[place : place + rng.randint(1, 16)]
            case 5:
                width = rng.choice((2, 4, 8))
                value = rng.choice((0, 1, (1 << 8 * width) - 1, 1 << (8 * width - 1), rng.getrandbits(8 * width)))
                data[place : place + width] = value.to_bytes(width, rng.choice(("little", "big")))
            case _:
                data[place : place + 4] = rng.randbytes(4)
    return bytes(data)


def hostile_images(mutations: int, rng: random.Random, *, with_corpus: bool) -> Iterator[tuple[str, bytes]]:
    """Yields names and contents."""
    for i, (_, content, _) in enumerate(corpus.entries() if with_corpus else ()):
        yield f"corpus{i:03d}.png", corpus.content(content)
    valid = list(valid_images().items())
    for i in range(mutations):
        name, content = valid[i % len(valid)]
        yield f"m{i:05d}-{name}", mutate(content, rng)


def check_images(files: list[Path], faults: Faults) -> list[Path]:
    """Predicts each file by itself; returns those that gave a prediction."""
    classifier, good = Classifier.load("ct", backend="onnxruntime", threads=1), []
    for path in files:
        predictions = faults.run("predict", path.name, lambda path=path: list(classifier.predict(path)), path)
        good += [path] if predictions and predictions[0].error is None else []
    return good


def check_commands(files: list[Path], good: list[Path], root: Path, faults: Faults) -> None:
    """Runs the commands on folders of hostile files."""
    faults.command("predict", "ct", root / "files", "--json")
    faults.command(
        "explain", "ct", *good[:: max(1, len(good) // 12)], *files[:: max(1, len(files) // 12)], "--out", root / "maps"
    )
    for i, path in enumerate(files):
        folder = root / "classes" / ("Healthy", "Tumor")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
    for i in range(12):
        noise = np.random.default_rng(i).integers(0, 255, (64, 64), np.uint8)
        Picture.fromarray(noise).save(root / "classes" / ("Healthy", "Tumor")[i % 2] / f"good{i}.png")
    faults.command("audit", root / "classes", "--out", root / "audit")
    faults.command("split", root / "classes", "--out", root / "split.csv", "--allow-conflicts")
    faults.command("train", root / "classes", "--out", root / "run", "--allow-conflicts", *SETS)


def check_service(files: list[Path], faults: Faults) -> None:
    """Uploads each file to a service."""
    words = [sys.executable, "-m", "reslink", "serve", "ct", "--port", "0"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        line = next(line for line in process.stderr if "http://" in line)
        url = "http://" + line.split("http://")[1].split()[0].rstrip("/")
        with httpx.Client(base_url=url, timeout=60) as client:
            for path in files:
                try:
                    status = client.post("/v1/predict", files={"files": (path.name, path.read_bytes())}).status_code
                except httpx.HTTPError as error:
                    faults.add("service", path.name, repr(error), path)
                    continue
                faults.outcomes[f"service: {status}"] += 1
                if status >= 500:
                    faults.add("service", path.name, f"status {status}", path)
    finally:
        process.terminate()
        rest = process.stderr.read()
        process.wait(60)
    if "Traceback" in rest:
        faults.add("service", "log", rest[-1500:])


def check_texts(mutations: int, root: Path, faults: Faults, rng: random.Random) -> None:
    """Reads mutated tables and recipes."""
    pictures = root / "pictures"
    pictures.mkdir()
    for i in range(8):
        Picture.new("L", (64, 64), i * 20).save(pictures / f"{i}.png")
    rows = "".join(f"{i}.png,{('Healthy', 'Tumor')[i % 2]},P{i},{('train', 'test')[i // 6]}\n" for i in range(8))
    table = ("path,label,patient_id,split\n" + rows).encode()
    forms = (table, "\ufeff".encode() + table, table.decode().encode("utf-16"), b"sep=;\n" + table.replace(b",", b";"))
    recipe = b"trainer:\n  epochs: 3\nmodel:\n  variant: reslink_small\n  dims: [8, 16, 32]\npreprocess: {size: 64}\nseed: 1\n"
    for i in range(mutations):
        content = mutate(forms[i % len(forms)], rng, 2)
        path = pictures / f"table{i}.csv"
        path.write_bytes(content)
        faults.run("table", path.name, lambda path=path: Manifest.open(path), path)
        path.unlink()
        path = root / f"recipe{i}.yaml"
        path.write_bytes(mutate(recipe, rng, 2))
        faults.run("recipe", path.name, lambda path=path: load_recipe(str(path)), path)
        path.unlink()


def _edit_json(value: Any, rng: random.Random) -> Any:
    """Returns a JSON value with one random part replaced."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        changed = {**value, key: _edit_json(value[key], rng)}
        if rng.random() < 0.1:
            del changed[key]
        return changed
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = rng.randrange(len(value))
        return [*value[:place], _edit_json(value[place], rng), *value[place + 1 :]]
    return rng.choice((None, True, 0, -1, 1 << 70, 1e308, -0.5, "", "x" * 5000, [], {}, [[]], {"a": []}, "\0\x1b[2J", "NaN"))


def check_bundles(mutations: int, root: Path, faults: Faults, rng: random.Random) -> None:
    """Loads bundles with one mutated file, whose checksum is right, and predicts with them."""
    from reslink.files import sha256

    picture = root / "head.png"
    Picture.fromarray(b.picture(64, 64)).save(picture)
    names = ("bundle.json", "bundle.json", "bundle.json", "model.onnx", "decision.safetensors", "fingerprints.safetensors")
    keys = {"model.onnx": "onnx", "decision.safetensors": "decision_arrays", "fingerprints.safetensors": "fingerprints"}
    for i in range(mutations):
        folder, name = root / f"bundle{i}", names[i % len(names)]
        shutil.copytree(SHIPPED / "lgg", folder)
        record = json.loads((folder / "bundle.json").read_text())
        if name == "bundle.json":
            record = _edit_json(record, rng)
        else:
            content = mutate((folder / name).read_bytes(), rng, 2)
            (folder / name).write_bytes(content)
            record[keys[name]] |= {"sha256": sha256(content), "bytes": len(content)}
        (folder / "bundle.json").write_text(json.dumps(record))

        def use(folder: Path = folder) -> None:
            classifier = Classifier.load(folder, backend="onnxruntime", threads=1)
            list(classifier.predict(picture))
            repr(classifier)

        faults.run("bundle", name, use, folder / name)
        shutil.rmtree(folder)


def main() -> int:
    """Runs all ways; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=2000, help="number of mutated images; a tenth of other files")
    parser.add_argument("--corpus", action=argparse.BooleanOptionalAction, default=True, help="also the files of corpus.py")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files that failed")
    parser.add_argument("--only", choices=("images", "commands", "service", "texts", "bundles"), nargs="*")
    options = parser.parse_args()
    rng, faults = random.Random(options.seed), Faults(options.keep)
    chosen = options.only or ("images", "commands", "service", "texts", "bundles")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(root / "cache")
        (root / "files").mkdir()
        files = []
        if {"images", "commands", "service"} & set(chosen):
            for file_name, content in hostile_images(options.mutations, rng, with_corpus=options.corpus):
                files.append(root / "files" / file_name)
                files[-1].write_bytes(content)
        good = check_images(files, faults) if "images" in chosen else []
        if "commands" in chosen:
            check_commands(files, good, root, faults)
        if "service" in chosen:
            check_service(files, faults)
        if "texts" in chosen:
            check_texts(options.mutations // 4, root, faults, rng)
        if "bundles" in chosen:
            check_bundles(options.mutations // 20, root, faults, rng)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    if peak > MAX_MEMORY:
        faults.add("all", "memory", f"{peak >> 20} MiB")
    print(f"peak {peak >> 20} MiB; {len(faults.found)} faults")
    for outcome, count in sorted(faults.outcomes.items()):
        print(f"  {outcome}: {count}")
    return 1 if faults.found else 0


if __name__ == "__main__":
    sys.exit(main())
