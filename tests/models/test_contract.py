"""The contract that every family keeps; a new line in FAMILIES is found by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import sclm
from sclm.cells import read_cells
from sclm.models import FAMILIES
from sclm.models.contract import Annotator, Generator, Responder, SectionMapper, SpatialMapper

if TYPE_CHECKING:
    from pathlib import Path

    from sclm.models.family import Family

# Else every term of the ontology has a column.
FOUR = ("B cell", "T cell", "natural killer cell", "monocyte")
# As small as each family can be: the contract does not depend on how well it learns.
SMALLEST = {
    "pgl": {
        "preset": "tiny", "max_epochs": 1, "width": 16, "layers": 1, "n_programmes": 2, "n_levels": 8,
        "programme_iterations": 2, "progress_bar": False, "accelerator": "cpu",
    },
    "tangram": {"n_epochs": 30},
    "scgpt": {"preset": "tiny", "max_epochs": 1, "width": 16, "n_layers": 1, "n_heads": 2, "progress_bar": False, "accelerator": "cpu"},
    "geneformer": {"preset": "tiny", "max_epochs": 1, "width": 16, "layers": 2, "progress_bar": False, "accelerator": "cpu"},
    "celltosg": {
        "preset": "tiny", "align_epochs": 1, "reinforce_steps": 1, "progress_bar": False, "accelerator": "cpu",
        "candidates": FOUR,
    },
    "cell2text": {
        "preset": "tiny", "epochs": 1, "progress_bar": False, "accelerator": "cpu",
        "encoder_options": {"max_epochs": 1, "width": 16, "layers": 2, "progress_bar": False, "accelerator": "cpu"},
    },
    "onclass": {"candidates": FOUR}, "pagerank-voting": {"candidates": FOUR},
    "marker-lists": {"candidates": FOUR}, "hierarchical": {"candidates": FOUR},
}  # fmt: skip


# Families of published models, which cannot be trained: a tiny one in the published layout, asked for the four types.
PUBLISHED = {"cell2sentence"}
# Families that write cells without training cells of their own to judge them by: tested in their own folder.
WITHOUT_GUARD = {"cell2sentence"}


def families(verb: str) -> list[str]:
    verbs = sclm.models.available()["verbs"]
    return sorted(name for name in FAMILIES if verb in verbs[name].split(", "))


def test_every_family_is_checked() -> None:
    checked = [
        *families("annotate"),
        *families("generate"),
        *families("map"),
        *families("respond"),
        *families("translate"),
        *families("embed_spots"),
        *families("describe"),
    ]
    assert set(checked) == set(FAMILIES)  # a family may have several verbs


# Families that name cells -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, write_lm: Any, reference: ad.AnnData) -> Path:
    """A language model with random weights and its tokenizer."""
    folder = tmp_path_factory.mktemp("published")
    write_lm(folder, "GPTNeoX", [f"Cell type: {name}." for name in reference.obs["cell_type"].cat.categories])
    return folder


@pytest.fixture(scope="module", params=families("annotate"))
def model(request: pytest.FixtureRequest, reference: ad.AnnData, published: Path) -> Family:
    if request.param in PUBLISHED:
        types = tuple(reference.obs["cell_type"].cat.categories)
        return sclm.load(published).set(candidates=types, n_genes=12)
    return sclm.train(request.param, reference, label_key="cell_type", seed=1, **SMALLEST.get(request.param, {}))


def test_save_and_load_give_bitwise_equal_answers(model: Family, query: ad.AnnData, tmp_path: Path) -> None:
    folder = model.save(tmp_path / "model")
    assert {p.name for p in folder.iterdir()} == {"config.json", "model.safetensors", "vocabulary.json", "README.md"}
    again = sclm.load(folder)
    assert type(again) is type(model)
    assert again.config == model.config  # survives JSON
    cells = read_cells(query).read()
    a, b = model.annotate(cells), again.annotate(cells)
    np.testing.assert_array_equal(a.probabilities, b.probabilities)
    pd.testing.assert_frame_equal(a.table, b.table)
    assert again.provenance()["sha256"] == model.provenance()["sha256"]
    assert again.provenance()["checkpoint"] == str(folder)


def test_verbs_keep_index_dtype_and_shape(model: Family, query: ad.AnnData) -> None:
    cells = read_cells(query).read()
    assert isinstance(model, Annotator)
    answer = model.annotate(cells)
    assert list(answer.table.columns) == ["label", "ontology_term_id", "confidence", "novelty"]
    assert answer.table.index.equals(cells.obs.index)
    assert answer.probabilities.dtype == np.float32
    assert answer.probabilities.shape == (120, 4)
    assert list(answer.categories.columns) == ["label", "ontology_term_id"]
    assert not isinstance(answer.table, ad.AnnData)


def within(model: Family) -> float:
    """Tolerance of probabilities: vectors of a network carry the rounding of the batch's shape, which a head then stretches."""
    return 1e-4 if hasattr(model, "network") else 1e-6


