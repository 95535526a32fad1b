"""Request handlers of the upload routes: limits on concurrency and memory, file preparation, predictions and maps."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import functools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from reslink.errors import InputError, UsageError, as_sentence, suggest
from reslink.explain.onnx_maps import Maps
from reslink.imaging.dicom.series import group_slices
from reslink.imaging.image import Stated, Unit
from reslink.imaging.slice_selection import select_slices
from reslink.imaging.spellings import parse_sequence, parse_unit
from reslink.inference.prediction import Prediction, Slice, distinct_reasons
from reslink.inference.series import aggregate_slices
from reslink.inference.series_answers import SeriesAnswer, pooled_answer
from reslink.serving.http.limits import Limits
from reslink.serving.http.metrics import Metrics
from reslink.serving.http.models import ServedModel, render_map
from reslink.serving.http.problems import NOTICE, Problem, bad_request, busy, needs_series, too_large, unreadable_file
from reslink.serving.http.uploads.form import Form, Upload, receive_form, unpack_form
from reslink.serving.http.worker import DisplaySlice, PreparedFile, PrepareRequest
from reslink.serving.http.worker_pool import WorkerPool

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
Json = dict[str, Any]


class RequestHandlers:
    """Handlers of ``/v1/predict``, ``/v1/explain`` and ``/v1/view``.

    Args:
        models: The models; the first is the default model.
        pool: Worker processes that prepare files.
        limits: Limits of the service.
        metrics: Counts files and load.
    """

    def __init__(self, models: Sequence[ServedModel], pool: WorkerPool, limits: Limits, metrics: Metrics) -> None:
        self.models = {model.name: model for model in models}
        self.pool, self.limits, self.metrics = pool, limits, metrics
        self.active_requests = self.held_bytes = 0
        self._lock = threading.Lock()

    @contextmanager
    def memory(self) -> Iterator[Callable[[int], None]]:
        """Counts the memory of one request; yields a thread-safe function that adds bytes, and that raises after the block.

        Raises:
            Problem: With status 503 if all requests together would hold too much memory.
        """
        mine, ended = 0, False

        def hold(size: int) -> None:
            nonlocal mine
            with self._lock:
                if ended or self.held_bytes + size > self.limits.held_bytes:
                    raise busy("The active requests use all the memory that the service allows", 5)
                mine, self.held_bytes = mine + size, self.held_bytes + size

        try:
            yield hold
        finally:
            with self._lock:
                self.held_bytes, ended = self.held_bytes - mine, True
            self.metrics.set_load(self.active_requests, self.held_bytes)

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Occupies one of the slots for concurrent requests. Requests take it once received, so slow senders block none.

        Raises:
            Problem: With status 503 if all slots are in use.
        """
        self.check_free_slot()
        self.active_requests += 1
        self.metrics.set_load(self.active_requests, self.held_bytes)
        try:
            yield
        finally:
            self.active_requests -= 1
            self.metrics.set_load(self.active_requests, self.held_bytes)

    def check_free_slot(self) -> None:
        """Checks for a free slot.

        Raises:
            Problem: With status 503 if all slots are in use.
        """
        if self.active_requests >= self.limits.concurrent_requests:
            raise busy(f"The service is processing {self.active_requests} requests")

    async def handle(self, content_type: str, stream: AsyncIterator[bytes], handler: Callable[[Form], Awaitable[Json]]) -> Json:
        """Receives a form and calls a handler with it, within the time limit.

        Raises:
            Problem: If the request cannot be processed.
        """
        self.check_free_slot()
        with self.memory() as hold:
            received = await receive_form(content_type, stream, self.limits, hold)
            try:
                with self.slot():
                    async with asyncio.timeout(self.limits.answer_seconds):
                        return await handler(await unpack_form(received, self.limits, hold))
            except TimeoutError:
                raise busy(f"The request took longer than {self.limits.answer_seconds:g} seconds", 10) from None
            finally:
                await received.close()

    async def predict(self, form: Form) -> Json:
        """Returns the response of ``/v1/predict``."""
        models = self._requested_models(form)
        request = PrepareRequest(
            _preprocess_indices(models),
            form.number("slice"),
            head_areas=True,
            max_slices=self.limits.slices,
            unit=_unit(form),
            sequence=_sequence(form),
        )
        _check_no_slice_of_series(request.slice, models)
        prepared = await self._prepare(form, request)
        series = _group_series(prepared)
        in_series = {i for group, _ in series for i in group["files"]}
        single = [i for i, file in enumerate(prepared) if file is not None and i not in in_series]
        of_slices = [model for model in models if not model.answers_series]
        if not of_slices:
            for i in single:
                form.files[i].problem = _single_image(models)
        results = await self._run_limited(
            list(zip(form.files, prepared, strict=True)),
            lambda pair: _predict_file(pair[0], pair[1], of_slices, request.slice or 0),
        )
        files = [response for response, _ in results]
        _raise_if_all_failed(files)
        for i in single:
            files[i]["notes"] = [*files[i]["notes"], *_notes_on_single_image(models)]
        for group in (group for group, refusal in series if refusal is None):
            await _answer_series(group, [(prepared[i], results[i][1]) for i in group["files"]], models)
        return {"notice": NOTICE, "files": files, "series": [group for group, _ in series]}

    async def explain(self, form: Form) -> Json:
        """Returns the response of ``/v1/explain``: one slice of each file, by default the first."""
        models, target, member = self._requested_models(form), form.value("target"), form.number("member")
        if member is not None:
            form.files = [file for file in form.files if file.member == member]
        if not form.files:
            detail = f"No archive has a member {member}. Members are counted from 0. Choose another member."
            raise bad_request("no-such-member", "The archive member does not exist", detail)
        index = form.number("slice") or 0
        request = PrepareRequest(
            _preprocess_indices(models),
            index,
            display=True,
            max_slices=self.limits.slices,
            unit=_unit(form),
            sequence=_sequence(form),
        )
        prepared = await self._prepare(form, request)
        pairs = list(zip(form.files, prepared, strict=True))
        try:
            files = await self._run_limited(pairs, lambda pair: _explain_file(pair[0], pair[1], models, target, index))
        except UsageError as error:
            raise bad_request("no-such-class", "The class does not exist", error) from error
        _raise_if_all_failed(files)
        return {"notice": NOTICE, "files": files}

    async def view(self, form: Form) -> Json:
        """Returns the response of ``/v1/view``."""
        pixels = max(1, self.limits.view_pixels // len(form.files))
        prepared = await self._prepare(
            form, PrepareRequest(view_pixels=pixels, max_slices=self.limits.slices, unit=_unit(form))
        )
        files = await asyncio.to_thread(lambda: [_view_file(*pair) for pair in zip(form.files, prepared, strict=True)])
        _raise_if_all_failed(files)
        return {"notice": NOTICE, "files": files, "series": [group for group, _ in _group_series(prepared)]}

    def _requested_models(self, form: Form) -> list[ServedModel]:
        names = list(dict.fromkeys(name for name in form.fields.get("model", ()) if name))
        for name in names:
            if name not in self.models:
                raise _unknown_model(name[:80], list(self.models))
        return [self.models[name] for name in names] or [next(iter(self.models.values()))]

    async def _prepare(self, form: Form, request: PrepareRequest) -> list[PreparedFile | None]:
        """Prepares the files; stops at the first slice beyond the limit, as prepared slices stay in memory."""
        total = 0

        async def prepare(file: Upload) -> PreparedFile | None:
            nonlocal total
            sent = len(file.data)
            prepared = await self._prepare_file(file, request)
            total += 0 if prepared is None else prepared.slices
            if total > self.limits.slices:
                raise too_large(f"The files have {total} slices or more", f"{self.limits.slices} slices")
            form.hold((0 if prepared is None else prepared.size) - sent)
            return prepared

        return await self._run_limited(form.files, prepare)

    async def _prepare_file(self, file: Upload, request: PrepareRequest) -> PreparedFile | None:
        prepared = None
        if file.problem is None:
            try:
                prepared = await self.pool.prepare(file.data, request)
            except InputError as error:
                file.problem = unreadable_file(error)
            file.data = b""
        self.metrics.count_file("refused" if prepared is None else "read")
        return prepared

    async def _run_limited(self, items: Sequence[ItemT], work: Callable[[ItemT], Awaitable[ResultT]]) -> list[ResultT]:
        """Processes few items of one request at a time, so that a long series does not block other requests."""
        return await _gather_limited(items, work, self.pool.processes)


async def _gather_limited(
    items: Sequence[ItemT], work: Callable[[ItemT], Awaitable[ResultT]], concurrency: int
) -> list[ResultT]:
    semaphore = asyncio.Semaphore(concurrency)

    async def run(item: ItemT) -> ResultT:
        async with semaphore:
            return await work(item)

    tasks = [asyncio.ensure_future(run(item)) for item in items]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def _preprocess_indices(models: Sequence[ServedModel]) -> tuple[int, ...]:
    return tuple({model.preprocess_index for model in models})


def _unit(form: Form) -> Unit | None:
    """Returns the unit that the client states, None if it states none."""
    try:
        return parse_unit(form.value("unit"))
    except UsageError as error:
        raise bad_request("bad-field", "The unit does not exist", error) from error


def _sequence(form: Form) -> str | None:
    """Returns the MR sequence that the client states, None if it states none."""
    return parse_sequence((form.value("sequence") or "").strip() or None)


def _check_no_slice_of_series(index: int | None, models: Sequence[ServedModel]) -> None:
    """Checks that no single slice is requested from a series model.

    Raises:
        Problem: With status 400.
    """
    names = [model.name for model in models if model.answers_series]
    if index is not None and names:
        detail = (
            f"Slice {index} was requested from {', '.join(names)}. Such a model answers once for all slices of a series. "
            "Omit the field slice, or choose another model."
        )
        raise bad_request("bad-field", "A series model answers for no single slice", detail)


def _single_image(models: Sequence[ServedModel]) -> Problem:
    names = ", ".join(model.name for model in models)
    return needs_series(
        f"The image is not part of a series of slices. {names} answers once for all slices of a series. "
        "Send a volume, or all DICOM files of the series in one request or zip archive."
    )


def _notes_on_single_image(models: Sequence[ServedModel]) -> list[str]:
    """Returns which models have no answer for a single image, if others have one."""
    if all(model.answers_series for model in models):
        return []
    return [f"{model.name} answers for series, and this image is not part of one" for model in models if model.answers_series]


def _unknown_model(name: str, names: Sequence[str]) -> Problem:
    detail = f"The model {name!r} does not exist. Available models: {', '.join(names)}. {as_sentence(suggest(name, names))}"
    return bad_request("no-such-model", "The model does not exist", detail)


async def _predict_file(
    file: Upload, prepared: PreparedFile | None, models: Sequence[ServedModel], first: int
) -> tuple[Json, dict[str, list[Prediction]]]:
    """Returns the response for a file, and its predictions by model. A case of the models is a slice."""
    if prepared is None:
        return _file_entry(file, prepared), {}
    by_model: dict[str, list[Prediction]] = {}
    for model in models:
        slices, concurrency = prepared.pixels[model.preprocess_index], 2 * model.batcher.batch_size
        predict = functools.partial(_predict_slice, model, prepared.stated)
        by_model[model.name] = await _gather_limited(slices, predict, concurrency)
    answers = [
        {
            "model": model.name,
            "scope": model.scope,
            "slices": [_slice_entry(prediction, i) for i, prediction in enumerate(by_model[model.name], first)],
        }
        for model in models
    ]
    return {**_file_entry(file, prepared), "answers": answers}, by_model


async def _predict_slice(model: ServedModel, stated: Stated, pixels: Any) -> Prediction:
    return Prediction("", error=pixels) if isinstance(pixels, str) else await model.predict(pixels, stated)


def _slice_entry(prediction: Prediction, index: int) -> Json:
    entry = prediction.as_dict()
    del entry["path"], entry["notes"]  # the file has them
    return {"slice": index, **entry}


def _file_entry(file: Upload, prepared: PreparedFile | None) -> Json:
    """Returns the members that describe a file in every response."""
    problem = None if file.problem is None else file.problem.as_dict()
    entry: Json = {"file": file.name, "part": file.part, "member": file.member, "format": file.format, "problem": problem}
    if prepared is not None:
        entry |= {"slices": prepared.slices, "unit": prepared.unit, "modality": prepared.modality, "notes": prepared.notes}
    return entry


async def _explain_file(
    file: Upload, prepared: PreparedFile | None, models: Sequence[ServedModel], target: str | None, index: int
) -> Json:
    if prepared is None:
        return _file_entry(file, prepared)
    explanations = []
    for model in models:
        pixels, display = prepared.pixels[model.preprocess_index][0], prepared.display[model.preprocess_index][0]
        if isinstance(pixels, str):
            file.problem = unreadable_file(InputError(pixels, "A slice must show a head", "Choose another slice"))
            break
        shape = list(display.gray.shape)
        refused = await model.refusal(pixels, prepared.stated)
        if refused is not None:
            entry = _slice_entry(refused, index)
            explanations.append({"model": model.name, "target": None, "shape": shape, "maps": [], **entry})
            continue
        prediction, explained, maps = await model.explain(pixels, target)
        rendered = await asyncio.to_thread(_render_maps, display, maps, explained)
        entry = _slice_entry(prediction, index)
        explanations.append({"model": model.name, "target": explained, "shape": shape, "maps": rendered, **entry})
    return {**_file_entry(file, prepared), "explanations": explanations}


def _render_maps(display: DisplaySlice, maps: Maps, target: str) -> list[Json]:
    return [render_map(display, name, heat, target) for name, heat in maps.items()]


def _view_file(file: Upload, prepared: PreparedFile | None) -> Json:
    entry = _file_entry(file, prepared)
    if prepared is None or prepared.view is None:
        return entry
    view = prepared.view
    members = {field.name: getattr(view, field.name) for field in dataclasses.fields(view) if field.name != "packed"}
    return entry | members | {"data": base64.b64encode(view.packed).decode()}


def _group_series(prepared: Sequence[PreparedFile | None]) -> list[tuple[Json, str | None]]:
    """Groups the files of each series: a volume, or two and more parallel DICOM slices, ordered along their normal.

    A series that the DICOM node would refuse comes with the reason, which is also its note.
    """
    volumes = [(i, file) for i, file in enumerate(prepared) if file is not None and file.slices > 1]
    series = [_series_entry([i], file.geometry.get("excluded")) for i, file in volumes]
    slices = [None if file is None or file.slices != 1 else (file.geometry, file.slice_format) for file in prepared]
    return series + [_series_entry(group.indices, group.refusal, group.notes) for group in group_slices(slices)]


def _series_entry(files: list[int], refusal: str | None, notes: Sequence[str] = ()) -> tuple[Json, str | None]:
    return {"files": files, "answers": [], "notes": list(notes) if refusal is None else [refusal]}, refusal


_Members = Sequence[tuple[PreparedFile | None, dict[str, list[Prediction]]]]
"""The files of a series in order, each with its predictions by model whose cases are slices."""


async def _answer_series(group: Json, members: _Members, models: Sequence[ServedModel]) -> None:
    """Adds the answers of the models to a series, or the reasons why there is none."""
    of_slices = [model for model in models if not model.answers_series]
    pooled = [(model, await _pool_series(model, members)) for model in models if model.answers_series]
    group["answers"] = await asyncio.to_thread(_series_predictions, members, of_slices)
    group["answers"] += [_pooled_entry(model, answer) for model, answer in pooled if answer.result is not None]
    notes = group["notes"] if group["answers"] else _refusals(members)
    group["notes"] = list(dict.fromkeys([*notes, *_unanswered(pooled, len(models))]))


def _series_predictions(members: _Members, models: Sequence[ServedModel]) -> list[Json]:
    """Returns the prediction of each model whose cases are slices; empty if only one slice of a volume was requested.

    Args:
        members: The files of the series in order, each with its predictions by model.
        models: The models; their case is a slice.
    """
    areas = [area for file, _ in members if file is not None for area in file.head_areas]
    if len(areas) != sum(file.slices for file, _ in members if file is not None):
        return []
    selected, answers = select_slices(areas), []
    for model in models:
        predictions = [prediction for _, by_model in members for prediction in by_model[model.name]]
        if any(predictions[i].probabilities is not None for i in selected):
            aggregated = aggregate_slices(predictions, model.classifier.bundle.decision, selected=selected)
            answers.append({"model": model.name, "scope": model.scope, **aggregated.as_dict()})
    return answers


async def _pool_series(model: ServedModel, members: _Members) -> SeriesAnswer:
    """Returns the answer of a series model, which sees the selected slices only."""
    slices = [one for file, _ in members if file is not None for one in _slices_to_pool(model, file)]

    async def run(i: int) -> None:
        if (pixels := slices[i].pixels) is not None:
            slices[i] = replace(slices[i], pixels=None, outputs=await model.outputs(pixels))

    await _gather_limited(select_slices([one.head_area or 0 for one in slices]), run, 2 * model.batcher.batch_size)
    return await asyncio.to_thread(pooled_answer, model.classifier, slices, "")


def _slices_to_pool(model: ServedModel, file: PreparedFile) -> list[Slice]:
    refused = model.classifier.bundle.scope.refusal(file.stated)
    slices = []
    for pixels, area in zip(file.pixels[model.preprocess_index], file.head_areas, strict=True):
        error, rows = (pixels, None) if isinstance(pixels, str) else (None, None if refused else pixels)
        slices.append(Slice("", None, rows, error, head_area=area, stated=file.stated, refused=refused))
    return slices


def _pooled_entry(model: ServedModel, answer: SeriesAnswer) -> Json:
    """Returns the response entry of a series model: what a slice has, and how slices were combined."""
    members = answer.as_dict()
    of_answer = {name: members[name] for name in ("prediction_set", "ood_score", "threshold", "certainty")}
    return {
        "model": model.name,
        "scope": model.scope,
        **of_answer,
        **(answer.result.as_dict() if answer.result is not None else {}),
    }


def _unanswered(pooled: Sequence[tuple[ServedModel, SeriesAnswer]], n_models: int) -> list[str]:
    """Returns why series models have no answer, with the name of the model if there are others."""
    reasons = [(model, answer.error or "; ".join(answer.reasons or ())) for model, answer in pooled if answer.result is None]
    return [f"{model.name}: {reason}" if n_models > 1 else reason for model, reason in reasons]


def _refusals(members: _Members) -> list[str]:
    """Returns why no model classifies the slices of a series; empty if one does."""
    predictions = [prediction for _, by_model in members for each in by_model.values() for prediction in each]
    return list(distinct_reasons(predictions)) if all(prediction.is_refused for prediction in predictions) else []


def _raise_if_all_failed(files: Sequence[Json]) -> None:
    """Raises the first file's problem for the whole request if every file has one.

    Raises:
        Problem: If every file has a problem.
    """
    problems = [file["problem"] for file in files]
    if any(problem is None for problem in problems):
        return
    first = problems[0]
    errors = [{"file": file["file"], "problem": file["problem"]} for file in files]
    name = str(first["type"]).rsplit(":", 1)[-1]
    raise Problem(int(first["status"]), name, str(first["title"]), str(first["detail"]), errors=errors)
