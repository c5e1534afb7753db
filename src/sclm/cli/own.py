"""Commands that are no tool: demo, check, train, benchmark, models, mcp."""

from __future__ import annotations

import json as json_
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sclm.cli import output
from sclm.cli.tools import pair

_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
_Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Log what is done, on standard error.")]


def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to write to.")] = Path("sclm-demo"),
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    json: _Json = False,
    verbose: _Verbose = False,
) -> None:
    """Annotate 700 real blood cells, write new ones, and report on both; needs no download."""
    said = sys.stderr if json else sys.stdout

    def work() -> dict[str, Any]:
        from sclm.report.demo import demo as run

        table = run(out, seed=seed, say=lambda line: typer.echo(line, file=said))
        return {"output": str(out), "report": str(out / "report.html"), "methods": table.round(4).to_dict("index")}

    output.answer(work, lambda result: f"report: {result['report']}", as_json=json, verbose=verbose)


def check(
    path: Annotated[Path, typer.Argument(help="File of cells (.h5ad, .zarr, .h5mu).")],
    model: Annotated[str | None, typer.Option(help="A trained model: how many of its genes the file has.")] = None,
    table_key: Annotated[str | None, typer.Option(help="Table of a SpatialData.")] = None,
    mod: Annotated[str | None, typer.Option(help="Modality of a MuData.")] = None,
    json: _Json = False,
    verbose: _Verbose = False,
) -> None:
    """Say what a file is, what is wrong with it, and which tools and models fit. Exits with 1 where something is wrong."""
    found: dict[str, Any] = {}

    def work() -> dict[str, Any]:
        from sclm.calls.checking import check as look

        found.update(look(path, model=model, table_key=table_key, mod=mod))
        return found

    output.answer(work, output.of_check, as_json=json, verbose=verbose)
    if found["problems"]:
        raise typer.Exit(output.FAILED)


