"""A run on disk and on the screen: its folder, its progress lines, its results."""
