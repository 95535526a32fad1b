"""The queue: a crash at any time loses no series and repeats no result."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from reslink.errors import UsageError
from reslink.serving.dicom.queue import EXCLUDED, REFUSED, REPLACED, STATES, Queue


@pytest.fixture
def queue(tmp_path):
    with Queue(tmp_path / "queue").opened() as opened:
        yield opened


def state_of(queue: Queue) -> dict[str, list[str]]:
    return {state: sorted(queue.keys(state)) for state in STATES if queue.keys(state)}


def test_a_series_goes_through_every_state(queue):
    queue.add("k", "1.1", b"a")
    queue.add("k", "1.2", b"b")
    assert state_of(queue) == {"receiving": ["k"]}
    assert queue.close("k")
    assert state_of(queue) == {"working": ["k"]}
    queue.store_results("k", [("0-report.dcm", b"r"), ("0-map.dcm", b"m")], ["CT"])
    assert state_of(queue) == {"sending": ["k"], "kept": ["k"]}
    assert [path.read_bytes() for path in queue.unsent("k")] == [b"m", b"r"]
    for path in queue.unsent("k"):
        queue.remove_sent(path)
    queue.finish("k")
    assert state_of(queue) == {"kept": ["k"], "done": ["k.json"]}
    assert queue.record("k")["results"] == 2
    assert queue.record("k")["summary"] == ["CT"]


def test_an_instance_received_twice_counts_once(queue):
    queue.add("k", "1.1", b"a")
    queue.add("k", "1.1", b"b")
    [path] = (queue.folder / "receiving" / "k").glob("*.dcm")
    assert path.read_bytes() == b"b"


def test_an_instance_that_arrives_again_with_other_content_is_counted(queue):
    for instance, content in (("1.1", b"a"), ("1.1", b"a"), ("1.2", b"b"), ("1.2", b"c"), ("1.2", b"d")):
        queue.add("k", instance, content)
    assert queue.close("k")
    assert queue.count_marks("working", "k", REPLACED) == 1


def test_file_names_contain_no_uid(queue):
    queue.add("k", "1.2.840.99999", b"a")
    assert not list(queue.folder.rglob("*99999*"))


def test_parts_of_a_killed_write_are_removed(tmp_path):
    """A kill between the write and the rename of the record or of the attempts leaves a part."""
    with Queue(tmp_path / "q").opened() as queue:
        queue.add("k", "1.1", b"a")
        assert queue.close("k")
    for path in ("done/.k.json.123-0123abcd.part", "working/k/..attempts.123-0123abcd.part"):
        (tmp_path / "q" / path).write_text("{")
    with Queue(tmp_path / "q").opened() as queue:
        assert state_of(queue) == {"working": ["k"]}
        assert not list(queue.folder.rglob("*.part"))


def test_late_slices_join_the_kept_slices(queue):
    queue.add("k", "1.1", b"a")
    queue.close("k")
    queue.store_results("k", [("r.dcm", b"r")], [])
    queue.add("k", "1.2", b"b")
    assert not queue.close("k"), "its first results are not yet sent"
    queue.remove_sent(queue.unsent("k")[0])
    queue.finish("k")
    assert queue.close("k")
    assert len(list((queue.folder / "working" / "k").glob("*.dcm"))) == 2
    assert queue.missing("k") == 0
    assert "kept" not in state_of(queue)


def test_late_slices_alone_are_recognized(tmp_path):
    with Queue(tmp_path / "q", keep=0.0).opened() as queue:
        queue.add("k", "1.1", b"a")
        queue.add("k", "1.2", b"b")
        queue.close("k")
        queue.store_results("k", [("r.dcm", b"r")], [])
        queue.remove_sent(queue.unsent("k")[0])
        queue.finish("k")
        time.sleep(0.02)
        queue.expire()
        assert state_of(queue) == {"done": ["k.json"]}
        queue.add("k", "1.3", b"c")
        queue.close("k")
        assert queue.missing("k") == 2


def classify_once(queue: Queue, *instances: str, results: int = 1, summary: str = "") -> None:
    for instance in instances:
        queue.add("k", instance, b"a")
    assert queue.close("k")
    queue.store_results("k", [(f"{i}.dcm", b"r") for i in range(results)], [summary])
    for path in queue.unsent("k"):
        queue.remove_sent(path)
    queue.finish("k")


def test_a_refusal_of_late_slices_does_not_make_later_ones_a_series(tmp_path):
    with Queue(tmp_path / "q", keep=0.0).opened() as queue:
        classify_once(queue, "1.1", "1.2")
        time.sleep(0.02)
        queue.expire()
        classify_once(queue, "1.3", results=0, summary="late")
        queue.add("k", "1.4", b"d")
        assert queue.close("k")
        assert queue.missing("k") == 2, "two late slices would be classified as a series"


@pytest.mark.parametrize("is_failed", [False, True])
@pytest.mark.parametrize("again", ["1", "2"])
def test_late_slices_of_a_series_without_results_are_no_series(tmp_path, is_failed, again):
    """Programs that correct a series may give its slices other UIDs."""
    with Queue(tmp_path / "q", keep=0.0).opened() as queue:
        for i in range(4):
            queue.add("k", f"1.{i}", b"a")
        assert queue.close("k")
        if is_failed:
            queue.fail("k")
        else:
            queue.store_results("k", [], ["incomplete"])
            queue.finish("k")
            time.sleep(0.02)
            queue.expire()
        for _ in range(2):
            queue.add("k", "1.8", b"b")
            assert queue.close("k")
            assert queue.missing("k") == 4, "one late slice would be classified as a series"
            queue.store_results("k", [], ["late"])
            queue.finish("k")
            time.sleep(0.02)
            queue.expire()
        for i in range(3):
            queue.add("k", f"{again}.{i}", b"c")
        assert queue.close("k")
        assert queue.missing("k") == 0, "a series was corrected: one of its slices was removed"


def test_a_failed_series_keeps_the_results_that_were_refused_before(queue):
    classified = [("0-report.dcm", b"r")]
    queue.add("k", "1.1", b"a")
    queue.close("k")
    queue.store_results("k", classified, [])
    queue.set_aside(queue.unsent("k")[0])
    queue.finish("k")
    queue.add("k", "1.2", b"b")
    queue.close("k")
    queue.fail("k")
    assert (queue.folder / "failed" / "k" / "0-report.dcm").read_bytes() == b"r"
    assert len(list((queue.folder / "failed" / "k").glob("*.dcm"))) == 3


def test_slices_are_kept_while_late_slices_wait(tmp_path):
    """If the archive cannot be reached for longer than ``keep``, the late slice and the earlier slices both wait."""
    with Queue(tmp_path / "q", keep=0.0).opened() as queue:
        queue.add("k", "1.1", b"a")
        queue.close("k")
        queue.store_results("k", [("r.dcm", b"r")], [])
        queue.add("k", "1.2", b"b")
        assert not queue.close("k")
        time.sleep(0.02)
        queue.expire()
        queue.remove_sent(queue.unsent("k")[0])
        queue.finish("k")
        assert queue.close("k")
        assert queue.missing("k") == 0


def test_a_full_disk_leaves_no_partial_file(queue, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            queue.add("k", "1.1", b"a")
    assert list((queue.folder / "incoming").iterdir()) == []


def test_kept_slices_expire(tmp_path):
    with Queue(tmp_path / "q", keep=100.0).opened() as queue:
        queue.add("k", "1.1", b"a")
        queue.close("k")
        queue.store_results("k", [], ["refused"])
        queue.expire()
        assert queue.keys("kept") == ["k"]
        old = time.time() - 101
        os.utime(queue.folder / "kept" / "k", (old, old))
        queue.expire()
        assert queue.keys("kept") == []


def test_only_one_process_opens_it(queue):
    with pytest.raises(UsageError, match="is in use by another reslink process"), Queue(queue.folder).opened():
        pass


def test_only_its_owner_can_read_it(queue):
    assert queue.folder.stat().st_mode & 0o077 == 0


def test_the_next_slice_removes_the_release_mark(queue):
    queue.add("k", "1.1", b"a")
    assert not queue.released("k")
    queue.release("k")
    assert queue.released("k")
    queue.add("k", "1.2", b"b")
    assert not queue.released("k")


def test_attempts_are_counted_over_restarts(tmp_path):
    with Queue(tmp_path / "q").opened() as queue:
        queue.add("k", "1.1", b"a")
        queue.close("k")
        assert queue.attempt("k") == 1
    with Queue(tmp_path / "q").opened() as queue:
        assert queue.attempt("k") == 2
        queue.fail("k")
        assert state_of(queue) == {"failed": ["k"]}


class Killed(BaseException):
    """Simulates a crash: no code of the queue handles it."""


def life(queue: Queue, done: list[bytes]) -> None:
    """Processes everything in the queue, as the node does."""
    for key in queue.keys("receiving"):
        queue.close(key)
    for key in queue.keys("working"):
        content = b"+".join(path.read_bytes() for path in sorted((queue.folder / "working" / key).glob("*.dcm")))
        queue.store_results(key, [("r.dcm", content)], [])
    for key in queue.keys_to_send():
        for path in queue.unsent(key):
            done.append(path.read_bytes())
            queue.remove_sent(path)
        queue.finish(key)


def test_a_crash_before_any_file_system_call_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call that changes the file system is once the last of a run; the following runs complete the work."""
    import shutil

    changing = [(Path, "replace"), (Path, "unlink"), (Path, "mkdir"), (shutil, "rmtree"), (os, "fsync")]
    changing += [(os, "unlink"), (os, "rmdir")]  # within rmtree
    limit, ended = 0, False
    while not ended:
        limit += 1
        folder, sent, acknowledged = tmp_path / str(limit), [], set()
        left = [limit]

        def limited(original, left=left):
            def call(*args, **options):
                left[0] -= 1
                if left[0] == 0:
                    raise Killed
                return original(*args, **options)

            return call

        with monkeypatch.context() as patch:
            for owner, name in changing:
                patch.setattr(owner, name, limited(getattr(owner, name)))
            try:
                with Queue(folder).opened() as queue:
                    for number in (1, 2):
                        queue.add("k", f"1.{number}", str(number).encode())
                        acknowledged.add(number)
                    life(queue, sent)
                ended = True
            except Killed:
                pass
        with Queue(folder).opened() as queue:  # the sender sends again what was not acknowledged
            for number in {1, 2} - acknowledged:
                queue.add("k", f"1.{number}", str(number).encode())
            life(queue, sent)
            life(queue, sent)
            assert {part for content in sent for part in content.split(b"+")} == {b"1", b"2"}, f"lost at step {limit}"
            assert set(sent) in ({b"1+2"}, {b"2+1"}), f"classified in parts at step {limit}"
            assert not set(state_of(queue)) - {"kept", "done"}, f"stuck at step {limit}"
    assert limit > 20


