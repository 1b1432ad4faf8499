"""What errors quote can be printed by every console, and is otherwise as it was."""

import traceback

import pytest
from stylediffusion_pack.stylediffusion.prompts import quoting

TIGER = "\u0442\u0438\u0433\u0440"


@pytest.mark.parametrize(("text", "encoding", "wanted"), [
    ("a cat", "ascii", "a cat"), (f"a {TIGER}", "utf-8", f"a {TIGER}"),
    (f"a {TIGER}", "cp1252", r"a \u0442\u0438\u0433\u0440"), (f"a {TIGER}", "cp1251", f"a {TIGER}"),
    ("caf\u00e9", "cp1252", "caf\u00e9"), ("caf\u00e9", "ascii", r"caf\xe9"),
    ("a\ud800b", "utf-8", r"a\ud800b"), ("a\udcffb", "cp1252", r"a\udcffb"),
    ("\U0001f431", "utf-8", "\U0001f431"), ("\U0001f431", "cp1252", r"\U0001f431"),
])
def test_only_what_an_encoding_cannot_write_is_escaped(
    text: str, encoding: str, wanted: str
) -> None:
    assert quoting.quoted(text, encoding) == wanted


def raised(again: bool) -> BaseException:
    """An error about a name, from one of the system's, while another was handled."""
    try:
        try:
            try:
                raise KeyError(TIGER)
            except KeyError:
                raise FileNotFoundError(2, "no such file", f"{TIGER}\ud800", None, TIGER) from None
        except OSError as error:
            raise ValueError(f"'{TIGER}\ud800' is gone") from (error if again else None)
    except ValueError as error:
        return error


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_an_error_can_be_printed_with_all_that_it_came_from(encoding: str, again: bool) -> None:
    error = raised(again)
    with pytest.raises(UnicodeEncodeError):
        "".join(traceback.format_exception(error)).encode(encoding)
    quoting.quote_error(error, encoding)
    said = "".join(traceback.format_exception(error))
    said.encode(encoding)
    assert "is gone" in str(error) and r"\ud800" in str(error)
    assert ("no such file" in said) == again


def test_what_is_no_text_in_an_error_stays() -> None:
    error = ValueError(f"{TIGER} is", 7, None)
    quoting.quote_error(error, "ascii")
    assert error.args == (r"\u0442\u0438\u0433\u0440 is", 7, None)


def test_an_error_that_comes_from_itself_is_quoted_once() -> None:
    first, second = ValueError(TIGER), ValueError("\\" + TIGER)
    first.__context__, second.__context__ = second, first
    quoting.quote_error(first, "ascii")
    assert str(second) == "\\" + r"\u0442\u0438\u0433\u0440"
