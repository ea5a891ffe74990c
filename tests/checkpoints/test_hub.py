"""Files come whole or not at all: resumed, checked, locked; and one error that says where it was looked."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import subprocess
import sys
import textwrap
import threading
import zipfile
from pathlib import Path

import pytest

from sam2core.checkpoints import hub
from sam2core.checkpoints.files import FileError


def _archive(size: int) -> bytes:
    """A zip of just so many bytes, as a torch file is one."""
    made = _zip(random.Random(0).randbytes(size - len(_zip(b""))))
    assert len(made) == size
    return made


def _zip(payload: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(zipfile.ZipInfo("w/data/0"), payload)
    return made.getvalue()


CONTENT = _archive(300_000)
SHA = hashlib.sha256(CONTENT).hexdigest()
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def url(server):
    server.files["/w.pt"] = CONTENT
    return server.address + "/w.pt"


def fetch(url, tmp_path, **changes):
    return hub.download(url, tmp_path / "w.pt", **({"size": len(CONTENT), "sha256": SHA} | changes))


def left(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock"))


def test_a_file_arrives_whole_and_is_not_asked_for_twice(server, url, tmp_path):
    seen = []
    path = fetch(url, tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert seen[0] == (0, len(CONTENT)) and seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert fetch(url, tmp_path) == path
    assert len(server.gets()) == 1
    assert left(tmp_path) == ["w.pt"]


def test_a_broken_connection_is_taken_up_where_it_broke(server, url, tmp_path):
    server.cuts = [100_000, 50_000]
    assert fetch(url, tmp_path).read_bytes() == CONTENT
    assert [part for _, part in server.gets()] == [None, "bytes=100000-", "bytes=150000-"]


def test_an_interrupted_download_is_resumed_by_the_next_one(server, url, tmp_path):
    server.cuts = [100_000, 0, 0]
    with pytest.raises((FileError, OSError), match="100000 bytes"):
        fetch(url, tmp_path)
    assert not (tmp_path / "w.pt").exists() and (tmp_path / "w.pt.part").stat().st_size == 100_000
    server.cuts, server.asked = [], []
    assert fetch(url, tmp_path).read_bytes() == CONTENT
    assert server.gets() == [("/w.pt", "bytes=100000-")]
    assert left(tmp_path) == ["w.pt"]


def test_a_server_without_ranges_sends_it_all_again(server, url, tmp_path):
    server.ranges = False
    server.cuts = [100_000]
    assert fetch(url, tmp_path).read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_not_glued_to_the_old_part(server, url, tmp_path):
    server.files["/w.pt"] = bytes(len(CONTENT))
    server.cuts = [100_000, 0, 0]
    with pytest.raises((FileError, OSError)):
        fetch(url, tmp_path)
    server.files["/w.pt"] = CONTENT
    server.cuts = []
    assert fetch(url, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("wrong", [CONTENT[:-1] + b"?", CONTENT[:-5], CONTENT + b"more", b"<html>not here</html>"])
def test_what_is_not_the_file_is_refused_and_removed(server, url, tmp_path, wrong):
    server.files["/w.pt"] = wrong
    with pytest.raises(FileError, match="checksum|bytes arrived|announces"):
        fetch(url, tmp_path)
    assert left(tmp_path) == []
    server.files["/w.pt"] = CONTENT
    assert fetch(url, tmp_path).read_bytes() == CONTENT


def test_a_whole_part_with_wrong_bytes_is_not_renamed(server, url, tmp_path):
    (tmp_path / "w.pt.part").write_bytes(bytes(len(CONTENT)))
    with pytest.raises(FileError, match="checksum"):
        fetch(url, tmp_path)
    assert left(tmp_path) == []


def test_a_part_longer_than_the_file_starts_again(server, url, tmp_path):
    (tmp_path / "w.pt.part").write_bytes(CONTENT + b"x")
    assert fetch(url, tmp_path).read_bytes() == CONTENT
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "w.pt.part").write_bytes(CONTENT + b"x")
    assert fetch(url, tmp_path / "v", size=None).read_bytes() == CONTENT  # told by the server: 416


def test_a_finished_file_cut_short_is_fetched_again(server, url, tmp_path):
    (tmp_path / "w.pt").write_bytes(CONTENT[:1000])
    source = hub.Source("w.pt", url=url, size=len(CONTENT), sha256=SHA)
    with pytest.raises(hub.NotFoundError, match="holds 1000 bytes, wanted 300000"):
        hub.locate(source, cache_dir=tmp_path, offline=True)
    assert hub.locate(source, cache_dir=tmp_path, offline=False).read_bytes() == CONTENT


def test_two_at_once_download_once(server, url, tmp_path):
    server.hold = threading.Event()
    found = []
    threads = [threading.Thread(target=lambda: found.append(fetch(url, tmp_path))) for _ in range(3)]
    for thread in threads:
        thread.start()
    server.hold.set()
    for thread in threads:
        thread.join(20)
    assert len(found) == 3 and len(server.gets()) == 1
    assert found[0].read_bytes() == CONTENT


def test_the_error_lists_every_place_with_its_reason(server, tmp_path):
    source = hub.Source("w.pt", url=server.address + "/gone.pt", size=1)
    with pytest.raises(hub.NotFoundError) as error:
        hub.locate(source, cache_dir=tmp_path, offline=False, ways=("one", "two", "three"))
    text = str(error.value)
    assert "w.pt could not be had" in text and "404" in text and str(tmp_path / "w.pt") in text
    assert "1. one" in text and "3. three" in text
    assert [place for place, _ in error.value.tried] == [str(tmp_path / "w.pt"), source.url]


def test_a_begun_part_is_told_of_offline(server, url, tmp_path):
    server.cuts = [100_000, 0, 0]
    with pytest.raises((FileError, OSError)):
        fetch(url, tmp_path)
    with pytest.raises(hub.NotFoundError, match="100000 bytes of it are") as error:
        hub.locate(hub.Source("w.pt", url=url, size=len(CONTENT)), cache_dir=tmp_path, offline=True)
    assert "not asked: offline" in str(error.value)


def test_an_unknown_source_is_named():
    with pytest.raises(FileError, match="mirror; known: hub, direct"):
        hub.locate(hub.Source("w.pt", url="http://127.0.0.1:1/w.pt"), sources=("mirror",))


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SAM2CORE_CACHE", str(tmp_path))
    assert hub.cache_folder() == tmp_path
    monkeypatch.delenv("SAM2CORE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert hub.cache_folder() == tmp_path / "sam2core" / "checkpoints"


# The hub's client reads its environment when imported, so each of these runs in a process of its own.


def in_a_process(script, tmp_path, address, **environment):
    variables = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and k != "TRANSFORMERS_OFFLINE"}
    variables |= {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "SAM2CORE_CACHE": str(tmp_path / "direct")}
    variables |= {"PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"} | environment
    head = f"""
        import json, sys
        from sam2core.checkpoints import hub
        SIZE, SHA, ADDRESS = {len(CONTENT)}, {SHA!r}, {address!r}
        def find(repo="acme/model", url=None, size=SIZE, sha256=SHA, revision=None, **options):
            source = hub.Source("w.pt", repo=repo, url=url, size=size, sha256=sha256, revision=revision)
            try:
                return str(hub.locate(source, **options))
            except hub.NotFoundError as error:
                return error.tried
    """
    code = textwrap.dedent(head) + textwrap.dedent(script) + "\nassert 'torch' not in sys.modules\n"
    done = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


RESOLVE = "/acme/model/resolve/main/w.pt"


def test_the_hub_is_asked_once_and_its_cache_serves_offline(server, tmp_path):
    server.files[RESOLVE] = CONTENT
    path = in_a_process("print(json.dumps(find()))", tmp_path, server.address)
    assert Path(path).read_bytes() == CONTENT and str(tmp_path / "hf") in path
    server.asked = []
    again = in_a_process("print(json.dumps(find()))", tmp_path, server.address, HF_HUB_OFFLINE="1")
    assert again == path and server.asked == []
    again = in_a_process("print(json.dumps([find(), find(offline=True)]))", tmp_path, server.address)
    assert again == [path, path] and server.asked == []


def test_a_revision_is_asked_of_the_hub(server, tmp_path):
    server.files["/acme/model/resolve/v2/w.pt"] = another = _zip(b"another")
    path = in_a_process("print(json.dumps(find(revision='v2', size=None, sha256=None)))", tmp_path, server.address)
    assert Path(path).read_bytes() == another


def test_a_wrong_file_of_the_hub_is_not_kept_and_the_direct_address_is_tried(server, tmp_path):
    server.files[RESOLVE] = CONTENT[:-1] + b"?"
    server.files["/direct/w.pt"] = CONTENT
    path = in_a_process("print(json.dumps(find(url=ADDRESS + '/direct/w.pt')))", tmp_path, server.address)
    assert path == str(tmp_path / "direct" / "w.pt") and Path(path).read_bytes() == CONTENT
    assert not list((tmp_path / "hf").rglob("w.pt"))


def test_a_damaged_file_in_the_hub_cache_is_fetched_again(server, tmp_path):
    server.files[RESOLVE] = CONTENT
    path = Path(in_a_process("print(json.dumps(find()))", tmp_path, server.address))
    path.resolve().write_bytes(CONTENT[:1000])
    tried = in_a_process("print(json.dumps(find(offline=True)))", tmp_path, server.address)
    assert tried[0][0] == str(path) and "holds 1000 bytes" in tried[0][1]
    again = in_a_process("print(json.dumps(find()))", tmp_path, server.address)
    assert Path(again).read_bytes() == CONTENT


def test_everything_fails_and_everything_is_listed(server, tmp_path):
    tried = in_a_process("print(json.dumps(find(url=ADDRESS + '/direct/w.pt')))", tmp_path, server.address)
    places, reasons = zip(*tried)
    assert places == (
        str(tmp_path / "hf" / "hub" / "models--acme--model"),
        str(tmp_path / "direct" / "w.pt"),
        server.address + RESOLVE,
        server.address + "/direct/w.pt",
    )
    assert "404" in reasons[2] or "EntryNotFound" in reasons[2]
    assert "404" in reasons[3]


def test_a_hub_out_of_reach_is_found_out_at_once(server, tmp_path):
    server.files["/direct/w.pt"] = CONTENT
    script = """
        import time
        begun = time.monotonic()
        path = find(url=sys.argv[1] if len(sys.argv) > 1 else DIRECT, endpoint="http://127.0.0.1:9")
        print(json.dumps([path, time.monotonic() - begun]))
    """
    script = f"DIRECT = {server.address + '/direct/w.pt'!r}\n" + textwrap.dedent(script)
    path, seconds = in_a_process(script, tmp_path, server.address)
    assert path == str(tmp_path / "direct" / "w.pt") and seconds < 10


def test_only_the_named_source_is_asked(server, tmp_path):
    server.files[RESOLVE] = server.files["/direct/w.pt"] = CONTENT
    path = in_a_process(
        "print(json.dumps(find(url=ADDRESS + '/direct/w.pt', sources=('direct',))))", tmp_path, server.address
    )
    assert path == str(tmp_path / "direct" / "w.pt")
    assert {asked[1] for asked in server.asked} == {"/direct/w.pt"}
