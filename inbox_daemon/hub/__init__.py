"""Whether a model can be had, and what of it is known before it is loaded: from a folder, the hub's cache, the hub."""
