"""How a recording is read: tokenizer, encoder, and the folder that a model travels in."""
