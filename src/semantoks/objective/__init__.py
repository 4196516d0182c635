"""What the encoder is asked: the terms of the loss, and self-distillation."""