def test_a_cell_does_not_depend_on_its_batch_mates(model: Family, query: ad.AnnData) -> None:
    source = read_cells(query)
    whole = model.annotate(source.read())
    alone = model.annotate(source.read([17]))
    np.testing.assert_allclose(alone.probabilities[0], whole.probabilities[17], atol=within(model))
    np.testing.assert_allclose(alone.table["novelty"], whole.table["novelty"].iloc[[17]], atol=within(model))


def test_too_little_memory_changes_no_answer(
    model: Family, query: ad.AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    """Batches that do not fit are halved; here a table of embeddings refuses more than nine cells."""
    if not hasattr(model, "network"):
        pytest.skip("it has no network")
    import torch

    source, refused = read_cells(query), []

    def refuse(module: Any, given: Any) -> None:
        if isinstance(module, torch.nn.Embedding) and given[0].ndim == 2 and len(given[0]) > 9 < given[0].shape[1]:
            refused.append(len(given[0]))
            raise torch.OutOfMemoryError("CUDA out of memory.")

    whole = model.annotate(source.read())
    hook = torch.nn.modules.module.register_module_forward_pre_hook(refuse)
    try:
        halved = model.annotate(source.read())
    finally:
        hook.remove()
        model.to("cpu")  # forgets what fits
    assert refused
    assert caplog.text.count("do not fit into the memory of the device") in (1, 2)  # a network and its encoder
    # all 120 cells here, so that one of them may carry more of the rounding
    np.testing.assert_allclose(halved.probabilities, whole.probabilities, atol=10 * within(model))
    assert (halved.table["label"] == whole.table["label"]).mean() > 0.98  # ties


def test_gene_order_does_not_matter(model: Family, query: ad.AnnData) -> None:
    order = np.random.default_rng(0).permutation(query.n_vars)
    a = model.annotate(read_cells(query).read()).probabilities
    b = model.annotate(read_cells(query[:, order]).read()).probabilities
    np.testing.assert_allclose(a, b, atol=within(model))


def test_unknown_genes_change_nothing(model: Family, query: ad.AnnData) -> None:
    wide = ad.concat(
        [
            query,
            ad.AnnData(
                np.full((120, 3), 50, dtype=np.float32), obs=query.obs[[]], var=pd.DataFrame(index=["x1", "x2", "x3"])
            ),
        ],
        axis=1,
    )
    a = model.annotate(read_cells(query).read()).probabilities
    b = model.annotate(read_cells(wide).read()).probabilities
    np.testing.assert_allclose(a, b, atol=within(model))


def test_same_seed_same_model(model: Family, reference: ad.AnnData) -> None:
    if model.family in PUBLISHED:
        pytest.skip("it is not trained")
    again = sclm.train(model.family, reference, label_key="cell_type", seed=1, **SMALLEST.get(model.family, {}))
    assert again.config == model.config
    for name, array in model.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], array)


