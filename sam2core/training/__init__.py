"""Using a model to improve it: clips, augmentation, simulated prompts, losses and one loop."""
