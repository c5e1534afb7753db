"""No network, folders that cannot be written, two processes at once: the main road goes on, and what cannot be done is said."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

import sclm
from sclm.calls import run

if TYPE_CHECKING:
    from pathlib import Path

    import anndata as ad

# Nobody, root included, can make a folder here.
NOWHERE = "/proc/nowhere"
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")

ROAD = """
import socket, sys, warnings
def refuse(*args, **kwargs):
    raise OSError("the network was asked for")
socket.socket.connect = socket.socket.connect_ex = socket.create_connection = socket.getaddrinfo = refuse
import sclm
adata = sclm.datasets.pbmc68k()
reference, query = adata[:500].copy(), adata[500:].copy()
sclm.tl.annotate(query, reference=reference, label_key="cell_type", min_confidence=0.6)
sclm.tl.describe(query, "evidence", groupby="sclm_cell_type")
sclm.tl.pathways(query, {"a": list(adata.var_names[:20])}, min_genes=1)
section = sclm.datasets.simulate_section(query, "cell_type", n_spots=40, cells_per_spot=3, seed=0)
sclm.tl.map_spatial(section, reference, label_key="cell_type")
sclm.tl.interface(section, "B cell", groups="sclm_dominant_cell_type", threshold=0.1)
model = sclm.train("pgl", reference, obs_keys=["cell_type"], preset="tiny", max_epochs=1, width=16, layers=1, n_programmes=2,
                   n_levels=8, programme_iterations=2, progress_bar=False, accelerator="cpu")