def test_the_card_holds_metrics_beside_the_majority(model: Family, tmp_path: Path) -> None:
    if model.family in PUBLISHED:
        pytest.skip("its card is that of its authors")
    text = (model.save(tmp_path / "m") / "README.md").read_text()
    for word in ("data", "split", "limits", "held out accuracy", "held out accuracy of the majority type"):
        assert word in text


# Families that write cells ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(reference: ad.AnnData) -> ad.AnnData:
    return reference[:160, :60].copy()


def train_generator(name: str, adata: ad.AnnData) -> Family:
    return sclm.train(name, adata, obs_keys=["cell_type", "donor"], seed=1, **SMALLEST[name])


@pytest.fixture(scope="module", params=[name for name in families("generate") if name not in WITHOUT_GUARD])
def generator(request: pytest.FixtureRequest, small: ad.AnnData) -> Family:
    return train_generator(request.param, small)


@pytest.fixture(scope="module")
def asked() -> pd.DataFrame:
    """Given, open and general values, in no order; the field donor is left out."""
    table = pd.DataFrame({"cell_type": ["T cell", "B cell", "unknown", "lymphocyte"] * 70})
    return table.set_axis([f"wanted {i}" for i in range(280)])


def same_cells(a: sclm.cells.Cells, b: sclm.cells.Cells) -> None:
    assert a.counts.dtype == b.counts.dtype
    assert (a.counts != b.counts).nnz == 0
    assert list(a.genes) == list(b.genes)
    pd.testing.assert_frame_equal(a.obs, b.obs)


def test_a_saved_generator_writes_bitwise_equal_cells(generator: Family, asked: pd.DataFrame, tmp_path: Path) -> None:
    before = generator.provenance()["sha256"]
    folder = generator.save(tmp_path / "model")
    assert {p.name for p in folder.iterdir()} == {"config.json", "model.safetensors", "vocabulary.json", "README.md"}
    again = sclm.load(folder)
    assert type(again) is type(generator)
    assert again.config == generator.config  # survives JSON
    assert again.card == generator.card
    assert again.provenance()["sha256"] == before
    same_cells(generator.generate(asked, seed=3), again.generate(asked, seed=3))
    text = (folder / "README.md").read_text()
    for word in ("data", "split", "limits", "held out"):
        assert word in text


def test_same_seed_same_cells(generator: Family, asked: pd.DataFrame) -> None:
    first = generator.generate(asked, seed=3)
    same_cells(first, generator.generate(asked, seed=3))
    assert (first.counts != generator.generate(asked, seed=4).counts).nnz > 0


def test_same_seed_same_generator(generator: Family, small: ad.AnnData) -> None:
    again = train_generator(generator.family, small)
    assert again.config == generator.config
    for name, array in generator.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], array, err_msg=name)


def test_cells_do_not_depend_on_their_blocks(generator: Family, asked: pd.DataFrame) -> None:
    whole = generator.generate(asked, seed=3)
    one, *_ = generator.write(asked, seed=3, batch_size=10_000)
    assert (one.cells.counts != whole.counts).nnz == 0
    later, *_ = generator.write(asked, seed=3, batch_size=1, start=256)
    assert (later.cells.counts != whole.counts[256:]).nnz == 0
    for name in ("levels", "depth", "log_likelihood", "codes"):
        np.testing.assert_array_equal(getattr(later, name), getattr(one, name)[256:])


def test_written_cells_are_whole_and_named(generator: Family, asked: pd.DataFrame) -> None:
    assert isinstance(generator, Generator)
    cells = generator.generate(asked, seed=3)
    assert cells.obs.index.equals(asked.index)
    assert list(cells.genes) == list(generator.vocabulary.tokens)
    assert cells.counts.shape == (280, len(generator.vocabulary))
    assert cells.counts.dtype == np.float32
    assert (cells.counts.data == np.round(cells.counts.data)).all()
    assert (cells.counts.data > 0).all()
    assert not isinstance(cells, ad.AnnData)
    block, *_ = generator.write(asked, seed=3)
    assert block.levels.dtype == np.float32
    assert block.log_likelihood.dtype == np.float64
    assert len(block.levels) == len(block.depth) == len(block.codes) == len(block.cells.obs)


