"""Where requests are answered: so many at a time, so many bytes at a time, files side by side, slices in batches."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import functools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from reslink.errors import InputError, UsageError, nearest
from reslink.explain.graph_maps import Maps
from reslink.imaging.dicom.geometry import SAME_PLACE, Plane, distances
from reslink.inference.classifier import Prediction
from reslink.inference.series import chosen_slices, study_answer
from reslink.serving.http.limits import Limits
from reslink.serving.http.metrics import Metrics
from reslink.serving.http.models import Hosted, drawn
from reslink.serving.http.problems import NOTICE, Problem, bad_request, busy, too_large, unreadable
from reslink.serving.http.uploads.form import Form, Upload, form_of
from reslink.serving.http.uploads.multipart import read_form
from reslink.serving.http.worker import Look, Prepared, View, Wish
from reslink.serving.http.worker_pool import Pool

R = TypeVar("R")
Json = dict[str, Any]

_CROWDED: Final = "several of its slices lie in the same place"


class Desk:
    """Answers uploads.

    Args:
        hosted: The models, the first of which answers where none is named.
        pool: Prepares files.
        limits: Of the service.
        metrics: Counts files and load.
    """

    def __init__(self, hosted: Sequence[Hosted], pool: Pool, limits: Limits, metrics: Metrics) -> None:
        self.models = {one.name: one for one in hosted}
        self.pool, self.limits, self.metrics = pool, limits, metrics
        self.under_way = self.held_bytes = 0
        self._lock = threading.Lock()

    @contextmanager
    def memory(self) -> Iterator[Callable[[int], None]]:
        """Gives a request a function that counts the bytes that it keeps, from any thread, and refuses once the block ended.

        Raises:
            Problem: With status 503, if all requests together would keep too much.
        """
        mine, ended = 0, False

        def hold(size: int) -> None:
            nonlocal mine
            with self._lock:
                if ended or self.held_bytes + size > self.limits.held_bytes:
                    raise busy("The requests under way hold all the memory that they may", 5)
                mine, self.held_bytes = mine + size, self.held_bytes + size

        try:
            yield hold
        finally:
            with self._lock:
                self.held_bytes, ended = self.held_bytes - mine, True
            self.metrics.load(self.under_way, self.held_bytes)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Gives a request, once it is read, its place among those that are worked on: slow senders take none.

        Raises:
            Problem: With status 503, if there is none.
        """
        self.check_room()
        self.under_way += 1
        self.metrics.load(self.under_way, self.held_bytes)
        try:
            yield
        finally:
            self.under_way -= 1
            self.metrics.load(self.under_way, self.held_bytes)

    def check_room(self) -> None:
        """Refuses a request where as many are worked on as may be.

        Raises:
            Problem: With status 503, if so.
        """
        if self.under_way >= self.limits.waiting:
            raise busy(f"{self.under_way} requests are under way")

    async def answer(self, content_type: str, stream: AsyncIterator[bytes], work: Callable[[Form], Awaitable[Json]]) -> Json:
        """Reads a request and works on it, within the time that an answer may take.

        Raises:
            Problem: If there is no answer.
        """
        self.check_room()
        with self.memory() as hold:
            parts = await read_form(content_type, stream, self.limits, hold)
            with self.place():
                try:
                    async with asyncio.timeout(self.limits.answer_seconds):
                        return await work(await form_of(parts, self.limits, hold))
                except TimeoutError:
                    raise busy(f"The answer took longer than {self.limits.answer_seconds:g} seconds", 10) from None

    async def predict(self, form: Form) -> Json:
        """Returns the answer of ``/v1/predict``."""
        chosen = self._chosen(form)
        wish = Wish(tuple({one.way for one in chosen}), form.number("slice"), areas=True, most_slices=self.limits.slices)
        prepared = await self._prepare(form, wish)
        found = await self._side_by_side(
            list(zip(form.files, prepared, strict=True)), lambda pair: _predicted(pair[0], pair[1], chosen, wish.slice or 0)
        )
        files = [answer for answer, _ in found]
        _refuse_if_all_failed(files)
        series = _series(prepared)
        for one in (one for one in series if not one["notes"]):
            members = [(prepared[i], found[i][1]) for i in one["files"]]
            one["study"] = await asyncio.to_thread(_study, members, chosen)
        return {"notice": NOTICE, "files": files, "series": series}

    async def explain(self, form: Form) -> Json:
        """Returns the answer of ``/v1/explain``: one slice of each file, the first if none is named."""
        chosen, target, member = self._chosen(form), form.one("target"), form.number("member")
        if member is not None:
            form.files = [file for file in form.files if file.member == member]
        if not form.files:
            raise bad_request("no-such-member", "There is no such file", f"No archive has a member {member}, counted from 0.")
        wish = Wish(tuple({one.way for one in chosen}), form.number("slice") or 0, look=True, most_slices=self.limits.slices)
        prepared = await self._prepare(form, wish)
        pairs = list(zip(form.files, prepared, strict=True))
        try:
            files = await self._side_by_side(pairs, lambda pair: _explained(pair[0], pair[1], chosen, target, wish.slice or 0))
        except UsageError as error:
            raise bad_request("no-such-class", "There is no such class", error) from error
        _refuse_if_all_failed(files)
        return {"notice": NOTICE, "files": files}

    async def view(self, form: Form) -> Json:
        """Returns the answer of ``/v1/view``."""
        most = max(1, self.limits.shown_pixels // len(form.files))
        prepared = await self._prepare(form, Wish(view=most, most_slices=self.limits.slices))
        files = await asyncio.to_thread(lambda: [_viewed(*pair) for pair in zip(form.files, prepared, strict=True)])
        _refuse_if_all_failed(files)
        return {"notice": NOTICE, "files": files, "series": _series(prepared)}

    def _chosen(self, form: Form) -> list[Hosted]:
        names = list(dict.fromkeys(name for name in form.fields.get("model", ()) if name))
        for name in names:
            if name not in self.models:
                raise _no_model(name[:80], list(self.models))
        return [self.models[name] for name in names] or [next(iter(self.models.values()))]

    async def _prepare(self, form: Form, wish: Wish) -> list[Prepared | None]:
        """Prepares files; the first that is one slice too many ends it, as what is prepared stays in memory."""
        total = 0

        async def one(file: Upload) -> Prepared | None:
            nonlocal total
            sent = len(file.data)
            prepared = await self._prepare_one(file, wish)
            total += 0 if prepared is None else prepared.slices
            if total > self.limits.slices:
                raise too_large(f"The files hold {total} slices or more", f"{self.limits.slices} slices")
            form.hold((0 if prepared is None else prepared.size) - sent)
            return prepared

        return await self._side_by_side(form.files, one)

    async def _prepare_one(self, file: Upload, wish: Wish) -> Prepared | None:
        prepared = None
        if file.problem is None:
            try:
                prepared = await self.pool.prepare(file.data, wish)
            except InputError as error:
                file.problem = unreadable(error)
            file.data = b""
        self.metrics.file("refused" if prepared is None else "read")
        return prepared

    async def _side_by_side(self, items: Sequence[Any], work: Callable[[Any], Awaitable[R]]) -> list[R]:
        """Works on a few items of a request at a time, so that a long series leaves room for other requests."""
        return await _few_at_a_time(items, work, self.pool.processes)


async def _few_at_a_time(items: Sequence[Any], work: Callable[[Any], Awaitable[R]], most: int) -> list[R]:
    room = asyncio.Semaphore(most)

    async def one(item: Any) -> R:
        async with room:
            return await work(item)

    tasks = [asyncio.ensure_future(one(item)) for item in items]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def _no_model(name: str, known: Sequence[str]) -> Problem:
    told = f"There is no model {name!r}. The models are {', '.join(known)}. {nearest(name, known)}."
    return bad_request("no-such-model", "There is no such model", told)


async def _predicted(
    file: Upload, prepared: Prepared | None, chosen: Sequence[Hosted], first: int
) -> tuple[Json, dict[str, list[Prediction]]]:
    """Returns the answer to a file, and its predictions by model."""
    if prepared is None:
        return _head(file, prepared), {}
    by_model: dict[str, list[Prediction]] = {}
    for one in chosen:
        slices, most = prepared.pixels[one.way], 2 * one.batcher.batch
        by_model[one.name] = await _few_at_a_time(slices, functools.partial(_slice, one), most)
    answers = [
        {"model": name, "slices": [_plain(answer, i) for i, answer in enumerate(found, first)]}
        for name, found in by_model.items()
    ]
    return {**_head(file, prepared), "answers": answers}, by_model


async def _slice(hosted: Hosted, pixels: Any) -> Prediction:
    return Prediction("", error=pixels) if isinstance(pixels, str) else await hosted.predict(pixels)


def _plain(answer: Prediction, index: int) -> Json:
    plain = answer.as_dict()
    del plain["path"]
    return {"slice": index, **plain}


def _head(file: Upload, prepared: Prepared | None) -> Json:
    """Returns what every answer says of a file."""
    problem = None if file.problem is None else file.problem.as_dict()
    head: Json = {"file": file.name, "part": file.part, "member": file.member, "kind": file.kind, "problem": problem}
    if prepared is not None:
        head |= {"slices": prepared.slices, "unit": prepared.unit, "modality": prepared.modality, "notes": prepared.notes}
    return head


async def _explained(file: Upload, prepared: Prepared | None, chosen: Sequence[Hosted], target: str | None, index: int) -> Json:
    if prepared is None:
        return _head(file, prepared)
    explanations = []
    for one in chosen:
        pixels, look = prepared.pixels[one.way][0], prepared.looks[one.way][0]
        if isinstance(pixels, str):
            file.problem = unreadable(InputError(pixels, "A slice holds a head", "Send another one"))
            break
        answer, about, maps = await one.explain(pixels, target)
        pictures = await asyncio.to_thread(_drawn, look, maps, about)
        shape = list(look.grey.shape)
        explanations.append({"model": one.name, "target": about, "shape": shape, "maps": pictures, **_plain(answer, index)})
    return {**_head(file, prepared), "explanations": explanations}


def _drawn(look: Look, maps: Maps, target: str) -> list[Json]:
    return [drawn(look, name, heat, target) for name, heat in maps.items()]


def _viewed(file: Upload, prepared: Prepared | None) -> Json:
    head = _head(file, prepared)
    if prepared is None or prepared.view is None:
        return head
    view: View = prepared.view
    facts = {entry.name: getattr(view, entry.name) for entry in dataclasses.fields(view) if entry.name != "packed"}
    return head | facts | {"data": base64.b64encode(view.packed).decode()}


def _series(prepared: Sequence[Prepared | None]) -> list[Json]:
    """Returns the files of each series: a volume, or two and more parallel DICOM slices in order along their normal.

    What the DICOM node would not answer is a series of its own, with a note that says why.
    """
    groups: dict[tuple[str, str | None], list[list[tuple[int, Plane]]]] = {}
    found = [_one([i], one.facts.get("refused")) for i, one in enumerate(prepared) if one is not None and one.slices > 1]
    for i, one in enumerate(prepared):
        if one is None or one.slices != 1 or one.facts.get("position") is None:
            continue
        plane = Plane(*(_array(one.facts[word]) for word in ("position", "rows", "columns")))
        parallel = groups.setdefault((one.facts["series"], one.facts["refused"]), [])
        group = next((members for members in parallel if plane.same_direction(members[0][1])), None)
        if group is None:
            parallel.append(group := [])
        group.append((i, plane))
    for (_, why), members in ((key, group) for key, parallel in groups.items() for group in parallel):
        if len(members) > 1:
            along = distances([plane for _, plane in members])
            order = along.argsort(kind="stable")
            crowded = (along[order][1:] - along[order][:-1] < SAME_PLACE).any()
            files = [members[int(i)][0] for i in order]
            why = why or (_CROWDED if crowded else _unlike([prepared[i] for i in files]))
            found.append(_one(files, why))
    return found


def _unlike(slices: Sequence[Prepared | None]) -> str | None:
    alike = [one.likeness for one in slices if one is not None and one.likeness is not None]
    alike.sort(key=lambda one: one.spacing is None)  # the first is compared with all others: one that states its spacing
    different = next((found for other in alike if (found := alike[0].difference(other))), None)
    return f"its slices have different {different}" if different else None


def _one(files: list[int], why: str | None) -> Json:
    return {"files": files, "study": [], "notes": [] if why is None else [why]}


def _array(values: Sequence[float]) -> Any:
    import numpy as np

    return np.array(values)


def _study(members: Sequence[tuple[Prepared | None, dict[str, list[Prediction]]]], chosen: Sequence[Hosted]) -> list[Json]:
    """Returns the answer for a series as a whole, a model each; none where only one slice of a volume was asked for.

    Args:
        members: The files of the series in order, each with its predictions by model.
        chosen: The models.
    """
    areas = [area for one, _ in members if one is not None for area in one.areas]
    if len(areas) != sum(one.slices for one, _ in members if one is not None):
        return []
    judged, found = chosen_slices(areas), []
    for model in chosen:
        predictions = [answer for _, by_model in members for answer in by_model[model.name]]
        if any(predictions[i].error is None for i in judged):
            answer = study_answer(predictions, model.classifier.bundle.decision, judged=judged)
            found.append({"model": model.name, **answer.as_dict()})
    return found


def _refuse_if_all_failed(files: Sequence[Json]) -> None:
    """Makes the problems of files the problem of the request where no file is left.

    Raises:
        Problem: If every file has a problem; with the status of the first.
    """
    problems = [file["problem"] for file in files]
    if any(problem is None for problem in problems):
        return
    first = problems[0]
    errors = [{"file": file["file"], "problem": file["problem"]} for file in files]
    name = str(first["type"]).rsplit(":", 1)[-1]
    raise Problem(int(first["status"]), name, str(first["title"]), str(first["detail"]), errors=errors)
