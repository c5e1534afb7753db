"""Names of the tensors of scGPT, theirs and ours, both ways."""

from __future__ import annotations

import re

import torch

# Theirs → ours. A name begins with the left side and has the right one instead; inside a layer the second table is used.
_PARTS = {
    "encoder.embedding.": "genes.embedding.",
    "encoder.enc_norm.": "genes.norm.",
    "value_encoder.": "values.",
    "flag_encoder.": "flags.",
    "pert_encoder.": "perturbed.",
    "batch_encoder.embedding.": "batches.embedding.",
    "batch_encoder.enc_norm.": "batches.norm.",
    "mod_encoder.embedding.": "modalities.embedding.",
    "mod_encoder.enc_norm.": "modalities.norm.",
    "bn.weight": "norm.scale",
    "bn.bias": "norm.shift",
    "decoder.fc.": "decoders.expression.fc.",
    "decoder.zero_logit.": "decoders.expression.expressed.",
    "decoder.coeff_decoder.fc.": "decoders.expression.coefficient.",
    "decoder.bias_decoder.fc.": "decoders.expression.bias.",
    "mvc_decoder.gene2query.": "decoders.mvc.query.",
    "mvc_decoder.W.": "decoders.mvc.project.",
    "mvc_decoder.W_zero_logit.": "decoders.mvc.project_expressed.",
    "mvc_decoder.hidden_activation.": "decoders.mvc.activation.",
    "mvc_decoder.fc1.": "decoders.mvc.fc1.",
    "mvc_decoder.fc2.": "decoders.mvc.fc2.",
    "cls_decoder._decoder.": "decoders.classes.body.",
    "cls_decoder.out_layer.": "decoders.classes.out.",
    "grad_reverse_discriminator._decoder.": "decoders.adversary.body.",
    "grad_reverse_discriminator.out_layer.": "decoders.adversary.out.",
}
_IN_LAYER = {
    "self_attn.Wqkv.": "attention.qkv.",
    "self_attn.out_proj.": "attention.out.",
    "linear1.": "linear1.",
    "linear2.": "linear2.",
    "norm1.": "norm1.",
    "norm2.": "norm2.",
}
_STATISTICS = {"running_mean": "norm.mean", "running_var": "norm.variance"}

_WRAPPERS = ("module.", "model.", "scgpt.")  # of data-parallel training and of conversions
# Parts of the original's training, used by nothing that is computed from a trained model.
_IGNORED = re.compile(r"(sim|creterion_cce|criterion_cce)\..*|.*\.num_batches_tracked")
_LAYER = re.compile(r"transformer_encoder\.layers\.(\d+)\.(.+)")
_SEPARATE = re.compile(r"self_attn\.W?(q|k|v|query|key|value)(?:_?(?:proj|linear))?[._](weight|bias)")
_NORM = re.compile(r"(?:dsbn\.bns\.(\d+)|bn)\.(running_mean|running_var)")


def to_ours(theirs: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Tensors under our names.

    The projection of attention has four spellings with the same numbers: ``Wqkv``, ``_impl.Wqkv``, ``in_proj_``, and three separate
    matrices. A name that is not known keeps its own, so that the comparison with a network refuses it by that name.

    Parameters
    ----------
    theirs
        Name → tensor of a file.

    Returns
    -------
    tensors
        Our name → tensor.
    ignored
        Names that are left out on purpose.

    Raises
    ------
    ValueError
        If a tensor stands in the file under two spellings, or parts of one are missing or do not fit together.
    """
    for wrapper in _WRAPPERS:
        if theirs and all(name.startswith(wrapper) for name in theirs):
            theirs = {name.removeprefix(wrapper): tensor for name, tensor in theirs.items()}
    ignored = sorted(name for name in theirs if _IGNORED.fullmatch(name))
    found: dict[str, torch.Tensor] = {}
    joined: dict[str, dict[str, torch.Tensor]] = {}
    stacked: dict[str, dict[int, torch.Tensor]] = {}

    def put(ours: str, tensor: torch.Tensor, name: str) -> None:
        if ours in found:
            raise ValueError(f"{name} stands in the file twice, under two spellings.")
        found[ours] = tensor

    for name in sorted(theirs.keys() - set(ignored)):
        tensor, layer, norm = theirs[name], _LAYER.fullmatch(name), _NORM.fullmatch(name)
        if layer:
            rest = layer[2].replace("self_attn._impl.", "self_attn.").replace("self_attn.in_proj_", "self_attn.Wqkv.")
            separate = _SEPARATE.fullmatch(rest)
            if separate:
                joined.setdefault(f"layers.{layer[1]}.attention.qkv.{separate[2]}", {})[separate[1][0]] = tensor
            else:
                ours = _renamed(rest, _IN_LAYER)
                put(f"layers.{layer[1]}.{ours}" if ours else name, tensor, name)
        elif norm:
            stacked.setdefault(_STATISTICS[norm[2]], {})[int(norm[1] or 0)] = tensor
        else:
            put(_renamed(name, _PARTS) or name, tensor, name)
    for ours, parts in joined.items():
        _require_parts(their_name(ours), parts, ["q", "k", "v"])
        put(ours, torch.cat([parts["q"], parts["k"], parts["v"]]), their_name(ours))
    for ours, sets in stacked.items():
        _require_parts(ours, sets, list(range(len(sets))))
        put(ours, torch.stack([sets[i] for i in range(len(sets))]), ours)
    return found, ignored


def their_name(ours: str) -> str:
    """Name in the released files (spelling ``Wqkv``) of a tensor of ours; its own where there is none."""
    layer = re.fullmatch(r"layers\.(\d+)\.(.+)", ours)
    if layer:
        return f"transformer_encoder.layers.{layer[1]}.{_renamed(layer[2], {v: k for k, v in _IN_LAYER.items()}) or layer[2]}"
    return _renamed(ours, {v: k for k, v in _PARTS.items()}) or ours


def to_theirs(ours: dict[str, torch.Tensor], *, input_norm: str = "none") -> dict[str, torch.Tensor]:
    """Tensors under the names of the released files, for use with the original code.

    Parameters
    ----------
    ours
        ``state_dict`` of a network of ours.
    input_norm
        That of its configuration: whose statistics those of the input are.

    Returns
    -------
    Name → tensor as in ``best_model.pt``.
    """
    found: dict[str, torch.Tensor] = {}
    statistics = {v: k for k, v in _STATISTICS.items()}
    for name, tensor in ours.items():
        if name in statistics:
            for i, row in enumerate(tensor):
                found[f"{'bn' if input_norm == 'batch' else f'dsbn.bns.{i}'}.{statistics[name]}"] = row
        else:
            found[their_name(name)] = tensor
    return found


def _renamed(name: str, table: dict[str, str]) -> str | None:
    """The name with its beginning replaced, None where the table has none."""
    for before, after in table.items():
        if name.startswith(before):
            return after + name[len(before) :]
    return None


def _require_parts(name: str, parts: dict, wanted: list) -> None:
    if sorted(parts) != sorted(wanted):
        raise ValueError(f"{name} needs the parts {wanted}, found {sorted(parts)}.")
    shapes = {tuple(tensor.shape) for tensor in parts.values()}
    if len(shapes) > 1:
        raise ValueError(f"The parts of {name} must have one shape, found {sorted(shapes)}.")
