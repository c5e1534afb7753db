"""RNA translated into proteins: the scTranslator network, from its published checkpoints or trained on own CITE-seq."""
