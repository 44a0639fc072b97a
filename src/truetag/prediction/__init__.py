"""The classifier alone, from files to tables of tags."""

from truetag.prediction.tagging import predict as predict
