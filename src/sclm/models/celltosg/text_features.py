"""What the text of a node says, as a vector: offline by its trigrams of letters, or by a text encoder that is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sclm.knowledge import KnowledgeGraph

WIDTH = 64
_BUCKETS = 2**15  # trigrams of letters, hashed: English names and definitions hold about 20,000 that are not rare


def node_texts(graph: KnowledgeGraph) -> list[str]:
    """The text of each node: its name, then its definition and synonyms."""
    return [
        f"{name}. {text}" if text else name for name, text in zip(graph.nodes["name"], graph.nodes["text"], strict=True)
    ]


def text_features(texts: Sequence[str], *, width: int = WIDTH, seed: int = 0) -> np.ndarray:
    """Trigrams of letters, hashed, weighted by TF-IDF, and their first singular vectors (Deerwester et al., 1990).

    Texts that share parts of words have similar vectors: "CD4-positive T cell" and "CD8-positive T cell", also where they share
    no whole word with any other. No download, and the same numbers for the same set of texts in any order.

    Parameters
    ----------
    texts
        One a node.
    width
        F, of the vectors.
    seed
        Of the random projection that finds the singular vectors.

    Returns
    -------
    (n, F) float32, centred, with a mean square of 1 over all; zeros in directions that the texts do not have.

    Examples
    --------
    >>> a, b, c = text_features(["naive B cell", "memory B cell", "lung"], width=2)
    >>> bool(a @ b > a @ c)
    True
    """
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
    from sklearn.utils.extmath import randomized_svd

    if not len(texts):
        return np.zeros((0, width), dtype=np.float32)
    # each text once, in order: what comes out does not depend on the order of the nodes, to the last bit
    distinct = sorted(set(texts))
    place = {text: i for i, text in enumerate(distinct)}
    hashed = HashingVectorizer(
        analyzer="char_wb", ngram_range=(3, 3), n_features=_BUCKETS, alternate_sign=False, norm=None, dtype=np.float32
    ).transform(distinct)
    weighted = TfidfTransformer(sublinear_tf=True).fit_transform(hashed)
    found = min(width, len(distinct))
    left, strength, right = randomized_svd(
        weighted, n_components=found, n_iter=2, transpose=False, flip_sign=False, random_state=seed
    )
    signs = np.sign(right[np.arange(found), np.abs(right).argmax(axis=1)])
    features = np.zeros((len(distinct), width), dtype=np.float64)
    features[:, :found] = left * strength * signs
    return _scaled(features[[place[text] for text in texts]])


def encoded_texts(
    texts: Sequence[str], encoder: str, *, revision: str | None = None, batch_size: int = 64, device: str = "cpu"
) -> np.ndarray:
    """Mean of the last hidden states of a pretrained text encoder.

    Parameters
    ----------
    texts
        One a node.
    encoder
        ``"hf:organisation/name"`` or a folder with weights as safetensors and a tokenizer.
    revision
        Commit, tag or branch on the hub.
    batch_size
        Texts at a time, sorted by length; longer texts than 256 tokens are cut.
    device
        Where the encoder runs.

    Returns
    -------
    (n, F) float32 with F of the encoder, centred, with a mean square of 1 over all.

    Raises
    ------
    FileNotFoundError
        If the encoder is neither in the folder, nor in the local cache, nor to be had from the hub.
    ValueError
        If there are no safetensors.
    """
    import torch

    from sclm.nn.pretrained import load_text_encoder, load_tokenizer

    model, tokenizer = load_text_encoder(encoder, revision).to(device).eval(), load_tokenizer(encoder, revision)
    order = np.argsort([len(text) for text in texts], kind="stable")
    result: np.ndarray | None = None
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            tokens = tokenizer(
                [texts[row] for row in rows], padding=True, truncation=True, max_length=256, return_tensors="pt"
            ).to(device)
            states = model(**tokens).last_hidden_state.float()  # (B, L, F)
            real = tokens["attention_mask"][..., None].float()
            pooled = ((states * real).sum(1) / real.sum(1).clamp_min(1.0)).cpu().numpy()
            if result is None:
                result = np.zeros((len(texts), pooled.shape[1]))
            result[rows] = pooled
    return _scaled(np.zeros((0, WIDTH)) if result is None else result)


def _scaled(features: np.ndarray) -> np.ndarray:
    """Centred, and of mean square 1: what a network likes to read."""
    if len(features) == 0:
        return features.astype(np.float32)
    features = features - features.mean(axis=0)
    scale = np.sqrt(np.square(features).mean())
    return (features / max(float(scale), 1e-12)).astype(np.float32)
