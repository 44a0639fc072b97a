"""Files, fingerprints, text, tensors, the terminal and signals: what touches the machine and knows no photo, no tag."""
