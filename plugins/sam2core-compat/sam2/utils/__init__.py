"""Functions around the predictors, under Meta's names."""