def train(
    family: Annotated[str, typer.Argument(help="Family to train: see sclm models.")],
    paths: Annotated[list[Path], typer.Argument(help="Cells to learn from (.h5ad, .zarr, .h5mu); never changed.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the model.")],
    label_key: Annotated[str | None, typer.Option(help="Column of .obs with the labels, for annotators.")] = None,
    batch_key: Annotated[str | None, typer.Option(help="Column of .obs with the donor or batch.")] = None,
    obs_keys: Annotated[
        list[str] | None, typer.Option(help="Further columns of .obs. May be given several times.")
    ] = None,
    perturbation_key: Annotated[str | None, typer.Option(help="Column of .obs with the perturbed genes.")] = None,
    protein_key: Annotated[str | None, typer.Option(help="Key of .obsm, or modality, with proteins.")] = None,
    table_key: Annotated[str | None, typer.Option(help="Table of a SpatialData.")] = None,
    mod: Annotated[str | None, typer.Option(help="Modality of a MuData with the RNA.")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer with the raw counts; .X where left out.")] = None,
    gene_key: Annotated[str | None, typer.Option(help="Column of .var with symbols or Ensembl ids.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="Setting of the family, such as preset=small or max_epochs=5. May be given several times."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    backed: Annotated[
        bool, typer.Option("--backed", help="Leave the counts of a single file on disk, as those of several are.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model that is there.")] = False,
    json: _Json = False,
    verbose: _Verbose = False,
) -> None:
    """Train a model on your own cells and save it to a folder."""
    given = {
        "label_key": label_key, "batch_key": batch_key, "obs_keys": obs_keys or None, "perturbation_key": perturbation_key,
        "protein_key": protein_key, "table_key": table_key,
        "mod": mod,
        "layer": layer, "gene_key": gene_key, "seed": seed,
    }  # fmt: skip
    options = {name: _value(value) for name, value in (pair(text, "--option") for text in option or [])}

    def work() -> dict[str, Any]:
        from sclm.calls.training import train as run
        from sclm.calls.training import writes

        result = run(family, paths, out, given, options=options, backed=backed, overwrite=overwrite)
        if not writes():  # the first of several processes says how it went
            raise typer.Exit
        return result

    output.answer(work, output.of_training, as_json=json, verbose=verbose)


def benchmark(
    path: Annotated[Path, typer.Argument(help="Labelled cells (.h5ad, .zarr, .h5mu); never changed.")],
    more: Annotated[list[str] | None, typer.Argument(metavar="[MODELS]...", help="Further models.")] = None,
    label_key: Annotated[str, typer.Option(help="Column of .obs with the true types.")] = ...,  # type: ignore[assignment]
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the report.")] = Path("sclm-benchmark"),
    batch_key: Annotated[str | None, typer.Option(help="Column of .obs with the donor or batch.")] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            help="Family to train, or trained model as it is; more may follow. majority, logistic and knn are always there."
        ),
    ] = None,
    predictions: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN[=CONFIDENCE]",
            help="Column of .obs with the labels of another method. May be given several times.",
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FAMILY.NAME=VALUE",
            help="Setting of a family's training, such as scgpt.preset=tiny. May be given several times.",
        ),
    ] = None,
    n_folds: Annotated[int, typer.Option(help="Folds; with fewer batches, each batch is one.")] = 5,
    n_seeds: Annotated[int, typer.Option(help="How often all is repeated with other folds.")] = 3,
    near_twins: Annotated[
        float, typer.Option(help="Cosine from which two cells are near twins; 0: not looked for.")
    ] = 0.95,
    drop_twins: Annotated[
        bool, typer.Option("--drop-twins", help="Leave twins of tested cells out of training.")
    ] = False,
    n_bootstrap: Annotated[int, typer.Option(help="Resamples behind the intervals.")] = 1000,
    table_key: Annotated[str | None, typer.Option(help="Table of a SpatialData.")] = None,
    mod: Annotated[str | None, typer.Option(help="Modality of a MuData with the RNA.")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer with the raw counts; .X where left out.")] = None,
    gene_key: Annotated[str | None, typer.Option(help="Column of .var with symbols or Ensembl ids.")] = None,
    seed: Annotated[int, typer.Option(help="First of the seeds.")] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a comparison of other cells or settings.")
    ] = False,
    json: _Json = False,
    verbose: _Verbose = False,
) -> None:
    """Compare models and baselines on your own labelled cells; the same command goes on where it was interrupted."""
    settings: dict[str, dict[str, Any]] = {}
    for text, value in (pair(text, "--option") for text in option or []):
        family, dot, name = text.partition(".")
        if not (family and dot and name):
            raise typer.BadParameter(f"--option takes family.name=value, found {text!r}.")
        settings.setdefault(family, {})[name] = _value(value)
    columns = {column: sure or None for column, _, sure in (text.partition("=") for text in predictions or [])}

    def work() -> dict[str, Any]:
        from sclm.benchmark.files import run_file

        return run_file(
            path, out, [*(models or []), *(more or [])],
            {
                "label_key": label_key, "batch_key": batch_key, "predictions": columns, "options": settings, "n_folds": n_folds,
                "n_seeds": n_seeds, "near_twins": near_twins or None, "drop_twins": drop_twins, "n_bootstrap": n_bootstrap,
                "table_key": table_key, "mod": mod, "layer": layer, "gene_key": gene_key, "seed": seed, "overwrite": overwrite,
            },
        )  # fmt: skip

    output.answer(work, output.of_benchmark, as_json=json, verbose=verbose)


def models(json: _Json = False, verbose: _Verbose = False) -> None:
    """List the families that can be trained and the checkpoints that can be named."""

    def work() -> dict[str, Any]:
        from sclm.calls.training import listed

        return {"models": listed()}

    output.answer(work, output.of_models, as_json=json, verbose=verbose)


def mcp() -> None:
    """Serve the tools to an agent over standard input and output (Model Context Protocol); needs the extra mcp."""
    from sclm.agent.server import serve

    try:
        serve()
    except ImportError as error:
        typer.echo(f"sclm: {error}", err=True)
        raise typer.Exit(output.FAILED) from error


def _value(text: str) -> Any:
    """``"5"`` → 5, ``"true"`` → True, ``"[1, 2]"`` → (1, 2); anything else is text."""
    try:
        value = json_.loads(text)
    except ValueError:
        return text
    return tuple(value) if isinstance(value, list) else value
