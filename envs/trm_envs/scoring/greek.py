"""Greek letters and their commands in LaTeX."""

_LETTERS = "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΦΨΩϕ"
_NAMES = (
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu", "xi",
    "pi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega", "Gamma", "Delta", "Theta", "Lambda", "Xi",
    "Pi", "Sigma", "Phi", "Psi", "Omega", "varphi",
)  # fmt: skip
GREEK = dict(zip(_LETTERS, _NAMES, strict=True))
"""The command of each letter, without its backslash."""
VARIABLES = frozenset([*_NAMES, "Upsilon", "ell", "hbar", "varepsilon", "vartheta"]) - {"pi"}
"""Commands that are a variable's name."""
