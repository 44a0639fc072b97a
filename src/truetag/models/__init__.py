"""Networks: backbones, the classifier, how it is built, and the cache of frozen features."""
