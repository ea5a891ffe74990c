"""Labelled data: what lies in a folder, read and written, a module a format."""
