"""Descriptions of image encoders."""