def test_fields_are_filled_in_left_open_or_refused(generator: Family, asked: pd.DataFrame) -> None:
    obs = generator.generate(asked, seed=3).obs
    assert set(obs["donor"]) == {"d1", "d2", "d3"}  # left out: as the model finds them
    assert obs["cell_type"].tolist() == asked["cell_type"].tolist()
    written = obs["cell_type_written"]
    assert (written[asked["cell_type"] == "B cell"] == "B cell").all()
    assert (written[asked["cell_type"] == "unknown"] == "unknown").all()
    assert set(written[asked["cell_type"] == "lymphocyte"]) <= {"B cell", "T cell", "natural killer cell"}
    with pytest.raises(KeyError, match="sex"):
        generator.generate(asked.assign(sex="female"))
    with pytest.raises(ValueError, match="d9"):
        generator.generate(asked.assign(donor="d9"))
    with pytest.raises(ValueError, match="no rows"):
        generator.generate(asked.iloc[:0])


def test_log_likelihood_reads_genes_by_name_and_cells_one_by_one(generator: Family, small: ad.AnnData) -> None:
    cells = read_cells(small, obs_keys=["cell_type", "donor"]).read()
    scores = generator.log_likelihood(cells)
    assert scores.index.equals(cells.obs.index)
    assert scores["log_likelihood"].dtype == np.float64
    assert np.isfinite(scores["log_likelihood"]).all()
    order = np.random.default_rng(0).permutation(small.n_vars)
    turned = generator.log_likelihood(read_cells(small[:, order], obs_keys=["cell_type", "donor"]).read())
    np.testing.assert_allclose(turned["log_likelihood"], scores["log_likelihood"], rtol=1e-6)
    alone = generator.log_likelihood(read_cells(small[7:9].copy(), obs_keys=["cell_type", "donor"]).read())
    np.testing.assert_allclose(alone["log_likelihood"], scores["log_likelihood"].iloc[7:9], rtol=1e-4)
    each = generator.log_likelihood(cells, "cell_type")
    assert list(each.columns) == sorted(set(small.obs["cell_type"]))


