"""Solutions mean the same however they are joined, and inequalities are what they hold of."""

import pytest

from answers import equivalent
from answers.keys import compare
from answers.same import Same
from answers.solutions import solutions


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (r"t\in\{4,-7\}", "t=4 or t=-7", True),
        (r"t\in\{4,-7\}", r"\{-7,4\}", True),
        (r"t\in\{4,-7\}", "t=4,-7", True),
        (r"t\in\{4,-7\}", "t=4, -6", False),
        (r"t\in\{4,-7\}", "(4,-7)", False),
        (r"t\in\{4\}", "4", True),
        (r"\{4\}", "4", True),
        (r"\{4\}", "5", False),
        (r"\{4, 4, 9\}", "4, 9", True),
        ("4, 4, 9", "4, 9", False),
        (r"x=4 \lor x=-7", "x=-7 or x=4", True),
        (r"x=4 \vee x=-7", r"\{4,-7\}", True),
        (r"\pm 6", "6, -6", True),
        (r"x = \pm 6", r"x \in \{-6, 6\}", True),
        (r"\pm 6", "6", False),
        (r"7\pm 2", "9, 5", True),  # not the range 7-2
        (r"\frac{3\pm 5}{2}", "4, -1", True),
        (r"(\pm 3, 2)", "(3,2), (-3,2)", True),
        (r"7\pm 2", "9, 6", False),
        (r"4\pm\sqrt{7}", r"4+\sqrt{7}, 4-\sqrt{7}", True),
        (r"\{4\pm\sqrt{7}\}", r"x=4-\sqrt{7} or x=4+\sqrt{7}", True),
        (r"\{1\} \cup \{2, 3\}", r"\{1, 2, 3\}", True),
        (r"(x,y) \in \{(1,4),(4,1)\}", "(4,1), (1,4)", True),
        ("x_1 = 4, x_2 = 9", r"x \in \{9, 4\}", True),
        ("11 and -11", r"x = -11 \lor x = 11", True),
    ],
)
def test_solutions_have_no_order_and_any_joint(a, b, same):
    assert equivalent(a, b) == equivalent(b, a) == same


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("PQ = 8, RS = 6", "PQ = 6, RS = 8"),
        ("PQ = 8 cm and RS = 6 cm", "PQ = 6 cm and RS = 8 cm"),
        ("∠P = 30°, ∠Q = 50°", "∠P = 50°, ∠Q = 30°"),
        ("mean = 8, mode = 6", "mean = 6, mode = 8"),
        ("mean: 8, mode: 6", "mean: 6, mode: 8"),
        ("the base is 8, the height is 6", "the base is 6, the height is 8"),
        ("a_1 = 8, a_2 = 6", "a_1 = 6, a_2 = 8"),
        ("v_1 = 8 m/s, v_2 = 6 m/s", "v_1 = 6 m/s, v_2 = 8 m/s"),
        ("P(1,2), Q(3,4)", "P(3,4), Q(1,2)"),
        ("(A) 8, (B) 6", "(A) 6, (B) 8"),
        ("A. Oslo, B. Rome", "A. Rome, B. Oslo"),
        ("P(A) = 0.8, P(B) = 0.6", "P(A) = 0.6, P(B) = 0.8"),
        ("x_max = 8, x_min = 6", "x_max = 6, x_min = 8"),
        ("x_A = 8, x_B = 6", "x_A = 6, x_B = 8"),
        ("(a) 8, (b) 6", "(a) 6, (b) 8"),
        ("(1) 8; (2) 6", "(1) 6; (2) 8"),
        ("(i) 8, (ii) 6", "(i) 6, (ii) 8"),
    ],
)
def test_what_has_a_name_keeps_it_in_a_list(a, b):
    assert compare(a, b) == compare(b, a) == Same.NO


@pytest.mark.parametrize("a", ["PQ = 8, RS = 6", "∠P = 30°, ∠Q = 50°", "mean: 8, mode: 6", "(A) 8, (B) 6"])
def test_names_in_a_list_have_no_order(a):
    first, second = a.split(", ")
    assert compare(a, f"{second}, {first}") == compare(a, f"{first} and {second}") == Same.YES


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (r"p \land q", r"p \lor q", False),
        (r"\neg p \land q", r"\neg p \lor q", False),
        (r"p \land q", r"q \wedge p", True),
        ("B and D", "B or D", False),
        ("B, D", "B or D", False),
        ("I, III", "I or III", False),
        ("B, D", "(B) and (D)", True),
        ("x=1 and x=2", "x=1 or x=2", True),
        ("1 and 2", "1 or 2", True),
    ],
)
def test_both_is_not_either(a, b, same):
    assert equivalent(a, b) == equivalent(b, a) == same


