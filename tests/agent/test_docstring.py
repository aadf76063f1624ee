"""What models get to read of a docstring."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from definable.agent.tools.docstring import parse_docstring

GOOGLE = """Find flights between two airports.

    Only direct ones, cheapest first.

    Args:
        origin: IATA code, such as `OSL`.
        destination (str, optional): Where to; a code: like `JFK`,
            or a city's name.

            Or a country's.
        *dates: Never seen by a model.
        limit (Annotated[int, Field(ge=1)]): At most
          so many.

    Returns:
        flights: The flights.

    Raises:
        ValueError: No such airport.
    """

NUMPY = """
    Find flights between two airports.

    Only direct ones, cheapest first.

    Parameters
    ----------
    origin : str
        IATA code, such as `OSL`.
    destination : {"JFK", "LHR"}, optional
        Where to; a code: like `JFK`,
        or a city's name.

        Or a country's.
    limit, offset : int
        At most
        so many.

    Returns
    -------
    flights : list
        The flights.
    """

REST = """Find flights between two airports.

    Only direct ones, cheapest first.

    :param origin: IATA code, such as `OSL`.
    :type origin: str
    :param str destination: Where to; a code: like `JFK`,
        or a city's name.
        Or a country's.
    :param limit:
        At most
        so many.
    :param list[int] offset: At most so many.
    :returns: The flights.
    :raises ValueError: No such airport.
    """


@pytest.mark.parametrize("text", [GOOGLE, NUMPY, REST], ids=["google", "numpy", "rest"])
def test_every_style_is_taken_apart(text: str) -> None:
    docstring = parse_docstring(text)
    assert docstring.description == "Find flights between two airports.\n\nOnly direct ones, cheapest first."
    assert docstring.parameters["origin"] == "IATA code, such as `OSL`."
    assert docstring.parameters["destination"] == "Where to; a code: like `JFK`, or a city's name. Or a country's."
    assert docstring.parameters["limit"] == "At most so many."
    assert docstring.parameters.keys() <= {"origin", "destination", "limit", "offset", "dates"}


def test_numpy_names_may_share_a_description() -> None:
    assert parse_docstring(NUMPY).parameters["offset"] == "At most so many."


@pytest.mark.parametrize("header", ["Args", "Arguments", "Parameters", "Params", "Keyword Args", "args"])
def test_google_headers_have_many_names(header: str) -> None:
    assert parse_docstring(f"Do.\n\n{header}:\n    x: The x.").parameters == {"x": "The x."}


@pytest.mark.parametrize("field", ["param", "parameter", "arg", "argument", "key", "keyword"])
def test_rest_fields_have_many_names(field: str) -> None:
    assert parse_docstring(f"Do.\n\n:{field} x: The x.").parameters == {"x": "The x."}


@pytest.mark.parametrize("text", [None, "", "   ", "\n\n"])
def test_no_docstring_says_nothing(text: str | None) -> None:
    docstring = parse_docstring(text)
    assert (docstring.description, docstring.parameters) == ("", {})


@pytest.mark.parametrize(
    "text",
    [
        "Answer questions: who, when and where.",
        "Args:",
        "Args: none of them",
        "Takes\nParameters:\nnot indented",
        "Summary.\n\nNote:\n    This is part of the description.",
        "See :class:`Flight` for more.",
        "Title\n=====\n\nA heading of another kind.",
    ],
)
def test_what_only_resembles_a_section_is_description(text: str) -> None:
    docstring = parse_docstring(text)
    assert (docstring.description, docstring.parameters) == (text, {})


def test_sections_without_parameters_end_the_description() -> None:
    assert parse_docstring("Add.\n\nReturns:\n    The sum.").description == "Add."
    assert parse_docstring("Add.\n\nReturns\n-------\nint\n    The sum.").description == "Add."
    assert parse_docstring("Add.\n\n:return: The sum.").description == "Add."


def test_entries_below_another_section_are_no_parameters() -> None:
    text = "Add.\n\nReturns:\n    total: The sum.\n\nArgs:\n    a: One."
    assert parse_docstring(text).parameters == {"a": "One."}


def test_an_entry_without_words_is_left_out() -> None:
    assert parse_docstring("Add.\n\nArgs:\n    a:\n    b: Two.").parameters == {"b": "Two."}


def test_lines_that_are_no_entry_go_on_with_the_one_before() -> None:
    assert parse_docstring("Add.\n\nArgs:\n    a: One\n    and more\n").parameters == {"a": "One and more"}


HEADERS = ["Args:", "Returns:", "Parameters", "----------", ":param x: y", ":param"]
ENTRIES = ["x: y", "x (int): y", "x : int", "*a: b", "    x: y", "a, b : int", "é (ü): ß"]
NOISE = ["", "   ", "\t", "  (", ":", "::", "- item", "\x0c", "\u2028"]
PIECES = st.sampled_from([*HEADERS, *ENTRIES, *NOISE])


@given(st.one_of(st.text(), st.lists(PIECES | st.text(max_size=8)).map("\n".join)))
def test_no_text_makes_it_raise(text: str) -> None:
    docstring = parse_docstring(text)
    assert all(name.isidentifier() or name.replace("_", "a").isalnum() for name in docstring.parameters)
    assert all(value and "\n" not in value for value in docstring.parameters.values())


names = st.from_regex(r"[a-z][a-z_0-9]{0,8}", fullmatch=True)
words = st.from_regex(r"[A-Za-z]+( [A-Za-z,.]+){0,5}", fullmatch=True)


@given(summary=words, parameters=st.dictionaries(names, words, min_size=1), style=st.sampled_from("gnr"))
def test_what_was_written_is_read_back(summary: str, parameters: dict[str, str], style: str) -> None:
    match style:
        case "g":
            section = ["Args:", *(f"    {name}: {text}" for name, text in parameters.items())]
        case "n":
            section = ["Parameters", "----------", *(f"{n} : int\n    {t}" for n, t in parameters.items())]
        case _:
            section = [f":param {name}: {text}" for name, text in parameters.items()]
    docstring = parse_docstring("\n".join([summary, "", *section]))
    assert docstring.description == summary
    assert docstring.parameters == parameters


def test_a_long_hostile_text_is_read_quickly() -> None:
    parse_docstring("Args:\n    " + "x (" * 3_000 + "\n" + ":param " * 3_000)
