"""Weights are looked for in the caches and on the hub, and one error says where."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from sam2core.checkpoints import hub
from sam2core.checkpoints.files import FileError
from tests.checkpoints.made import CONTENT, SHA, zipped

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def url(server):
    server.files["/w.pt"] = CONTENT
    return server.address + "/w.pt"


def fetch(url, tmp_path, **changes):
    return hub.download(url, tmp_path / "w.pt", **({"size": len(CONTENT), "sha256": SHA} | changes))


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
    server.files["/acme/model/resolve/v2/w.pt"] = another = zipped(b"another")
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


def test_a_name_leads_nowhere_but_into_the_cache(tmp_path):
    for name in ("/etc/passwd", "../x", "a\\b"):
        with pytest.raises(FileError, match="is no name inside a folder"):
            hub.locate(hub.Source(name, url="http://127.0.0.1:9/x"), cache_dir=tmp_path, offline=True)
