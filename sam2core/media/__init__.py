"""Images, videos and streams, opened and made: the one room that reads pixels and draws."""