def test_every_weight_of_the_network_learns_and_the_loss_falls(generator: Family, small: ad.AnnData) -> None:
    """On one batch, 30 steps: heads start at zero, so the body has gradients from the second step on."""
    import torch

    from sclm.models.pgl.fitting import build_network
    from sclm.models.pgl.module import LevelData, PGLModule
    from sclm.models.pgl.sampling import training_memberships
    from sclm.models.pgl.statistics import learn, level_table

    if generator.family != "pgl":
        pytest.skip("its network is tested beside it")
    model: Any = generator
    source = read_cells(small, obs_keys=["cell_type", "donor"])
    config, conditions, levels = model.config, model.conditions, model.levels
    codes = conditions.codes(source.obs)
    statistics = learn(source, model.vocabulary, conditions, codes, config, 0)
    _, table = level_table(source, model.vocabulary, conditions, codes, statistics)
    nothing = np.zeros(0, dtype=np.int64)
    data = LevelData(table, levels, nothing, np.zeros(2, bool), config, seed=0)
    batch = data.encode(np.arange(160), np.random.default_rng(0), dropped=True)
    network = build_network(config, conditions, levels, seed=0, n_genes=len(model.vocabulary)).train()
    module = PGLModule(network, training_memberships(conditions), config)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2)
    losses = []
    for step in range(30):
        optimiser.zero_grad()
        loss = module.training_step(batch, step)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.05
    still = [n for n, p in network.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not still


# Families that find the types of a reference in spots ---------------------------------------------------------------

MAPPING = ("fraction", "cell_fraction", "standard_error", "unexplained", "explained", "abundance")


@pytest.fixture(scope="module")
def section(simulate: Any) -> ad.AnnData:
    """Spots of two libraries, mixed from cells that the reference does not hold. Tests must not change it."""
    mixed = sclm.datasets.simulate_section(simulate(300, seed=3), "cell_type", n_spots=60, cells_per_spot=5, seed=1)
    mixed.obs["library"] = np.array(["a", "b"], dtype=object)[np.arange(60) % 2]
    return mixed


def train_mapper(name: str, reference: ad.AnnData) -> Any:
    return sclm.train(name, reference, label_key="cell_type", seed=1, **SMALLEST.get(name, {}))


@pytest.fixture(scope="module", params=families("map"))
def mapper(request: pytest.FixtureRequest, reference: ad.AnnData) -> Any:
    return train_mapper(request.param, reference)


def test_a_saved_mapper_gives_bitwise_equal_maps(mapper: Any, section: ad.AnnData, tmp_path: Path) -> None:
    folder = mapper.save(tmp_path / "model")
    assert {p.name for p in folder.iterdir()} == {"config.json", "model.safetensors", "vocabulary.json", "README.md"}
    again = sclm.load(folder)
    assert type(again) is type(mapper)
    assert again.config == mapper.config  # survives JSON
    assert again.card == mapper.card
    assert again.provenance()["sha256"] == mapper.provenance()["sha256"]
    source = read_cells(section)
    for a, b in zip(mapper.adapt(source).map(source.read()), again.adapt(source).map(source.read()), strict=True):
        np.testing.assert_array_equal(a, b)
    text = (folder / "README.md").read_text()
    for word in ("data", "split", "limits"):
        assert word in text


def test_maps_keep_shape_dtype_and_order(mapper: Any, section: ad.AnnData) -> None:
    assert isinstance(mapper, SpatialMapper)
    assert mapper.categories == sorted(set(section.obs["cell_type"].cat.categories))
    source = read_cells(section, obs_keys=["library"])
    look = mapper.adapt(source, library_key="library")
    assert isinstance(look, SectionMapper)
    assert look.categories == mapper.categories
    assert look.libraries == ["a", "b"]
    assert look.platform.shape == (2, len(look.genes))
    assert look.platform.dtype == np.float32
    assert look.resolution in ("spot", "cell")
    assert look.reason
    found = look.map(source.read())
    for name in MAPPING:
        values = getattr(found, name)
        assert values.dtype == np.float32, name
        assert values.shape == ((60, 4) if values.ndim == 2 else (60,)), name
    np.testing.assert_allclose(found.fraction.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found.cell_fraction.sum(axis=1), 1, atol=1e-5)
    assert found.observed.shape == found.expected.shape == (len(look.genes),)
    assert not isinstance(found, ad.AnnData)


def test_a_spot_does_not_depend_on_the_others(mapper: Any, section: ad.AnnData) -> None:
    if mapper.family == "tangram":
        pytest.skip("places types over all spots of a block at once, as its docstring says")
    source = read_cells(section)
    look = mapper.adapt(source)
    whole, alone = look.map(source.read()), look.map(source.read([17]))
    for name in MAPPING[:-1]:
        np.testing.assert_allclose(getattr(alone, name)[0], getattr(whole, name)[17], atol=2e-3, err_msg=name)


def test_gene_order_of_a_section_does_not_matter(mapper: Any, section: ad.AnnData) -> None:
    order = np.random.default_rng(0).permutation(section.n_vars)
    found = []
    for adata in (section, section[:, order].copy()):
        source = read_cells(adata)
        found.append(mapper.adapt(source).map(source.read()).fraction)
    np.testing.assert_allclose(found[0], found[1], atol=2e-3)


def test_same_seed_same_mapper(mapper: Any, reference: ad.AnnData) -> None:
    again = train_mapper(mapper.family, reference)
    assert again.config == mapper.config
    for name, array in mapper.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], array)


# Families that predict how cells respond to perturbed genes ---------------------------------------------------------


