"""What is not the policy's doing: an episode that ends so has no reward and belongs to no loss."""


class InfrastructureError(RuntimeError):
    """Something around the environment failed, such as a sandbox; the message says what and what to do."""


class VerifierError(InfrastructureError):
    """The scorer could not decide: neither right nor wrong."""
