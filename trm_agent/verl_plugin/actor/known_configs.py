"""The configurations that verl compares a model's with, 150 modules of transformers: for the fork server to import."""

from transformers import AutoModelForImageTextToText

# verl asks in each actor before it loads the model, and transformers imports them when it is asked
KNOWN = tuple(AutoModelForImageTextToText._model_mapping.keys())
