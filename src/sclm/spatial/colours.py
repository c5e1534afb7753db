"""Colours of cell types that stay apart for readers with and without red-green blindness."""

from __future__ import annotations

import colorsys

# Six of Okabe and Ito's colours, then 24 that were added one by one: each the colour farthest (CIEDE2000; the smallest
# distance under normal vision, protanopia and deuteranopia after Machado et al. 2009) from those before it, white and grey.
# The first 15 are at least 11 apart, all 30 at least 8.
PALETTE = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#1f5c52", "#7a0a00", "#003370", "#b8eba3",
    "#0a00d6", "#ad4733", "#5285ff", "#3d857a", "#b8e0ff", "#ad0052", "#8fc299", "#14707a", "#5c2929", "#ebe052",
    "#e05c5c", "#a3c270", "#335285", "#5229ff", "#52c2cc", "#c28f99", "#c2e0c2", "#992900", "#cc14b8", "#5c5cff",
)  # fmt: skip


def type_colours(n: int) -> list[str]:
    """``n`` hexadecimal colours; above 30, hues at the golden angle, which no longer stay apart for everybody."""
    more = []
    for i in range(len(PALETTE), n):
        red, green, blue = colorsys.hsv_to_rgb(i * 0.618 % 1, 0.5 + 0.4 * (i % 2), 0.6 + 0.3 * (i % 3) / 2)
        more.append(f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}")
    return [*PALETTE[:n], *more]
