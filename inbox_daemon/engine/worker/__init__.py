"""The other side of the engine: all that runs in the child process that hosts vLLM. The daemon imports none of it."""
