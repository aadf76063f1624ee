"""Which places of a module are not mutated."""

import pytest

from .exclusions import excluded


@pytest.mark.parametrize(
    "source",
    [
        "x: §int | None§ = 1 + 2",
        "Text: TypeAlias = §str | None§",
        "def f(a: §int | None§) -> §str | None§:\n    return a + 1",
        "async def f(§*§, a: §int | None§ = 1 + 1):\n    pass",
        "§if TYPE_CHECKING:\n    X = 1 + 1§\nY = 2",
        "if x > 1:\n    §logger.info('%d', x + 1)§",
        "@dataclass(§frozen=True§, §slots=True§)\nclass C:\n    x: §int§ = 1",
        "class P(Protocol):\n    §@property\n    def x(self): ...§",
        "é = 'é'; x: §int | None§ = 1",
        "def f(a, §/§, b, §*§, c=2 * 3, **d):\n    return a * b",
        "class C(ABC):\n    §@property\n    @abstractmethod\n    def x(self) -> int: ...§",
        "x = logger.info(1 + 1)",
        "@property\ndef f(self):\n    return 1",
    ],
)
def test_what_is_for_readers_and_type_checkers_is_left_out(source: str) -> None:
    expected, plain = source.split("§")[1::2], source.replace("§", "")
    lines = plain.splitlines(keepends=True)

    def offset(position: tuple[int, int]) -> int:
        return sum(map(len, lines[: position[0] - 1])) + position[1]

    found = {plain[offset(span.start) : offset(span.end)].strip() for span in excluded(plain)}
    # What is inside of an excluded place may be named again.
    assert {text for text in found if not any(text in other and text != other for other in found)} == set(expected)
