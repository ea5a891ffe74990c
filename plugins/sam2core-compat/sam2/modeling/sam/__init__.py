"""The prompt encoder and the mask decoder, called as upstream's are."""
