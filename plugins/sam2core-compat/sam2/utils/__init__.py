"""Functions around the predictors, under upstream's names."""
