"""What the error bounds accept: Python numbers or tensors, checked, in float64 and of one shape."""

import math
from numbers import Real

import torch

Numbers = float | torch.Tensor


def as_float64(**values: Numbers) -> list[torch.Tensor]:
    """Check, convert and broadcast. No gradient flows into a bound.

    Args:
        values: name -> Python number or real tensor of shape () or (batch,), all tensors on one device. The name says
            what is allowed: `horizon` is whole, `..._tv` and `..._share` are at most 1 (a tensor may round above it),
            all are 0 or more.

    Returns:
        Float64 tensors of one shape, in the order of the arguments. NaN stays NaN, and what is not allowed in a tensor
        becomes NaN: values are looked at without a host synchronisation.

    Raises:
        ValueError: a Python number is not allowed, a tensor is not real or has more dimensions, or shapes differ.
    """
    device = next((value.device for value in values.values() if isinstance(value, torch.Tensor)), None)
    tensors = [_checked(name, value, device) for name, value in values.items()]
    try:
        return list(torch.broadcast_tensors(*tensors))
    except RuntimeError:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in zip(values, tensors, strict=True))
        raise ValueError(f"{shapes}: do not broadcast; allowed: () or one (batch,) for all; give one shape") from None


def _checked(name: str, value: Numbers, device: torch.device | None) -> torch.Tensor:
    whole = name == "horizon"
    if isinstance(value, torch.Tensor):
        if value.ndim > 1 or value.dtype == torch.bool or value.is_complex():
            raise ValueError(
                f"{name}: got {value.dtype} of shape {tuple(value.shape)}; allowed: real numbers of shape () or "
                "(batch,); give one value for all or one a sequence"
            )
        tensor = value.detach().double()
        return torch.where((tensor >= 0) & (tensor == tensor.floor()) if whole else tensor >= 0, tensor, torch.nan)
    upper = 1.0 if name.endswith(("_tv", "_share")) else math.inf
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    # "below or above" and not "inside": NaN must pass and reach the result
    if not is_number or value < 0 or value > upper or (whole and not float(value).is_integer()):
        if whole:
            allowed = "a whole number of 0 or more; count the tokens of the model"
        elif upper == 1.0:
            allowed = "0 to 1; a total-variation distance is half the L1 distance, a share a part of one"
        else:
            allowed = "0 or more; give a divergence, a KL in nats"
        raise ValueError(f"{name}: got {value!r}; allowed: {allowed}")
    return torch.tensor(value, dtype=torch.float64, device=device)
