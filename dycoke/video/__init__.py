"""Frames of videos: the right ones of every file that is read, within bounded memory, on all cores."""
