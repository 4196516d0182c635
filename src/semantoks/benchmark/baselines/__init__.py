"""Descriptions of a scan that need no pretraining, one file a method."""
