"""Functions written as real models write them, each with the semantic op that it is."""
