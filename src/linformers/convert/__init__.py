"""Linear attention for encoders that are trained already."""
