"""Which request goes next, to which engine, and whom an engine's death accuses."""