@pytest.fixture(scope="module")
def knocked(reference: ad.AnnData) -> ad.AnnData:
    """Control cells and cells of three single perturbations and a pair, each with changed counts. Tests must not change it."""
    adata = reference[:, :60].copy()
    names = list(adata.var_names[:3])
    labels = np.array(["control", "control", *names, f"{names[0]}+{names[1]}"], dtype=object)[
        np.arange(adata.n_obs) % 6
    ]
    counts = adata.X.toarray()
    for i, name in enumerate(names):
        hit = np.array([name in label.split("+") for label in labels])
        counts[np.ix_(hit, [i])] = 0
        counts[np.ix_(hit, range(20 + 5 * i, 25 + 5 * i))] *= 3
    return ad.AnnData(counts, obs=adata.obs.assign(perturbation=pd.Categorical(labels)), var=adata.var)


def train_responder(name: str, adata: ad.AnnData) -> Any:
    options = SMALLEST.get(name, {})
    return sclm.train(name, adata, perturbation_key="perturbation", control="control", seed=1, **options)


@pytest.fixture(scope="module", params=families("respond"))
def responder(request: pytest.FixtureRequest, knocked: ad.AnnData) -> Any:
    return train_responder(request.param, knocked)


def asked_of(adata: ad.AnnData) -> list[tuple[str, ...]]:
    """One seen gene, a seen pair, an unseen pair of seen genes, an unseen gene."""
    a, b, c, d = map(str, adata.var_names[:4])
    return [(a,), (a, b), (a, c), (d,)]


def controls_of(adata: ad.AnnData) -> ad.AnnData:
    return adata[adata.obs["perturbation"] == "control"].copy()


def test_a_saved_responder_gives_bitwise_equal_profiles(responder: Any, knocked: ad.AnnData, tmp_path: Path) -> None:
    folder = responder.save(tmp_path / "model")
    assert {p.name for p in folder.iterdir()} == {"config.json", "model.safetensors", "vocabulary.json", "README.md"}
    again = sclm.load(folder)
    assert type(again) is type(responder)
    assert again.config == responder.config  # survives JSON
    assert again.provenance()["sha256"] == responder.provenance()["sha256"]
    assert again.trained_perturbations == responder.trained_perturbations
    cells = read_cells(controls_of(knocked)).read()
    profiles = [model.respond(cells, asked_of(knocked), seed=3) for model in (responder, again)]
    pd.testing.assert_frame_equal(*profiles, check_exact=True)
    text = (folder / "README.md").read_text()
    for word in ("data", "split", "limits"):
        assert word in text


def test_profiles_keep_order_dtype_and_shape(responder: Any, knocked: ad.AnnData) -> None:
    assert isinstance(responder, Responder)
    assert responder.responds
    assert responder.paired_within is None
    a, b, c, d = map(str, knocked.var_names[:4])
    assert set(responder.trained_perturbations) == {a, b, c, "+".join(sorted((a, b)))}
    cells = read_cells(controls_of(knocked)).read()
    profiles = responder.respond(cells, asked_of(knocked), seed=3)
    assert list(profiles.index) == [a, "+".join(sorted((a, b))), "+".join(sorted((a, c))), d]
    assert set(profiles.columns) == set(knocked.var_names)
    assert (profiles.dtypes == np.float32).all()
    assert np.isfinite(profiles.to_numpy()).all()
    assert (profiles.to_numpy() >= 0).all()
    alone = responder.respond(cells, asked_of(knocked)[2:3], seed=3)
    np.testing.assert_allclose(alone.to_numpy(), profiles.iloc[2:3].to_numpy(), atol=1e-5)  # whatever else is asked
    pair = tuple(reversed(asked_of(knocked)[2]))
    np.testing.assert_allclose(responder.respond(cells, [pair], seed=3).to_numpy(), alone.to_numpy(), atol=1e-5)


