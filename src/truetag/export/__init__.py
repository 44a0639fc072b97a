"""A trained classifier for programs other than truetag: ONNX, timm, transformers, model hubs."""
