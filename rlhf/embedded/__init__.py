"""The embedded models, in `model/` and `judge/`: made by this project's own commands, see `PROVENANCE.md`."""
