"""Cell types of a reference found in spots: a count model, and two simpler methods that it is compared with."""
