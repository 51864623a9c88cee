"""Options of the environments that may ask the problems of a user's file."""

from dataclasses import dataclass

from trm_envs.answer_forms import ANSWER_FORMS, BOX, own_form
from trm_envs.options import check_choice
from trm_envs.python_tool import SandboxOptions
from trm_envs.rows.options import REFUSE, check_row_options


@dataclass(frozen=True)
class RowOptions(SandboxOptions):
    """Options of an environment that may ask the problems of a file.

    Raises:
        ValueError: if a value is not allowed.
    """

    rows: str = ""
    """A .jsonl, .json or .parquet file of problems; empty: generated ones."""
    unscorable: str = REFUSE
    """Rows of the file that cannot be scored: "refuse" the file, or "drop" them; how many is said."""
    rows_hash: str = ""
    """Required hash of the file's problems, as config.yaml has it; empty: any."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_row_options(self.rows, None, self.split, 1, self.unscorable, self.rows_hash)


@dataclass(frozen=True)
class MathRowOptions(RowOptions):
    """Options of an environment that may ask the math problems of a file.

    Raises:
        ValueError: if a value is not allowed.
    """

    answer_form: str = BOX
    r"""Form of an answer: "box" (`\boxed{...}`; with protocol "tags" its own tag), "tag" (`<answer>`), "line" (a
    last line `Answer: ...`) or "hashes" (a last line `#### ...`). The file's prompts must ask for the same form."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("answer_form", self.answer_form, ANSWER_FORMS)

    @property
    def read_form(self) -> str:
        """The form that is read: that of the protocol itself where the option is "box"."""
        return own_form(self.turn_protocol) if self.answer_form == BOX else self.answer_form
