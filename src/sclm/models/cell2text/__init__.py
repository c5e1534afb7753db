"""Cell2Text: a cell encoder, an adapter, and a language model that describes the cell."""