def test_a_refused_slice_is_remembered_until_it_arrives(tmp_path):
    with Queue(tmp_path / "q").opened() as queue:
        queue.add("k", "1.1", b"a")
        for instance in ("1.2", "1.2", "1.3"):
            queue.mark("k", instance, REFUSED)
    with Queue(tmp_path / "q").opened() as queue:  # after a restart
        assert queue.count_marks("receiving", "k", REFUSED) == 2
        queue.add("k", "1.2", b"b")
        assert queue.count_marks("receiving", "k", REFUSED) == 1
        queue.close("k")
        assert queue.missing_slices("k") == ["1 of its slices was refused and did not arrive later"]
        queue.store_results("k", [], [])
        queue.finish("k")
        queue.add("k", "1.4", b"d")
        queue.close("k")
        assert queue.missing_slices("k") == ["1 of its slices was refused and did not arrive later"], "the mark was kept"
        queue.store_results("k", [], [])
        queue.finish("k")
        queue.add("k", "1.3", b"c")
        queue.close("k")
        assert queue.missing_slices("k") == []


def test_a_mark_that_cannot_be_written_is_written_later(queue, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "touch", full)
        patch.setattr(Path, "mkdir", full)
        queue.mark("k", "1.1", REFUSED)
        assert queue.count_marks("receiving", "k", REFUSED) == 1
    queue.add("k", "1.2", b"b")
    assert len(list((queue.folder / "receiving" / "k").glob("*.refused"))) == 1


