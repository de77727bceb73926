"""The Textual session. Talks to :mod:`advisor` through plain data and events."""
