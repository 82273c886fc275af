"""Problems whose answers can be verified: procedural tasks, word problems, mixtures, and their verifiers."""