def test_an_excluded_instance_begins_no_series_but_is_counted(queue):
    queue.mark("k", "1.1", EXCLUDED)
    assert queue.keys("receiving") == []
    queue.add("k", "1.2", b"b")
    queue.mark("k", "1.3", EXCLUDED)
    queue.close("k")
    assert queue.count_marks("working", "k", EXCLUDED) == 2


def test_marks_without_a_series_do_not_pile_up(queue):
    for number in range(1100):
        queue.mark(str(number), "1.1", EXCLUDED)
    assert len(queue._unwritten_marks) == 1000


def test_endless_marks_of_one_series_do_not_pile_up(queue):
    for number in range(1100):
        queue.mark("k", f"1.{number}", EXCLUDED)
    assert len(queue._unwritten_marks["k"]) == 1000
    queue.mark("k", "2.1", REFUSED)
    assert queue.count_marks("receiving", "k", REFUSED) == 1, "excluded instances leave room for refused ones"


def test_marks_are_counted_under_the_lock(queue):
    """Another thread may add one at the same time."""

    class Marks(set[str]):
        def __iter__(self):
            assert queue._lock.locked()
            return super().__iter__()

    queue._unwritten_marks["k"] = Marks({"1.refused"})
    assert queue.count_marks("receiving", "k", REFUSED) == 1


def test_an_interrupted_series_is_marked_until_it_is_sent_again(queue):
    queue.add("k", "1.1", b"a")
    queue.close("k", interrupted=True)
    assert queue.missing_slices("k") == ["its association was not released, so that slices may be missing"]
    queue.store_results("k", [], [])
    queue.finish("k")
    queue.add("k", "1.1", b"a")
    queue.close("k")
    assert queue.missing_slices("k") == []
