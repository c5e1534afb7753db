"""Which spots of a section lie side by side, which domains they form, and where two tissues meet. Loaded on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sclm._lazy import lazy_names

if TYPE_CHECKING:
    from sclm.spatial.domains import (
        Domains,
        domain_stability,
        gaussian_domains,
        label_entropy,
        label_votes,
        leading_components,
        refine_labels,
        stable_number,
    )
    from sclm.spatial.graph import neighbour_graph, section_graph
    from sclm.spatial.interface import Interface, find_interface, otsu_threshold, ring_width
    from sclm.spatial.neighbourhoods import hop_means, neighbour_means, reading_order

_HOME = {
    "Domains": "domains",
    "Interface": "interface",
    "domain_stability": "domains",
    "find_interface": "interface",
    "gaussian_domains": "domains",
    "hop_means": "neighbourhoods",
    "label_entropy": "domains",
    "label_votes": "domains",
    "leading_components": "domains",
    "neighbour_graph": "graph",
    "neighbour_means": "neighbourhoods",
    "otsu_threshold": "interface",
    "reading_order": "neighbourhoods",
    "refine_labels": "domains",
    "ring_width": "interface",
    "section_graph": "graph",
    "stable_number": "domains",
}

__all__ = [
    "Domains",
    "Interface",
    "domain_stability",
    "find_interface",
    "gaussian_domains",
    "hop_means",
    "label_entropy",
    "label_votes",
    "leading_components",
    "neighbour_graph",
    "neighbour_means",
    "otsu_threshold",
    "reading_order",
    "refine_labels",
    "ring_width",
    "section_graph",
    "stable_number",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
