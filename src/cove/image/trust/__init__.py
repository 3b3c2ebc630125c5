"""Whose an image is: signatures, what they claim, what may run."""
