"""An image becomes a pyramid."""
