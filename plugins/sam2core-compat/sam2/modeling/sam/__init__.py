"""The prompt encoder and the mask decoder, called as Meta's are."""
