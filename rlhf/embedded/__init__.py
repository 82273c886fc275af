"""The embedded model: shipped in `model/`, made by `instruction_tuning/configs/embedded.yaml`; see `PROVENANCE.md`."""
