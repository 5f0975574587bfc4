"""Answers of several parts are compared part by part, each kind in its own way."""

import pytest

from answers import equivalent
from answers.keys import compare
from answers.same import Same


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("1 : √5", r"1:\sqrt{5}", True),
        ("1:√5", "√5:5", True),
        ("1:√5", "√5:1", False),
        ("1:√5", "1:2.236067977", False),
        ("0.2:1", "1:5", True),
        (r"4\sqrt{3}:6", r"2\sqrt{3}:3", True),
        (r"\frac{1}{4}:\frac{1}{6}", "3:2", True),
        ("7:3", r"\frac{7}{3}", True),
        ("7:3", r"\frac{3}{7}", False),
        ("14:6", r"2\frac{1}{3}", True),
        ("8:2", "4", True),
        ("2:3:7", "4:6:14", True),
        ("2:3:7", "4:6:15", False),
        ("2:3:7", "2:3", False),
        ("2:3:7", r"\frac{2}{3}", False),
        ("0:1:2", "0:2:1", False),
        ("0:0", "1:2", False),
        ("7:12", "14:24", True),
        ("a:2b", "2a:4b", True),
        ("a:b", "b:a", False),
        ("5:35", "5:35 pm", True),
        ("5:35 am", "5:35 pm", False),
        ("05:35", "5:35", True),
        ("1:05", "1:5", False),
        ("2:06 pm", "1:03 pm", False),
    ],
)
def test_ratios_are_reduced_and_times_are_not(a, b, same):
    assert equivalent(a, b) == equivalent(b, a) == same


COLUMN = r"\begin{pmatrix} 4 \\ \frac{1}{2} \\ -1 \end{pmatrix}"
ROW = r"\begin{bmatrix} 4 & 0.5 & -1 \end{bmatrix}"
SQUARE = r"\begin{bmatrix} 1 & 5 \\ 0 & 2 \end{bmatrix}"


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (r"\langle 4, 0.5, -1 \rangle", "(4, 1/2, -1)", True),
        (COLUMN, "(4, 0.5, -1)", True),
        (COLUMN, r"\langle 4, 0.5, -1 \rangle", True),
        (ROW, "(4, 0.5, -1)", True),
        (COLUMN, ROW, False),
        (COLUMN, ROW + "^T", True),
        (COLUMN, "(4, 0.5, -1)^T", True),
        (COLUMN, "(-1, 0.5, 4)", False),
        (COLUMN, "[4, 0.5, -1]", False),
        (COLUMN, "4, 0.5, -1", False),
        ("P(4, 1)", r"\langle 4, 1 \rangle", True),
        (r"\langle 4, 1 \rangle", "[4, 1]", False),
        (SQUARE, r"\begin{pmatrix} 1 & 5 \\ 0 & 2 \\ \end{pmatrix}", True),
        (SQUARE, r"\left(\begin{array}{cc} 1 & 5 \\ 0 & 2 \end{array}\right)", True),
        (SQUARE, r"\begin{matrix} 1 & 5 \\[4pt] 0 & \sqrt{4} \end{matrix}", True),
        (SQUARE, r"\begin{pmatrix} 1 & 0 \\ 5 & 2 \end{pmatrix}", False),
        (SQUARE, r"\begin{vmatrix} 1 & 5 \\ 0 & 2 \end{vmatrix}", False),
        (SQUARE, r"\left|\begin{array}{cc} 1 & 5 \\ 0 & 2 \end{array}\right|", False),
        (SQUARE, r"\frac{1}{2}\begin{pmatrix} 2 & 10 \\ 0 & 4 \end{pmatrix}", True),
        (SQUARE, r"-\begin{pmatrix} -1 & -5 \\ 0 & -2 \end{pmatrix}", True),
        (SQUARE, r"2\begin{pmatrix} 1 & 5 \\ 0 & 2 \end{pmatrix}", False),
        (SQUARE, "(1, 5, 0, 2)", False),
        (SQUARE, r"\begin{pmatrix} 1 & 0 \\ 5 & 2 \end{pmatrix}^T", True),
    ],
)
def test_vectors_and_matrices_are_compared_by_entry(a, b, same):
    assert equivalent(a, b) == equivalent(b, a) == same


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (r"\angle KLM", r"\angle MLK", True),
        (r"\angle KLM", r"\angle LKM", False),
        (r"KL \parallel MN", "KL∥MN", True),
        (r"KL \parallel MN", r"NM \parallel LK", True),
        (r"KL \parallel MN", r"KL \perp MN", False),
        (r"KL \perp MN", r"KM \perp LN", False),
        (r"l \perp m", "m⊥l", True),
        (r"\triangle KLM \cong \triangle PQR", r"\triangle PQR \cong \triangle KLM", True),
        (r"\triangle KLM \cong \triangle PQR", r"\triangle LKM \cong \triangle QPR", True),
        (r"\triangle KLM \cong \triangle PQR", r"\triangle KLM \cong \triangle QPR", False),
        (r"\triangle KLM \cong \triangle PQR", r"\triangle KLM \sim \triangle PQR", False),
    ],
)
def test_figures_have_no_order_where_geometry_has_none(a, b, same):
    assert equivalent(a, b) == equivalent(b, a) == same


def test_what_one_side_leaves_out_is_forgiven():
    assert compare("5:35", "5:35 pm") == Same.FORGIVEN
    assert compare("4:6", "2:3") == Same.YES