def test_gene_order_of_controls_does_not_matter(responder: Any, knocked: ad.AnnData) -> None:
    order = np.random.default_rng(0).permutation(knocked.n_vars)
    controls = controls_of(knocked)
    found = [
        responder.respond(read_cells(adata).read(), asked_of(knocked), seed=3)
        for adata in (controls, controls[:, order].copy())
    ]
    np.testing.assert_allclose(found[0].to_numpy(), found[1][found[0].columns].to_numpy(), atol=1e-4)


def test_same_seed_same_responder(responder: Any, knocked: ad.AnnData) -> None:
    again = train_responder(responder.family, knocked)
    assert again.config == responder.config
    for name, array in responder.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], array)


def test_a_responder_says_what_it_needs(knocked: ad.AnnData) -> None:
    for name in families("respond"):
        if "annotate" in sclm.models.available().loc[name, "verbs"]:
            continue  # has other ways of being trained
        with pytest.raises(TypeError, match="perturbation_key="):
            sclm.train(name, knocked)
        with pytest.raises(TypeError, match="control= must name the label"):
            sclm.train(name, knocked, perturbation_key="perturbation")
        with pytest.raises(ValueError, match="control='ctrl' must be a label"):
            sclm.train(name, knocked, perturbation_key="perturbation", control="ctrl")


# Families that describe cells ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def blood() -> Any:
    """Real cells with a checker of them: statements are looked up in markers, which simulated cells do not have."""
    from sclm.cells import read_cells
    from sclm.evidence import CellChecker

    adata = sclm.datasets.pbmc68k()[:160].copy()
    source = read_cells(adata, obs_keys=["tissue"])
    return adata, source, CellChecker.fit(source)


@pytest.fixture(scope="module", params=families("describe"))
def describer(request: pytest.FixtureRequest, blood: Any) -> Any:
    name = request.param
    if hasattr(sclm.models.family_class(name), "ready"):
        return sclm.load(name)
    return sclm.train(name, blood[0], label_key="cell_type", seed=0, **SMALLEST.get(name, {}))


def test_a_saved_describer_writes_the_same(describer: Any, blood: Any, tmp_path: Path) -> None:
    _, source, checker = blood
    again = sclm.load(describer.save(tmp_path / "model"))
    a, b = (m.describe(source.read(np.arange(6)), checker=checker, seed=3) for m in (describer, again))
    pd.testing.assert_frame_equal(a.table, b.table)
    pd.testing.assert_frame_equal(a.claims, b.claims)


def test_descriptions_keep_index_and_columns(describer: Any, blood: Any) -> None:
    from sclm.evidence.claims import CLAIM_COLUMNS, KINDS, VERDICTS

    _, source, checker = blood
    cells = source.read(np.arange(8))
    found = describer.describe(cells, checker=checker)
    assert list(found.table.columns) == ["text", "faithfulness"]
    pd.testing.assert_index_equal(found.table.index, cells.obs.index)
    assert found.table["text"].map(lambda text: isinstance(text, str) and len(text) > 0).all()
    assert tuple(found.claims.columns) == CLAIM_COLUMNS
    assert set(found.claims["kind"]) <= set(KINDS)
    assert set(found.claims["verdict"]) <= set(VERDICTS)
    assert found.claims["row"].between(0, 7).all()


def test_a_description_does_not_depend_on_the_cells_beside_it(describer: Any, blood: Any) -> None:
    _, source, checker = blood
    whole = describer.describe(source.read(np.arange(7)), checker=checker).table
    for row in (0, 4):
        one = describer.describe(source.read([row]), checker=checker).table
        assert one["text"].iloc[0] == whole["text"].iloc[row]
        assert one["faithfulness"].iloc[0] == pytest.approx(whole["faithfulness"].iloc[row], nan_ok=True)


def test_a_description_does_not_depend_on_the_order_of_genes(describer: Any, blood: Any) -> None:
    _, source, checker = blood
    cells = source.read(np.arange(4))
    turned = cells._replace(counts=cells.counts[:, ::-1].tocsr(), genes=cells.genes[::-1])
    a, b = (describer.describe(block, checker=checker).table for block in (cells, turned))
    pd.testing.assert_frame_equal(a, b)
