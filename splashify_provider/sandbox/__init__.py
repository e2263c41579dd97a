"""A local Splashify to develop against: the documented API on loopback, and an inbox page to look at."""
