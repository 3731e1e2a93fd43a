"""What a person did, told apart from what went wrong in the code."""


class UserError(ValueError):
    """Something that a person gave or did, in one sentence: what was given, and what is allowed.

    It is shown as that sentence. Any other error is a fault of ours and keeps its traceback.
    """
