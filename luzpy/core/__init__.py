"""The core: a specification, the context of a run, callbacks, and the loop."""
