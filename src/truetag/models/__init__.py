"""Networks: backbones, the classifier, and the cache of frozen features."""
