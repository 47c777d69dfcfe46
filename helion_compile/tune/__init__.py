"""``python -m helion_compile tune``: the config tables of this GPU, made in minutes."""