@pytest.mark.parametrize(
    ("a", "b", "agreement"),
    [
        ("x=8, y=6", "y=6, x=8", Same.YES),
        ("(x,y)=(8,6)", "x=8, y=6", Same.FORGIVEN),  # the key drops the names
        ("(x,y)=(8,6)", "(8,6)", Same.YES),
        ("x=8, y=6", "(8,6)", Same.FORGIVEN),
        ("y=6, x=8", "(8,6)", Same.FORGIVEN),
        ("x=8, y=6", "(6,8)", Same.NO),
        ("x=8, y=6", "x=6, y=8", Same.NO),
        ("x=8, x=6", "(8,6)", Same.NO),
        ("x=8, y=6 or x=6, y=8", "(6,8), (8,6)", Same.YES),
        ("x=8, y=6 or y=8, x=6", r"\{(6,8), (8,6)\}", Same.YES),
        ("y=1, x=8 or y=2, x=6", "(8,1), (6,2)", Same.YES),
        ("(x,y)=(8,6) or (x,y)=(6,8)", "(8,6), (6,8)", Same.YES),
        ("(x,y)=(8,6) or (x,y)=(6,8)", "(x,y)=(8,8) or (x,y)=(6,6)", Same.NO),
        ("x=8, y=6 or x=6, y=8", "x=8, y=8 or x=6, y=6", Same.NO),
        (r"(x,y)=(\pm 8, 6)", "(8,6), (-8,6)", Same.YES),
        ("x=8, y=6", "[8,6]", Same.NO),
        ("PQ=8, RS=6", "8, 6", Same.FORGIVEN),
        ("PQ=8, RS=6", "6, 8", Same.NO),
        ("mean: 8, mode: 6", "8, 6", Same.FORGIVEN),
        ("x=8, y=6, z=1", "(8,6)", Same.NO),
    ],
)
def test_a_tuple_is_what_its_names_are(a, b, agreement):
    assert compare(a, b) == compare(b, a) == agreement


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("7 < x", "x > 7", True),
        ("7 < x", "x < 7", False),
        ("9 >= x > 4", r"4 < x \leq 9", True),
        ("9 >= x > 4", "(4,9]", True),
        ("9 >= x > 4", "[4,9)", False),
        ("x>4 and x<=9", "(4,9]", True),
        ("x>4, x<=9", "(4,9]", True),
        ("x>4 or x<=9", "(4,9]", False),
        ("x<4 and x>9", r"(-\infty,4)\cup(9,\infty)", True),
        ("x<4 or x>9", r"(9,\infty)\cup(-\infty,4)", True),
        (r"x<4 \lor x>9", r"x \in (-\infty,4)\cup(9,\infty)", True),
        ("x<4 or x>9", r"(-\infty,4]\cup[9,\infty)", False),
        ("(1,4), (5,9)", r"(1,4)\cup(5,9)", False),
        ("|x|<4", "(-4,4)", True),
        (r"|x| \geq 4", r"x \leq -4 or x \geq 4", True),
        ("|x-3|<2", "1<x<5", True),
        ("2>|x+3|", "(-5,-1)", True),
        ("|x|<-4", "(4,-4)", False),
        ("x > y", "y < x", True),
        ("x > y", "y > x", False),
        (r"x+y \leq 8", r"8 \geq y+x", True),
        ("y > 2x-3", "2x-y-3 < 0", True),
        ("y > 2x-3", "2x-y-3 > 0", False),
        ("x>4, y<9", "y<9, x>4", True),
        ("x>4, y<9", "y>4, x<9", False),
        (r"\{x | x > 7\}", r"(7,\infty)", True),
        (r"\{x \in \mathbb{R} : x \neq 7\}", r"x \neq 7", True),
    ],
)
def test_inequalities_are_their_intervals(a, b, same):
    assert equivalent(a, b) == equivalent(b, a) == same


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (r"x \neq -9", r"(-\infty,-9)\cup(-9,\infty)", True),
        (r"x \neq -9", r"\mathbb{R}\setminus\{-9\}", True),
        (r"x \neq -9", r"x \in \mathbb{R}, x \ne -9", True),
        (r"x \neq -9", "x<-9 or x>-9", True),
        (r"\mathbb{R}\setminus\{-9\}", r"(-9,\infty)\cup(-\infty,-9)", True),
        (r"\mathbb{R} - \{1, 4\}", r"(-\infty,1)\cup(1,4)\cup(4,\infty)", True),
        (r"x \neq 1, 4", r"\mathbb{R}\setminus\{4,1\}", True),
        (r"x \neq 1, x \neq 4", r"x \ne 4 and x \ne 1", True),
        (r"x \neq 9", r"x \neq -9", False),
        (r"x \neq 9", "x = 9", False),
        (r"x \neq 9", "9", False),
        (r"\mathbb{R}\setminus\{9\}", r"\mathbb{R}", False),
        (r"\mathbb{R}\setminus\{-9\}", r"(-\infty,-9)\cup(9,\infty)", False),
        (r"x \neq 9", r"(-\infty,9]\cup[9,\infty)", False),
        (r"x \neq 1, 4", r"(-\infty,1)\cup(4,\infty)", False),
        (r"x \neq 1", r"(-\infty,1)\cup(1,\infty)\cup(0,2)", False),
        (r"x \in \mathbb{R}", r"(-\infty,\infty)", True),
    ],
)
def test_what_is_left_out_is_compared(a, b, same):
    assert equivalent(a, b) == equivalent(b, a) == same


def test_solutions_can_be_read():
    assert solutions("x = 4 or x = ±3") == (
        ("", "4"),
        ("", "+3"),
        ("", "-3"),
    )
    assert solutions("(x, y) = (8, 6)") == (
        ("x", "8"),
        ("y", "6"),
    )
    assert solutions("x ≠ 4") == (("≠", "4"),)
    assert solutions("⦃1}+{2⦄") == (("", "⦃1}+{2⦄"),)
