"""From defaults, a YAML file, a profile, the environment and the command line to one validated config."""
