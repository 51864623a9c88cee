"""`trm doctor`: what this machine can do. A new section is a function and its line in `sections.SECTIONS`."""
