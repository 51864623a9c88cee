"""`trm doctor`: the abilities of this machine. A new section is a function and its line in `sections.SECTIONS`."""
