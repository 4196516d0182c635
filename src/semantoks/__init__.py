"""Brain-Semantoks: from parcellated BOLD recordings to honest scores."""

__version__ = "0.1.0"
