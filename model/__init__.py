"""The parts behind model_utils.py: loading, questions as tensors, families, attention, decoding."""
