"""The objective of the graph network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

if TYPE_CHECKING:
    from sclm.models.graphst.blocks import Block
    from sclm.models.graphst.network import GraphSTNetwork


def block_loss(
    network: GraphSTNetwork, block: Block, n_spots: int, *, reconstruction: float, contrast: float
) -> torch.Tensor:
    r"""A block's share of the loss of all spots; the shares of any partition add up to the same sum.

    With components :math:`X`, their corruption :math:`\tilde X` (rows permuted), vectors :math:`Z` and :math:`\tilde Z`, contexts
    :math:`g, \tilde g` of :math:`\mathrm{relu}(Z), \mathrm{relu}(\tilde Z)`, and the discriminator :math:`D`:

    .. math::
        \alpha \, \overline{(X - H)^2}
        + \beta \, \overline{\mathrm{BCE}}\bigl(D(z_i, g_i) \to 1, D(\tilde z_i, g_i) \to 0\bigr)
        + \beta \, \overline{\mathrm{BCE}}\bigl(D(\tilde z_i, \tilde g_i) \to 1, D(z_i, \tilde g_i) \to 0\bigr)

    GraphST: Long et al., Nature Communications 14:1155, 2023.

    Parameters
    ----------
    network
        The network.
    block
        Spots with two hops around them.
    n_spots
        Of all blocks, which the means are over.
    reconstruction, contrast
        The weights :math:`\alpha` and :math:`\beta`.
    """
    vectors = network.encode(block.values, block.values[block.near], block.inner)  # (n1, Z)
    shuffled = network.encode(block.corrupted, block.corrupted[block.near], block.inner)
    own_values = block.values[block.own]  # (B, C)
    rebuilt = network.decode(vectors, block.outer)
    error = (rebuilt - own_values).square().sum() / (n_spots * own_values.shape[1])
    active, other = vectors.relu(), shuffled.relu()
    here, there = network.context(active, block.context), network.context(other, block.context)  # (B, Z)
    active, other = active[block.itself], other[block.itself]
    loss = reconstruction * error
    for own, foreign, context in ((active, other, here), (other, active, there)):
        logits = torch.cat([network.score(own, context), network.score(foreign, context)])  # (2B,)
        labels = torch.cat([torch.ones(len(own)), torch.zeros(len(own))]).to(logits)
        loss = loss + contrast * binary_cross_entropy_with_logits(logits, labels, reduction="sum") / (2 * n_spots)
    return loss
