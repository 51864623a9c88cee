"""Declared fields: default, allowed values and meaning of each in one place, and one form of refusal."""

from trm_fields.allowed import (
    ABOVE_0,
    COUNT,
    LEAST_0,
    SEEDS,
    SHARE,
    ZERO_TO_ONE,
    Allowed,
    Flag,
    Free,
    Number,
    OneOf,
    Several,
    Text,
    between,
)
from trm_fields.declared import Setting, build, check_settings, same_as, section, setting, settings_of
from trm_fields.pairs import read_pairs
from trm_fields.refusals import closest, nearest, refuse, refuse_name

__all__ = [
    "ABOVE_0",
    "COUNT",
    "LEAST_0",
    "SEEDS",
    "SHARE",
    "ZERO_TO_ONE",
    "Allowed",
    "Flag",
    "Free",
    "Number",
    "OneOf",
    "Setting",
    "Several",
    "Text",
    "between",
    "build",
    "check_settings",
    "closest",
    "nearest",
    "read_pairs",
    "refuse",
    "refuse_name",
    "same_as",
    "section",
    "setting",
    "settings_of",
]
