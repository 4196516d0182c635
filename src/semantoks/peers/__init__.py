"""Other models of the field, one file a model."""
