"""Downloads over a real connection, to a server on this machine."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from sclm.knowledge import downloads

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTENT = b"[Term]\nid: CL:0000000\nname: cell\n"


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """Address of a server that knows one file, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            found = self.path == "/small.obo"
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(CONTENT) if found else 0))
            self.end_headers()
            if found:
                self.wfile.write(CONTENT)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}", asked
        http.shutdown()
        thread.join()


def entry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, sha256: str) -> None:
    monkeypatch.setenv("SCLM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setitem(downloads.RESOURCES, "small", downloads.Resource(url, sha256, "CC0", "a test"))


def test_fetched_once_and_kept(server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    address, asked = server
    entry(monkeypatch, tmp_path, f"{address}/small.obo", hashlib.sha256(CONTENT).hexdigest())
    first = downloads.fetch("small")
    assert first.read_bytes() == CONTENT
    assert first.parent == tmp_path / "data"
    assert downloads.fetch("small") == first
    assert asked == ["/small.obo"]


@pytest.mark.parametrize("fault", ["another content", "not there"])
def test_what_is_not_the_pinned_file_is_refused(
    server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str
) -> None:
    address, _ = server
    name, sha256 = ("small.obo", "0" * 64) if fault == "another content" else ("other.obo", "0" * 64)
    entry(monkeypatch, tmp_path, f"{address}/{name}", sha256)
    with pytest.raises(ConnectionError, match=r"SCLM_DATA_DIR|data"):
        downloads.fetch("small")
    assert not (tmp_path / "data" / name).exists()
