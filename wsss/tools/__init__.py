"""Tools around the method: benches, pretraining, distillation, checks of a release, and papermill's entry point."""