cells = sclm.tl.generate(sclm.request(5, cell_type="B cell"), model)
encoder = sclm.train("scgpt", reference[:60, :200].copy(), preset="tiny", max_epochs=1, width=16, n_layers=1, n_heads=2, progress_bar=False, accelerator="cpu")
sclm.tl.embed(query, encoder)
sclm.models.available()
print("sclm.knowledge.Ontology", len(sclm.knowledge.Ontology.load("cl").resolve("T cell").term_id), query.n_obs, cells.n_obs)
"""


@linux
def test_the_main_road_needs_no_network_and_no_folder_to_write(tmp_path: Path) -> None:
    env = {
        **os.environ,
        "HOME": NOWHERE,
        "XDG_CACHE_HOME": NOWHERE,
        "SCLM_DATA_DIR": NOWHERE,
        "MPLCONFIGDIR": str(tmp_path),
    }
    ran = subprocess.run(
        [sys.executable, "-c", ROAD], capture_output=True, text=True, check=False, env=env, cwd=tmp_path
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.split()[-2:] == ["200", "5"]
    assert list(tmp_path.glob("*.h5ad")) == []


READ_ONLY = """
import numba.core.caching
numba.core.caching.CacheImpl._locator_classes = []  # numba finds no folder for its machine code
import scipy.sparse as sp
from sclm.cells.hashes import cell_hashes
from sclm.knowledge import Ontology
print(len(cell_hashes(sp.csr_matrix([[1.0, 0.0]]))), Ontology.load("cl").similarity("CL:0000236", "CL:0000084", "pagerank") > 0)
"""


def test_a_read_only_installation_compiles_in_each_session() -> None:
    ran = subprocess.run([sys.executable, "-c", READ_ONLY], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.split() == ["1", "True"]


@linux
def test_a_converted_checkpoint_that_cannot_be_kept_is_used_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: ad.AnnData, trained: dict[str, Any], caplog: Any
) -> None:
    from sclm.models import foreign
    from sclm.models.scgpt import checkpoint

    monkeypatch.setenv("SCLM_DATA_DIR", NOWHERE)
    (tmp_path / "weights").write_bytes(b"1")
    monkeypatch.setattr(checkpoint, "sources", lambda path: [tmp_path / "weights"])
    monkeypatch.setattr(checkpoint, "convert", lambda path: trained["scgpt"])
    with caplog.at_level("WARNING", "sclm"):
        model = foreign.load_foreign(tmp_path, "scgpt")
    assert model is trained["scgpt"]
    assert "could not be kept" in caplog.text


def test_a_file_in_the_place_of_a_folder_is_refused_before_any_work(
    tmp_path: Path, query: ad.AnnData, trained: dict
) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="file"):
        trained["logistic"].save(tmp_path / "file")
    with pytest.raises(OSError, match="file"):
        trained["logistic"].save(tmp_path / "file" / "below")
    query.write_h5ad(tmp_path / "in.h5ad")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        run("annotate", tmp_path / "in.h5ad", tmp_path / "file" / "out.h5ad", {"model": "mean"})
    with pytest.raises(FileExistsError, match="no comparison"):
        sclm.benchmark.run(query, label_key="cell_type", out=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_checkpoint_is_loaded_without_writing_beside_it(
    tmp_path: Path, query: ad.AnnData, trained: dict[str, Any]
) -> None:
    folder = trained["logistic"].save(tmp_path / "m")
    trained["logistic"].path = None
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.iterdir()}
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
    try:
        sclm.tl.annotate(query, folder)
    finally:
        folder.chmod(0o755)
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.iterdir()} == before


FETCH = """
import json, sys
from sclm.knowledge import downloads
url, sha256 = sys.argv[1:]
downloads.RESOURCES["tiny"] = downloads.Resource(url, sha256, "CC0", "a file of this test")
sys.stdin.readline()  # all begin at once
print(downloads.fetch("tiny"))
"""


def test_processes_that_fetch_at_once_get_one_whole_file(tmp_path: Path) -> None:
    content = b"genes\n" * 200_000
    asked: list[str] = []

    class Slow(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            for start in range(0, len(content), 100_000):
                self.wfile.write(content[start : start + 100_000])

        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}/tiny.txt"
        words = [sys.executable, "-c", FETCH, url, hashlib.sha256(content).hexdigest()]
        env = {**os.environ, "SCLM_DATA_DIR": str(tmp_path / "cache")}
        jobs = [
            subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) for _ in range(3)
        ]
        paths = {out.strip() for out, _ in [job.communicate("\n") for job in jobs]}
    finally:
        server.shutdown()
        server.server_close()
    assert [job.returncode for job in jobs] == [0, 0, 0]
    assert paths == {str(tmp_path / "cache" / "tiny.txt")}
    assert [p.name for p in (tmp_path / "cache").iterdir() if p.suffix != ".lock"] == ["tiny.txt"]
    assert (tmp_path / "cache" / "tiny.txt").read_bytes() == content
    assert len(asked) == 1


CONVERT = """
import sys
from pathlib import Path
import sclm
from sclm.models import foreign
from sclm.models.scgpt import checkpoint
original, model = map(Path, sys.argv[1:])
checkpoint.sources = lambda path: [original]
checkpoint.convert = lambda path: sclm.load(model)
sys.stdin.readline()
print(foreign.load_foreign(original, "scgpt").provenance()["sha256"])
"""


def test_processes_that_convert_at_once_keep_one_copy(tmp_path: Path, trained: dict[str, Any]) -> None:
    (tmp_path / "weights").write_bytes(b"1")
    trained["scgpt"].save(tmp_path / "model")
    wanted = trained["scgpt"].provenance()["sha256"]
    trained["scgpt"].path = None
    env = {**os.environ, "SCLM_DATA_DIR": str(tmp_path / "cache")}
    words = [sys.executable, "-c", CONVERT, str(tmp_path / "weights"), str(tmp_path / "model")]
    jobs = [
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) for _ in range(2)
    ]
    found = [out.strip() for out, _ in [job.communicate("\n") for job in jobs]]
    assert found == [wanted, wanted]
    kept = list((tmp_path / "cache" / "converted").iterdir())
    assert len(kept) == 1
    assert json.loads((kept[0] / "config.json").read_text())["family"] == "scgpt"
