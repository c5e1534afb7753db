"""Prompts: our wording around the slots of the published models.

The slots are those of Cell2Sentence: ``{num_genes}``, ``{organism}``, ``{cell_sentence}``, ``{cell_type}``. A model that was trained on other
words can be given them as settings.
"""

from __future__ import annotations

import string

ANNOTATE = (
    "Below are the {num_genes} genes that a {organism} cell expresses most, named from the highest expression to the lowest. "
    "Say which type of cell it is.\n"
    "Cell sentence: {cell_sentence}.\n"
    "The cell type of these genes is:"
)
GENERATE = (
    "Write the {num_genes} genes that a {organism} cell of the cell type {cell_type} expresses most, "
    "from the highest expression to the lowest.\n"
    "Cell sentence:"
)
ANSWER = " {cell_type}."

SLOTS = {
    "annotate_prompt": ({"cell_sentence"}, {"num_genes", "organism"}),
    "generate_prompt": ({"cell_type"}, {"num_genes", "organism"}),
    "answer": ({"cell_type"}, set()),
}


def check_template(name: str, text: str) -> None:
    """Refuse a prompt whose slots are not those that will be filled.

    Parameters
    ----------
    name
        ``"annotate_prompt"``, ``"generate_prompt"`` or ``"answer"``.
    text
        The template.

    Raises
    ------
    ValueError
        If a slot is missing, unknown, or stands where it cannot, with the slots that there are.
    """
    needed, optional = SLOTS[name]
    try:
        found = {field for _, field, _, _ in string.Formatter().parse(text) if field is not None}
    except ValueError as error:
        raise ValueError(f"{name} is no template ({error}): write {{{{ and }}}} for braces.") from error
    if needed - found or found - needed - optional:
        slots = ", ".join(f"{{{slot}}}" for slot in sorted(needed))
        more = ", ".join(f"{{{slot}}}" for slot in sorted(optional)) or "none"
        raise ValueError(
            f"{name} must have the slot {slots} (and may have: {more}), found {', '.join(sorted(found)) or 'no slot'}."
        )


def ending(template: str) -> str:
    """What a prompt ends with after its last slot: the context in which an answer is written."""
    return template.rpartition("}")[2]
