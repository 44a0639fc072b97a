"""From a manifest to a trained run."""
